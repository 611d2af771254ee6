//! The effective settings as text for people: every key, with defaults, without secrets.
//!
//! The text is YAML. Without secrets it is a settings file with the same effect as its source.

use std::fmt::Write;

use serde_json::Value;

use super::settings::Settings;
use super::syntax::redacted_url;
use super::tree::Plain;

impl Settings {
    /// Returns the effective settings as YAML, secrets redacted.
    #[must_use]
    pub fn effective(&self) -> String {
        let mut text = String::new();
        // Serialising plain data to a tree fails only if a map's key is not a string: none is.
        if let Ok(Value::Object(keys)) = serde_json::to_value(&self.file) {
            for (key, value) in &keys {
                entry(&mut text, 0, key, value);
            }
        }
        text
    }
}

fn entry(text: &mut String, indent: usize, key: &str, value: &Value) {
    line(text, indent, |text| match value {
        Value::Null => write!(text, "# {}: not set", word(key)),
        _ => write!(text, "{}:", word(key)),
    });
    match value {
        Value::Null => {}
        Value::Object(keys) if keys.values().any(|value| !value.is_null()) => {
            text.push('\n');
            keys.iter().for_each(|(key, value)| entry(text, indent + 2, key, value));
            return;
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            text.push('\n');
            items.iter().for_each(|item| element(text, indent + 2, item));
            return;
        }
        _ => {
            text.push(' ');
            flow(text, value);
        }
    }
    text.push('\n');
    if let Value::Object(keys) = value {
        keys.iter().for_each(|(key, value)| entry(text, indent + 2, key, value));
    }
}

/// Writes an element of a list, its keys on lines of their own.
fn element(text: &mut String, indent: usize, item: &Value) {
    let start = text.len();
    match item {
        Value::Object(keys) => keys.iter().for_each(|(key, value)| entry(text, indent + 2, key, value)),
        other => {
            line(text, indent + 2, |_| Ok(()));
            flow(text, other);
            text.push('\n');
        }
    }
    // The first key follows the dash. It has a value, because elements begin with required keys.
    let dash = start + indent;
    if text.get(dash..=dash) == Some(" ") {
        text.replace_range(dash..=dash, "-");
    }
}

fn line(text: &mut String, indent: usize, write: impl FnOnce(&mut String) -> std::fmt::Result) {
    text.extend(std::iter::repeat_n(' ', indent));
    // Writing to a string cannot fail.
    write(text).unwrap_or_default();
}

fn flow(text: &mut String, value: &Value) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                flow(text, item);
            }
            text.push(']');
        }
        // Only an object with no set key gets here.
        Value::Object(_) => text.push_str("{}"),
        Value::String(string) => text.push_str(&word(&redacted_url(string))),
        other => text.push_str(&other.to_string()),
    }
}

/// Writes a text as YAML: bare if it is unambiguous, otherwise quoted as in JSON.
fn word(text: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
    let begins = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/');
    let reserved = Plain::of(text) != Plain::Text;
    let number_with_unit = text.starts_with(|first: char| first.is_ascii_digit()) && !reserved;
    if (begins || number_with_unit) && !reserved && text.bytes().all(bare) {
        text.to_owned()
    } else {
        // A `${` in a value was written `$${`, or came from a variable.
        Value::from(text.replace("${", "$${")).to_string()
    }
}
