//! The documents that are generated from the settings' types are current, and the examples load.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use traffic_dam::config::schema;

use super::{repository, settings};

/// Compares a committed file with its expected text, or writes it if `UPDATE` is set.
fn current(path: &str, expected: &str) {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(path), expected).unwrap();
    }
    let held = repository(path);
    assert!(held == expected, "{path} is out of date: run `UPDATE=1 cargo test --test config documents`");
}

#[test]
fn the_schema_is_current() {
    let text = serde_json::to_string_pretty(schema()).unwrap() + "\n";
    current("docs/config.schema.json", &text);
}

#[test]
fn the_table_of_settings_is_current() {
    const BEGIN: &str =
        "<!-- keys: made from the types by `UPDATE=1 cargo test --test config documents` -->\n";
    const END: &str = "<!-- end of keys -->\n";
    let page = repository("docs/configuration.md");
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    current("docs/configuration.md", &format!("{before}{BEGIN}{}{END}{after}", tables(schema())));
}

#[test]
fn the_examples_load() {
    settings(&repository("examples/minimal.yaml"));
    settings(&repository("examples/full.yaml"));
}

#[test]
fn the_full_example_has_every_key() {
    let text = repository("examples/full.yaml");
    let mut keys = Vec::new();
    rows(schema(), "", &mut |row| keys.push(row.key.rsplit(['.', ']']).next().unwrap().to_owned()));
    for key in keys.iter().filter(|key| !key.is_empty()) {
        // A key in use, or named as an alternative in a comment.
        assert!(text.contains(&format!("{key}:")), "{key}");
    }
}

struct Row<'a> {
    key: String,
    schema: &'a Value,
    description: &'a str,
    required: bool,
}

/// Calls `add` for every key below `schema`, sections included, in the order of the file.
fn rows(schema: &Value, path: &str, add: &mut dyn FnMut(Row<'_>)) {
    for branch in ["anyOf", "oneOf"].iter().filter_map(|name| schema.get(name)?.as_array()).flatten() {
        rows(branch, path, add);
    }
    if let Some(items) = schema.get("items") {
        rows(items, &format!("{path}[]"), add);
    }
    let required =
        |key: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == key));
    // A choice between shapes: each key is required only in its own shape.
    let choice = path.ends_with("sticky");
    for (key, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let own = inner["description"].as_str().or(schema["description"].as_str());
        let description = own.unwrap_or_default();
        add(Row { key: name.clone(), schema: inner, description, required: required(key) && !choice });
        rows(inner, &name, add);
    }
}

/// Returns a table for the keys of the file itself, and one for each section.
fn tables(schema: &Value) -> String {
    let mut text = String::new();
    let mut section = String::new();
    let head = "\n| key | value | default | meaning |\n| --- | --- | --- | --- |\n";
    text.push_str(head);
    let is_section =
        |schema: &Value| schema.get("properties").is_some() || schema.pointer("/items/properties").is_some();
    let mut sections = String::new();
    rows(schema, "", &mut |row| {
        let top = row.key.split(['.', '[']).next().unwrap().to_owned();
        let description = row.description.replace('\n', " ");
        if row.key == top && is_section(row.schema) {
            section = top;
            write!(sections, "\n### `{section}`\n\n{description}\n{head}").unwrap();
            return;
        }
        let out = if section == top { &mut sections } else { &mut text };
        // The keys of a nested section describe it.
        if row.schema.get("properties").is_none() {
            writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                row.key,
                value(row.schema),
                default(&row),
                meaning(row.schema, &description)
            )
            .unwrap();
        }
    });
    text + &sections
}

/// Returns the alternatives of a choice, or the schema itself.
fn options(schema: &Value) -> Vec<&Value> {
    match schema.get("anyOf").or(schema.get("oneOf")).and_then(Value::as_array) {
        Some(branches) => branches.iter().flat_map(options).collect(),
        None => vec![schema],
    }
}

fn value(schema: &Value) -> String {
    let mut parts: Vec<String> = Vec::new();
    let is_size = options(schema).iter().any(|option| option["x-syntax"] == "size");
    for option in options(schema) {
        if is_size && option["type"] == "integer" {
            // A plain number of bytes; the page describes it once for all sizes.
            continue;
        }
        let bound = |name: &str| option.get(name).map(ToString::to_string);
        let part = match (option["type"].as_str(), option["x-syntax"].as_str()) {
            _ if option.get("const").is_some() => format!("`{}`", option["const"].as_str().unwrap()),
            _ if option.get("enum").is_some() => {
                let words: Vec<_> =
                    option["enum"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
                format!("`{}`", words.join("`, `"))
            }
            (_, Some(syntax)) => syntax.to_owned(),
            (Some("integer"), _) => match (bound("minimum"), bound("maximum")) {
                (Some(least), Some(most)) => format!("{least} … {most}"),
                bounds => panic!("{bounds:?}"),
            },
            (Some("number"), _) => match (bound("minimum"), bound("maximum")) {
                (Some(least), Some(most)) => format!("{least} … {most}"),
                _ => "number".into(),
            },
            (Some("boolean"), _) => "`true`, `false`".into(),
            (Some("array"), _) => format!("list of {}", value(&option["items"])),
            (Some("object"), _) => "mapping".into(),
            other => panic!("{other:?}"),
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.join(", ")
}

fn default(row: &Row<'_>) -> String {
    match (row.schema.get("x-default").and_then(Value::as_str), row.schema.get("default")) {
        (Some(told), _) => told.to_owned(),
        _ if row.required => "required".into(),
        (None, Some(Value::String(text))) => format!("`{text}`"),
        (None, Some(value)) => format!("`{}`", value.to_string().replace(',', ", ").replace('"', "")),
        (None, None) => "none".into(),
    }
}

/// Returns the description and the meaning of each allowed word.
fn meaning(schema: &Value, description: &str) -> String {
    let words: Vec<String> = options(schema)
        .into_iter()
        .filter_map(|option| {
            let word = option.get("const").or(option.pointer("/enum/0"))?.as_str()?;
            let meaning = option["description"].as_str().filter(|meaning| *meaning != description)?;
            Some(format!("`{word}`: {}", meaning.replace('\n', " ")))
        })
        .collect();
    if words.len() < 2 { description.to_owned() } else { format!("{description} {}.", words.join("; ")) }
}
