//! JSON Schema of the settings file, generated from its types.
//!
//! It has three readers: editors, through `docs/config.schema.json`; the structural check, which
//! compares the file with it; and the table in `docs/configuration.md`. Two keywords are not
//! standard: `x-syntax`, the name of a [`Syntax`](super::syntax::Syntax), and `x-default`, a
//! default that depends on other settings.

use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::file::ConfigFile;

/// Returns the JSON Schema of the settings file.
#[must_use]
pub fn schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let mut schema = schema_of::<ConfigFile>();
        if let Value::Object(schema) = &mut schema {
            schema.insert("title".into(), "Settings of Traffic Dam".into());
        }
        schema
    });
    &SCHEMA
}

/// Returns the JSON Schema of a file of this shape.
pub(super) fn schema_of<T: JsonSchema>() -> Value {
    // Everything is inlined, without `$ref`: no setting is recursive, and readers stay short.
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    tidy_value(&mut schema);
    schema
}

/// Returns the schemas that an `anyOf` or `oneOf` chooses from, or the schema itself.
pub(super) fn options(schema: &Value) -> Vec<&Value> {
    match alternatives(schema) {
        Some(branches) => branches.iter().flat_map(options).collect(),
        None => vec![schema],
    }
}

fn alternatives(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("anyOf").or_else(|| schema.get("oneOf"))?.as_array()
}

/// Removes what serde and Rust know but the file does not: that an absent key is `null` (in the
/// file a key without a value is an error), the widths of numbers, and defaults of sections.
fn tidy(schema: &mut Map<String, Value>) {
    schema.remove("format");
    if schema.contains_key("properties") || schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".into(), only);
        }
    }
    for keyword in ["anyOf", "oneOf"] {
        if let Some(Value::Array(branches)) = schema.get_mut(keyword) {
            branches.retain(|branch| branch.get("type").is_none_or(|name| name != "null"));
            if let [Value::Object(only)] = branches.as_slice() {
                let only = only.clone();
                schema.remove(keyword);
                // The outer schema (a field's own comment) takes precedence over its type's.
                for (key, value) in only {
                    schema.entry(key).or_insert(value);
                }
            }
        }
    }
    if schema.contains_key("properties") {
        schema.remove("default");
    }
    for (keyword, value) in schema.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(tidy_value),
            ("items" | "additionalProperties", value) => tidy_value(value),
            ("anyOf" | "oneOf", Value::Array(branches)) => branches.iter_mut().for_each(tidy_value),
            _ => {}
        }
    }
}

fn tidy_value(schema: &mut Value) {
    if let Value::Object(schema) = schema {
        tidy(schema);
    }
}

#[cfg(test)]
mod tests {
    use super::super::syntax::check;
    use super::*;

    /// Visits every schema in `schema`, itself included.
    fn visit(schema: &Value, path: &str, look: &mut impl FnMut(&str, &Map<String, Value>)) {
        let Value::Object(keywords) = schema else { panic!("{path}: {schema}") };
        look(path, keywords);
        for (keyword, value) in keywords {
            match (keyword.as_str(), value) {
                ("properties", Value::Object(properties)) => {
                    properties.iter().for_each(|(key, value)| visit(value, &format!("{path}.{key}"), look));
                }
                ("anyOf" | "oneOf", Value::Array(branches)) => {
                    branches.iter().for_each(|branch| visit(branch, path, look));
                }
                ("items", value) => visit(value, &format!("{path}[]"), look),
                ("additionalProperties", value) if value.is_object() => visit(value, path, look),
                _ => {}
            }
        }
    }

    #[test]
    fn the_structural_check_knows_every_keyword() {
        const CHECKED: [&str; 15] = [
            "additionalProperties",
            "anyOf",
            "const",
            "enum",
            "items",
            "maxItems",
            "maxProperties",
            "maximum",
            "minItems",
            "minimum",
            "oneOf",
            "properties",
            "required",
            "type",
            "x-syntax",
        ];
        // `pattern` is for editors: the syntax is more exact.
        const SAID: [&str; 7] =
            ["$schema", "default", "description", "pattern", "title", "writeOnly", "x-default"];
        visit(schema(), "", &mut |path, keywords| {
            for keyword in keywords.keys().map(String::as_str) {
                assert!(CHECKED.contains(&keyword) || SAID.contains(&keyword), "{path}: {keyword}");
            }
        });
    }

    #[test]
    fn every_text_is_checked_and_every_whole_number_bounded() {
        visit(schema(), "", &mut |path, keywords| {
            let kind = keywords.get("type").and_then(Value::as_str);
            let syntax = keywords.get("x-syntax").and_then(Value::as_str);
            let words = keywords.contains_key("enum") || keywords.contains_key("const");
            if kind == Some("string") {
                assert!(words || syntax.is_some_and(|name| check(name).is_some()), "{path}");
            }
            if kind == Some("integer") {
                assert!(keywords.contains_key("minimum") && keywords.contains_key("maximum"), "{path}");
            }
            if kind == Some("object") && keywords.contains_key("properties") {
                assert_eq!(keywords.get("additionalProperties"), Some(&Value::Bool(false)), "{path}");
            }
        });
    }

    #[test]
    fn every_key_is_described() {
        visit(schema(), "", &mut |path, keywords| {
            // The single key of an alternative is described by the alternative.
            let shape = keywords.contains_key("description");
            for (key, value) in keywords.get("properties").and_then(Value::as_object).into_iter().flatten() {
                assert!(value.get("description").is_some() || shape, "{path}.{key}");
            }
        });
    }
}
