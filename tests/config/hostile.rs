//! No file makes reading panic, and the types refuse every wrong value that the schema accepts.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use traffic_dam::config::{Overrides, load, schema};

use super::{read, repository};

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dam.yaml");
        std::fs::write(&path, bytes).unwrap();
        prop_assert!(load(&path, Overrides::default()).is_err());
    }

    #[test]
    fn arbitrary_yaml_like_text(text in "([a-z]{1,3}|[-:?,\\[\\]{}#&*!|>'\"%@`~ \n\t]|\\$\\{|\u{feff}|é){0,60}") {
        prop_assert!(read(&text).is_err());
    }

    #[test]
    fn a_sound_file_with_a_piece_replaced(start in 0.0..1.0_f64, length in 0_usize..40, piece in "[-:,\\[\\]{}\"' \na-c0-9$]{0,6}") {
        let text = repository("examples/full.yaml");
        let boundary = |mut index: usize| {
            while !text.is_char_boundary(index) {
                index -= 1;
            }
            index
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a share of a length")]
        let from = boundary((text.len() as f64 * start) as usize);
        let to = boundary((from + length).min(text.len()));
        let changed = format!("{}{piece}{}", &text[..from], &text[to..]);
        if let Err(faults) = read(&changed) {
            prop_assert!(!faults.list.is_empty());
            prop_assert!(!faults.to_string().contains("s3cret"));
            prop_assert!(!faults.to_string().contains("schema admits"), "{}", faults);
            let lines = changed.split('\n').count() + 1;
            prop_assert!(faults.list.iter().all(|fault| fault.position.is_some_and(|at| at.line <= lines)), "{}", faults);
        }
    }
}

/// Returns a value that fits the schema.
fn sample(schema: &Value) -> Value {
    if let Some(branches) = schema.get("anyOf").or(schema.get("oneOf")).and_then(Value::as_array) {
        return sample(&branches[0]);
    }
    if let Some(word) = schema.get("const").or(schema.pointer("/enum/0")) {
        return word.clone();
    }
    match schema["type"].as_str().unwrap() {
        "object" => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let value = |key: &Value| {
                let key = key.as_str().unwrap();
                (key.to_owned(), sample(&schema["properties"][key]))
            };
            Value::Object(required.iter().map(value).collect())
        }
        "array" => json!([]),
        "boolean" => json!(true),
        "string" => match schema["x-syntax"].as_str().unwrap() {
            "address" => json!("127.0.0.1:0"),
            "duration" => json!("1s"),
            "rate" => json!("1/s"),
            "size" => json!("1MiB"),
            "network" => json!("10.0.0.0/8"),
            "path pattern" | "JSON pointer" => json!("/a"),
            "URL" => json!("http://h:1"),
            "origin" => json!("https://h"),
            "SHA-256" => json!("0".repeat(64)),
            _ => json!("a"),
        },
        _ => schema["minimum"].clone(),
    }
}

/// Calls `try_one` with valid documents in which one key has one of many values.
fn each_document(schema: &Value, wrap: &dyn Fn(Value) -> Value, try_one: &mut dyn FnMut(Value)) {
    let nasty = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(-1),
        json!(2),
        json!(0.5),
        json!(1.5),
        json!(1e300),
        json!(4_294_967_296_u64),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("a"),
        json!("*"),
        json!("/a"),
        json!("0s"),
        json!("1s"),
        json!("slots"),
        json!("all"),
        json!("\u{0}"),
        json!("é"),
        json!([]),
        json!([[]]),
        json!(["a"]),
        json!([{}]),
        json!({}),
        json!({"a": "b"}),
        json!("x".repeat(5000)),
        json!(sample(schema)),
        json!([sample(schema)]),
    ];
    for value in nasty {
        try_one(wrap(value));
    }
    for branch in ["anyOf", "oneOf"].iter().filter_map(|name| schema.get(name)?.as_array()).flatten() {
        each_document(branch, wrap, try_one);
    }
    if let Some(items) = schema.get("items") {
        each_document(items, &|value| wrap(json!([value])), try_one);
    }
    for (key, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let around = |value: Value| {
            let mut object: Map<String, Value> = sample(schema).as_object().unwrap().clone();
            object.insert(key.clone(), value);
            wrap(Value::Object(object))
        };
        each_document(inner, &around, try_one);
    }
}

#[test]
fn schema_types_and_a_general_validator_agree() {
    let schema = schema();
    let validator = jsonschema::validator_for(schema).unwrap();
    let (mut tried, mut sound) = (0, 0);
    each_document(schema, &|value| value, &mut |mut document| {
        if let Value::Object(keys) = &mut document {
            keys.entry("workers").or_insert_with(|| json!({ "static": [] }));
        }
        // JSON is YAML.
        let text = document.to_string();
        let accepted = read(&text);
        tried += 1;
        sound += usize::from(accepted.is_ok());
        match accepted {
            Ok(_) => assert!(validator.is_valid(&document), "the schema refuses what is read: {text}"),
            Err(faults) => {
                assert!(!faults.to_string().contains("schema admits"), "{text}\n{faults}");
                // An error of a syntax or of another setting says what it expects.
                assert!(faults.list.iter().all(|fault| !fault.problem.is_empty()), "{text}");
            }
        }
    });
    assert!(tried > 3000 && sound > 250, "{tried} {sound}");
}
