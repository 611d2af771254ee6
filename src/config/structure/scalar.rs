//! Checks a single value against the schema.

use serde_json::{Number, Value};

use super::super::error::truncate;
use super::super::suggest::nearest;
use super::super::syntax::{REDACTED, check, redacted_url};
use super::super::tree::{Plain, Scalar};
use super::{describe, is};

/// Why a value does not fit.
pub(super) enum Wrong {
    Type,
    Unquoted,
    Meant(String),
}

/// Returns the value, as the first type among `options` that accepts it.
pub(super) fn fit(options: &[&Value], scalar: &Scalar) -> Result<Value, Wrong> {
    let has = |name: &str| options.iter().any(|option| is(option, name));
    match &scalar.plain {
        Plain::Bool(value) if has("boolean") => Ok(Value::Bool(*value)),
        Plain::Int(value) if has("integer") || has("number") => number(options, *value),
        Plain::Float(value) if has("number") => fraction(options, *value),
        Plain::Text if has("string") => text(options, scalar),
        Plain::Text => Err(Wrong::Type),
        _ if has("string") && scalar.from_variable => text(options, scalar),
        Plain::Bool(_) | Plain::Int(_) | Plain::Float(_) if has("string") => {
            // Quotes help only a text that is valid within them: `true` in quotes is still no size.
            Err(meant(options, scalar).map_or_else(
                || if text(options, scalar).is_ok() { Wrong::Unquoted } else { Wrong::Type },
                Wrong::Meant,
            ))
        }
        _ => Err(Wrong::Type),
    }
}

fn number(options: &[&Value], value: i128) -> Result<Value, Wrong> {
    let number = Number::from_i128(value).ok_or(Wrong::Type)?;
    let fits = |option: &&Value| (is(option, "integer") || is(option, "number")) && in_range(option, &number);
    if options.iter().any(fits) { Ok(Value::Number(number)) } else { Err(Wrong::Type) }
}

fn fraction(options: &[&Value], value: f64) -> Result<Value, Wrong> {
    let number = Number::from_f64(value).ok_or(Wrong::Type)?;
    let fits = |option: &&Value| is(option, "number") && in_range(option, &number);
    if options.iter().any(fits) { Ok(Value::Number(number)) } else { Err(Wrong::Type) }
}

/// Compares as `f64`. It represents all bounds exactly; a number that it cannot is far outside.
fn in_range(schema: &Value, number: &Number) -> bool {
    let bound = |keyword: &str| schema.get(keyword).and_then(Value::as_f64);
    let Some(value) = number.as_f64() else { return false };
    bound("minimum").is_none_or(|least| value >= least) && bound("maximum").is_none_or(|most| value <= most)
}

fn text(options: &[&Value], scalar: &Scalar) -> Result<Value, Wrong> {
    let text = &*scalar.text;
    let strings = || options.iter().filter(|option| is(option, "string"));
    let mut known = strings().flat_map(|option| describe::words_of(option));
    if known.any(|word| word == text) {
        return Ok(text.into());
    }
    let fits = |option: &&Value| match option.get("x-syntax") {
        Some(name) => name.as_str().and_then(check).is_some_and(|syntax| (syntax.accepts)(text)),
        // A free text, such as a scenario's.
        None => describe::words_of(option).is_empty() && option.get("pattern").is_none(),
    };
    if strings().any(fits) {
        return Ok(text.into());
    }
    let all: Vec<&str> = strings().flat_map(|option| describe::words_of(option)).collect();
    let word = nearest(text, all.into_iter()).map(str::to_owned).or_else(|| meant(options, scalar));
    Err(word.map_or(Wrong::Type, Wrong::Meant))
}

/// Returns the text that was probably meant, by an option's syntax; `None` for a secret variable.
fn meant(options: &[&Value], scalar: &Scalar) -> Option<String> {
    if scalar.from_variable {
        return None;
    }
    let syntax = |option: &&Value| option.get("x-syntax").and_then(Value::as_str).and_then(check);
    options
        .iter()
        .filter(|option| is(option, "string"))
        .filter_map(syntax)
        .find_map(|syntax| (syntax.meant)(&scalar.text))
}

/// Returns the text that an error may show of a value. A secret is redacted, and so is a value
/// where no single value is expected, because it may be a misplaced secret.
pub(super) fn shown(schema: &Value, options: &[&Value], scalar: &Scalar) -> Option<String> {
    let secret = |schema: &Value| schema.get("writeOnly") == Some(&Value::Bool(true));
    if secret(schema) || options.iter().any(|option| secret(option)) {
        return Some(REDACTED.into());
    }
    if options.iter().all(|option| is(option, "object") || is(option, "array")) {
        return Some("a single value".into());
    }
    let url = redacted_url(&scalar.written);
    let text = truncate(&url);
    match scalar.plain {
        Plain::Text => Some(format!("{text:?}")),
        _ if scalar.from_variable => Some(format!("{text:?}")),
        _ => Some(text),
    }
}
