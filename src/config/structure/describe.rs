//! Describes in words which values a schema allows.

use serde_json::Value;

use super::super::schema::options;
use super::super::syntax::check;
use super::is;

/// Returns the expected values, to complete "must be …".
pub(super) fn expected(options: &[&Value]) -> String {
    let known: Vec<&str> = options.iter().flat_map(|option| words_of(option)).collect();
    let mut parts: Vec<String> = Vec::new();
    if !known.is_empty() {
        parts.push(words(&known));
    }
    let objects: Vec<&&Value> = options.iter().filter(|option| is(option, "object")).collect();
    for option in options.iter().filter(|option| words_of(option).is_empty() && !is(option, "object")) {
        let part = one(option, &parts.join(", or "));
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    let keys: Vec<&str> = objects
        .iter()
        .filter_map(|object| object.get("properties")?.as_object())
        .flat_map(|known| known.keys().map(String::as_str))
        .collect();
    match (objects.len(), keys.as_slice()) {
        (0, _) => {}
        (1, [key]) => parts.push(format!("a mapping with the key `{key}`")),
        (1, []) => parts.push("a mapping".into()),
        (1, keys) => parts.push(format!("a mapping with some of the keys {}", words(keys))),
        (_, keys) => parts.push(format!("a mapping with one of the keys {}", words(keys))),
    }
    parts.join(", or ")
}

/// Returns what one schema expects; `before` is what the alternatives before it expect.
fn one(schema: &Value, before: &str) -> String {
    if let Some(syntax) = schema.get("x-syntax").and_then(Value::as_str).and_then(check) {
        return syntax.expected.to_owned();
    }
    let bound = |keyword: &str| schema.get(keyword).filter(|bound| bound.is_number());
    match schema.get("type").and_then(Value::as_str) {
        Some("array") => match schema.get("items").map(|items| expected(&options(items))) {
            Some(items) if items == before => "a list of these".into(),
            Some(items) => format!("a list, each element {items}"),
            None => "a list".into(),
        },
        Some("boolean") => "`true` or `false`".into(),
        Some(kind @ ("integer" | "number")) => {
            let kind = if kind == "integer" { "a whole number" } else { "a number" };
            match (bound("minimum"), bound("maximum")) {
                (Some(least), Some(most)) => format!("{kind} from {least} to {most}"),
                (Some(least), None) => format!("{kind} of at least {least}"),
                (None, Some(most)) => format!("{kind} of at most {most}"),
                (None, None) => kind.into(),
            }
        }
        _ => "a string".into(),
    }
}

/// Returns the words that a string schema allows; empty if it allows other texts too.
pub(super) fn words_of(schema: &Value) -> Vec<&str> {
    let listed = schema.get("enum").and_then(Value::as_array).into_iter().flatten();
    listed.chain(schema.get("const")).filter_map(Value::as_str).collect()
}

/// Returns "`a`, `b` or `c`".
pub(super) fn words(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [] => "none".into(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
