//! Names and selectors of Kubernetes.

use std::fmt;
use std::sync::Arc;

use super::Syntax;
use super::names::{checked, made_of, plain};

checked! {
    /// Name of an object in Kubernetes.
    pub(crate) ObjectName, "Kubernetes name", "a name in Kubernetes: lower-case letters, digits, `-` or `.`",
    "^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", is_object_name
}

checked! {
    /// Name of a port of a service in Kubernetes.
    pub(crate) PortName, "port name",
    "a number from 1 to 65535, or the name of a port: lower-case letters, digits or `-`",
    "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    |text| {
        let number = text.bytes().all(|byte| byte.is_ascii_digit());
        text.len() <= 63 && !number && !text.contains('.') && is_object_name(text)
    }
}

checked! {
    /// A label selector of Kubernetes.
    pub(crate) LabelSelector, "label selector",
    "a label selector such as `app=vllm`, `app=vllm,tier!=test` or `app in (vllm, sglang)`", "^.{1,256}$",
    |text| plain(text) && is_selector(text)
}

/// Returns `true` for a name of an object in Kubernetes (RFC 1123).
fn is_object_name(text: &str) -> bool {
    let label = |label: &str| {
        label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Returns `true` for a label selector: conditions that are joined with commas.
fn is_selector(text: &str) -> bool {
    // The last part of a set ends with its bracket, so a comma within one does not split.
    let mut rest = text;
    loop {
        let end = match (rest.find('('), rest.find(',')) {
            (Some(open), Some(comma)) if open < comma => {
                let Some(close) = rest.find(')') else { return false };
                close + 1
            }
            (_, Some(comma)) => comma,
            (_, None) => rest.len(),
        };
        let (condition, more) = rest.split_at(end);
        if !is_condition(condition.trim()) {
            return false;
        }
        match more.trim_start().strip_prefix(',') {
            Some(more) => rest = more,
            None => return more.trim().is_empty(),
        }
    }
}

fn is_condition(text: &str) -> bool {
    let value = |value: &str| value.is_empty() || is_label(value);
    if let Some(key) = text.strip_prefix('!') {
        return is_label_key(key.trim());
    }
    if let Some((head, set)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        let Some((key, word)) = head.trim().split_once(char::is_whitespace) else { return false };
        let sound = matches!(word.trim(), "in" | "notin") && is_label_key(key);
        return sound && set.split(',').all(|one| value(one.trim()));
    }
    match text.split_once("!=").or_else(|| text.split_once("==")).or_else(|| text.split_once('=')) {
        Some((key, one)) => is_label_key(key.trim()) && value(one.trim()),
        None => is_label_key(text),
    }
}

fn is_label(text: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    made_of(text, b"._-") && text.len() <= 63 && ends(text.as_bytes().first()) && ends(text.as_bytes().last())
}

fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_object_name(prefix) && is_label(name),
        None => is_label(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_kubernetes() {
        for (name, object, port) in [
            ("vllm", true, true),
            ("vllm-2.chat", true, false),
            ("8000", true, false),
            ("Vllm", false, false),
            ("-a", false, false),
            ("a..b", false, false),
            ("", false, false),
        ] {
            assert_eq!(ObjectName::read(name).is_some(), object, "{name}");
            assert_eq!(PortName::read(name).is_some(), port, "{name}");
        }
    }

    #[test]
    fn selectors_are_conditions_with_commas_between_them() {
        for right in [
            "app=vllm",
            "app==vllm, tier != test",
            "app in (vllm, sglang),!canary",
            "example.com/app notin (a),gpu",
            "app=",
        ] {
            assert!(LabelSelector::read(right).is_some(), "{right}");
        }
        for wrong in [
            "",
            ",",
            "app=vllm,",
            "app in vllm",
            "app in (a",
            "app of (a)",
            "a b",
            "app=a b",
            "=a",
            "/app=a",
            "app=a)",
        ] {
            assert!(LabelSelector::read(wrong).is_none(), "{wrong}");
        }
    }
}
