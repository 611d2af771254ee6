//! Formats one event as one line of JSON.
//!
//! The formatter of `tracing-subscriber` would take a tenth of the total cost of a small request,
//! and every request logs a line. This one writes the same keys in the same order, faster.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Formats events. Fields of spans must be JSON objects already.
#[derive(Debug)]
pub(super) struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // Events from the `log` crate name their library, not the bridge between the two.
        let logged = event.normalized_metadata();
        let about = logged.as_ref().unwrap_or_else(|| event.metadata());
        out.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut out)?;
        out.write_str("\",\"level\":\"")?;
        out.write_str(about.level().as_str())?;
        out.write_char('"')?;
        let mut fields = FieldVisitor { out, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        let mut out = fields.out;
        out.write_str(",\"target\":")?;
        text(&mut out, about.target())?;
        if let Some(span) = ctx.lookup_current()
            && let Some(of_span) = span.extensions().get::<FormattedFields<N>>()
        {
            out.write_str(",\"span\":")?;
            out.write_str(&of_span.fields)?;
        }
        out.write_str("}\n")
    }
}

struct FieldVisitor<'a> {
    out: Writer<'a>,
    result: fmt::Result,
}

impl FieldVisitor<'_> {
    fn field(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        // `log.` fields are already in the metadata.
        if self.result.is_ok() && !field.name().starts_with("log.") {
            self.result = (|| {
                self.out.write_str(",\"")?;
                // A Rust field name needs no escapes.
                self.out.write_str(field.name())?;
                self.out.write_str("\":")?;
                value(&mut self.out)
            })();
        }
    }
}

impl Visit for FieldVisitor<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, |out| text(out, value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.field(field, |out| out.write_str(itoa::Buffer::new().format(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.field(field, |out| out.write_str(itoa::Buffer::new().format(value)));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.field(field, |out| out.write_str(if value { "true" } else { "false" }));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // As in `serde_json`: NaN and infinity are `null`, and a whole number keeps its `.0`.
        self.field(
            field,
            |out| if value.is_finite() { write!(out, "{value:?}") } else { out.write_str("null") },
        );
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.field(field, |out| {
            out.write_char('"')?;
            write!(Escaped(out), "{value:?}")?;
            out.write_char('"')
        });
    }
}

/// Writes a string with its quotes.
fn text(out: &mut Writer<'_>, text: &str) -> fmt::Result {
    out.write_char('"')?;
    Escaped(out).write_str(text)?;
    out.write_char('"')
}

/// Escapes text inside the quotes of a string.
struct Escaped<'w, 'a>(&'w mut Writer<'a>);

impl Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)) {
            // Cut at ASCII characters only.
            let (plain, from) = rest.split_at(at);
            let (special, after) = from.split_at(1);
            self.0.write_str(plain)?;
            match special {
                "\"" => self.0.write_str("\\\"")?,
                "\\" => self.0.write_str("\\\\")?,
                "\n" => self.0.write_str("\\n")?,
                "\r" => self.0.write_str("\\r")?,
                "\t" => self.0.write_str("\\t")?,
                _ => write!(self.0, "\\u{:04x}", special.as_bytes().first().copied().unwrap_or(0))?,
            }
            rest = after;
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use serde_json::Value;
    use tracing_subscriber::fmt::format::JsonFields;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(say: impl Fn()) -> [Vec<Value>; 2] {
        [true, false].map(|ours| {
            let kept = Kept::default();
            let writer = kept.clone();
            let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
            let registry = tracing_subscriber::registry();
            if ours {
                let layer = layer.fmt_fields(JsonFields::new()).event_format(JsonLine);
                tracing::subscriber::with_default(registry.with(layer), &say);
            } else {
                tracing::subscriber::with_default(registry.with(layer.json().flatten_event(true)), &say);
            }
            let text = String::from_utf8(kept.0.lock().clone()).unwrap();
            text.lines()
                .map(|line| {
                    let mut line: Value =
                        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                    // Timestamps differ. Only the other formatter names spans and lists them all.
                    line["timestamp"].take();
                    line.as_object_mut().unwrap().remove("spans");
                    if let Some(span) = line.get_mut("span").and_then(Value::as_object_mut) {
                        span.remove("name");
                    }
                    line
                })
                .collect()
        })
    }

    #[test]
    fn a_line_of_a_library_that_logs_otherwise_names_the_library() {
        tracing_log::LogTracer::init().unwrap();
        let [ours, _] = lines(|| log::warn!(target: "a::library", "said {}", 1));
        let expected = serde_json::json!({
            "timestamp": null, "level": "WARN", "message": "said 1", "target": "a::library"
        });
        assert_eq!(ours, [expected]);
    }

    #[test]
    fn a_line_says_what_the_usual_formatter_says() {
        let [ours, theirs] = lines(|| {
            tracing::info!(
                model = "a \"b\" \\ \n\r\t\u{1}\u{1f} ä\u{2028}😀",
                none = None::<u64>,
                some = Some(7_u64),
                least = i64::MIN,
                most = u64::MAX,
                whole = 2.0,
                part = 95.515,
                small = 1e-7,
                nothing = f64::NAN,
                yes = true,
                told = %"x\ny",
                debug = ?["a\"b"],
                "said {}\t\"{}\"",
                1,
                2
            );
            let _span = tracing::info_span!("request", id = "r\"1", n = 3).entered();
            tracing::warn!(error = &io::Error::other("bro\\ken") as &dyn std::error::Error, "within");
        });
        assert_eq!(ours, theirs);
        assert_eq!((ours.len(), ours[1]["span"]["id"].as_str()), (2, Some("r\"1")));
    }
}
