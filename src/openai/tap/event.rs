//! What one event of a stream says.

use super::usage::Usage;
use crate::openai::scan::{Flaw, Scanner};

/// What one event says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Deltas that bear content.
    pub(super) deltas: u64,
    /// Choices that it ends.
    pub(super) finished: u32,
    /// The usage it reports.
    pub(super) usage: Option<Usage>,
    /// It reports an error.
    pub(super) error: bool,
    /// It ends the stream.
    pub(super) done: bool,
}

impl Event {
    /// Data in a language we do not speak: each is one token.
    pub(super) const UNKNOWN: Self = Self { deltas: 1, finished: 0, usage: None, error: false, done: false };

    /// Reads an event's data. `None` when it starts as an object that ends too early.
    pub(super) fn read(data: &[u8]) -> Option<Self> {
        match data.trim_ascii() {
            b"" => Some(Self::default()),
            b"[DONE]" => Some(Self { done: true, ..Self::default() }),
            [b'{', ..] => match Reading::of(data) {
                Ok(event) => Some(event),
                Err(Flaw::End) => None,
                Err(_) => Some(Self::UNKNOWN),
            },
            _ => Some(Self::UNKNOWN),
        }
    }
}

/// The members of an event that say something, in whatever order they come.
#[derive(Debug, Default)]
struct Reading<'a> {
    event: Event,
    has_choices: bool,
    kind: &'a [u8],
    has_delta: bool,
}

impl<'a> Reading<'a> {
    fn of(data: &'a [u8]) -> Result<Event, Flaw> {
        let mut reading = Self::default();
        let mut scanner = Scanner::new(data);
        scanner.object::<Flaw>(|scanner, key| {
            match key.raw {
                b"choices" => reading.choices(scanner)?,
                b"usage" => reading.event.usage = Usage::read(scanner)?.or(reading.event.usage),
                b"type" => reading.kind = string(scanner)?,
                b"delta" => reading.has_delta = is_full(scanner)?,
                b"response" => reading.response(scanner)?,
                b"error" => {
                    reading.event.error |= scanner.peek()? != b'n';
                    scanner.skip()?;
                }
                b"object" => reading.event.error |= string(scanner)? == b"error",
                _ => scanner.skip()?,
            }
            Ok(())
        })?;
        scanner.finish()?;
        Ok(reading.finish())
    }

    /// Chat and completions: one delta for each choice that has content.
    fn choices(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Flaw> {
        self.has_choices = true;
        if scanner.peek()? != b'[' {
            return scanner.skip();
        }
        scanner.array(|scanner| {
            if scanner.peek()? != b'{' {
                return scanner.skip();
            }
            let (mut full, mut finished) = (false, false);
            scanner.object::<Flaw>(|scanner, key| {
                match key.raw {
                    b"text" => full |= is_full(scanner)?,
                    b"finish_reason" => {
                        finished |= scanner.peek()? == b'"';
                        scanner.skip()?;
                    }
                    b"delta" if scanner.peek()? == b'{' => scanner.object::<Flaw>(|scanner, key| {
                        match key.raw {
                            b"content" | b"reasoning" | b"reasoning_content" | b"refusal" | b"tool_calls"
                            | b"function_call" => full |= is_full(scanner)?,
                            _ => scanner.skip()?,
                        }
                        Ok(())
                    })?,
                    _ => scanner.skip()?,
                }
                Ok(())
            })?;
            self.event.deltas += u64::from(full);
            self.event.finished += u32::from(finished);
            Ok(())
        })
    }

    /// The response so far, in an event of the Responses API.
    fn response(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Flaw> {
        if scanner.peek()? != b'{' {
            return scanner.skip();
        }
        scanner.object(|scanner, key| match key.raw {
            b"usage" => {
                self.event.usage = Usage::read(scanner)?.or(self.event.usage);
                Ok(())
            }
            _ => scanner.skip(),
        })
    }

    fn finish(self) -> Event {
        let mut event = self.event;
        if self.kind.starts_with(b"response.") {
            event.deltas += u64::from(self.has_delta && self.kind.ends_with(b".delta"));
            event.done = matches!(self.kind, b"response.completed" | b"response.incomplete");
            event.error |= self.kind == b"response.failed";
        } else if self.kind == b"error" {
            event.error = true;
        } else if !self.has_choices && !event.error && event.usage.is_none() {
            event.deltas = 1;
        }
        event
    }
}

/// Reads a value and says whether there is anything in it: a string, array or object that is not empty.
fn is_full(scanner: &mut Scanner<'_>) -> Result<bool, Flaw> {
    match scanner.peek()? {
        b'"' => Ok(scanner.string()?.decoded_len > 0),
        b'[' | b'{' => {
            let start = scanner.at();
            scanner.skip()?;
            // Empty ones may have white space inside; nobody sends that.
            Ok(scanner.at() - start > 2)
        }
        _ => scanner.skip().map(|()| false),
    }
}

/// Reads a value and returns what is between its quotes when it is a string.
fn string<'a>(scanner: &mut Scanner<'a>) -> Result<&'a [u8], Flaw> {
    match scanner.peek()? {
        b'"' => Ok(scanner.string()?.raw),
        _ => scanner.skip().map(|()| &b""[..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content deltas, error, done.
    fn read(data: &str) -> (u64, bool, bool) {
        let event = Event::read(data.as_bytes()).unwrap();
        (event.deltas, event.error, event.done)
    }

    #[test]
    fn content_is_what_a_reader_would_see() {
        for (delta, deltas) in [
            (r#"{"role":"assistant","content":""}"#, 0),
            (r#"{"role":"assistant","content":null,"tool_calls":[]}"#, 0),
            ("{}", 0),
            (r#"{"content":"Hi"}"#, 1),
            (r#"{"content":"","reasoning_content":"hm"}"#, 1),
            (r#"{"reasoning":"hm","content":"Hi"}"#, 1),
            (r#"{"refusal":"no"}"#, 1),
            (r#"{"tool_calls":[{"index":0,"function":{"name":"now","arguments":""}}]}"#, 1),
        ] {
            let chunk = format!(
                r#"{{"object":"chat.completion.chunk","choices":[{{"index":0,"delta":{delta}}}],"usage":null}}"#
            );
            assert_eq!(read(&chunk), (deltas, false, false), "{delta}");
        }
        assert_eq!(
            read(r#"{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}},{"delta":{}}]}"#).0,
            2
        );
        assert_eq!(read(r#"{"choices":[{"text":" word","index":0}]}"#).0, 1);
        assert_eq!(read(r#"{"choices":[{"text":"","finish_reason":"stop"}]}"#).0, 0);
        assert_eq!(read(r#"{"choices":[],"prompt_filter_results":[{}]}"#).0, 0);
    }

    #[test]
    fn a_response_has_content_in_its_deltas_only() {
        assert_eq!(read(r#"{"type":"response.created","response":{"usage":null}}"#), (0, false, false));
        assert_eq!(read(r#"{"delta":"Hi","type":"response.output_text.delta"}"#), (1, false, false));
        assert_eq!(read(r#"{"delta":"","type":"response.output_text.delta"}"#), (0, false, false));
        assert_eq!(read(r#"{"type":"response.output_text.done","text":"Hi"}"#), (0, false, false));
        assert_eq!(read(r#"{"type":"response.failed","response":{"error":{}}}"#), (0, true, false));
        let completed = br#"{"type":"response.completed","response":{"output":[{"usage":1}],"usage":{"input_tokens":3,"output_tokens":5,"total_tokens":8}}}"#;
        let event = Event::read(completed).unwrap();
        assert_eq!((event.usage, event.done), (Some(Usage { prompt: 3, output: 5 }), true));
    }

    #[test]
    fn usage_errors_and_the_end_are_no_content() {
        let usage =
            Event::read(br#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#).unwrap();
        assert_eq!((usage.deltas, usage.usage), (0, Some(Usage { prompt: 7, output: 2 })));
        assert_eq!(read(r#"{"error":{"message":"out of memory"}}"#), (0, true, false));
        assert_eq!(read(r#"{"object":"error","message":"out of memory"}"#), (0, true, false));
        assert_eq!(read(r#"{"type":"error","code":"x"}"#), (0, true, false));
        assert_eq!(read(" [DONE]"), (0, false, true));
        assert_eq!(read(" "), (0, false, false));
    }

    #[test]
    fn data_of_other_streams_is_content() {
        for data in [
            "Hello",
            r#"{"token":"Hi"}"#,
            r#"{"type":"content_block_delta","delta":{}}"#,
            "{nonsense}",
            "[1]",
            "tr",
        ] {
            assert_eq!(read(data), (1, false, false), "{data}");
        }
        assert_eq!(Event::read(br#"{"choices":["#), None);
    }
}
