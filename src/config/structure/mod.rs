//! Checks the file against the schema: unknown or missing keys, wrong types, wrong texts.
//!
//! Reports all errors, not only the first. Invalid values are dropped, with everything that
//! requires them, and the check goes on with the rest: one mistyped rate does not keep the rest of
//! the file from being checked. (A general JSON Schema validator finds the same errors, but of a
//! choice between shapes it can only say that none fits, and it returns no partial value.)

mod describe;
mod scalar;

use std::collections::HashMap;

use serde_json::{Map, Value};

use self::describe::{expected, words};
use self::scalar::{Wrong, fit, shown};
use super::error::{ConfigError, Position, child_path};
use super::schema::options;
use super::source::SettingPlace;
use super::suggest::nearest;
use super::tree::{MapEntry, Node, NodeKind, Plain, Scalar};

#[derive(Debug)]
pub(super) struct SoundFile {
    /// The values, for serde.
    pub(super) value: Value,
    pub(super) place: SettingPlace,
    /// Settings that are in the file under a mistyped name.
    pub(super) meant: Vec<String>,
}

pub(super) fn compare(schema: &Value, document: Node, faults: &mut Vec<ConfigError>) -> SoundFile {
    let empty = match &document.kind {
        NodeKind::Broken => true,
        NodeKind::Scalar(scalar) => scalar.plain == Plain::Null,
        _ => false,
    };
    let document = if empty { Node { at: document.at, kind: NodeKind::Map(Vec::new()) } } else { document };
    let mut comparison = Comparison { faults, meant: Vec::new() };
    let (value, place) = comparison.node(schema, &document, "").unwrap_or_else(|| {
        let place =
            SettingPlace { field: String::new(), at: document.at, found: None, children: HashMap::new() };
        (Value::Object(Map::new()), place)
    });
    SoundFile { value, place, meant: comparison.meant }
}

struct Comparison<'a> {
    faults: &'a mut Vec<ConfigError>,
    meant: Vec<String>,
}

type TakenValue = Option<(Value, SettingPlace)>;

impl Comparison<'_> {
    fn node(&mut self, schema: &Value, node: &Node, field: &str) -> TakenValue {
        let options = options(schema);
        let of = |name: &str| options.iter().copied().filter(|option| is(option, name)).collect::<Vec<_>>();
        match &node.kind {
            NodeKind::Broken => None,
            NodeKind::Scalar(scalar) => self.scalar(schema, &options, scalar, node.at, field),
            NodeKind::List(items) => match of("array").first() {
                Some(list) => self.list(list, items, node.at, field),
                None => self.mismatch(&options, node.at, field, Some("a list".into())),
            },
            NodeKind::Map(entries) => match of("object").as_slice() {
                [] => self.mismatch(&options, node.at, field, Some("a mapping".into())),
                [one] => self.map(one, entries, node.at, field),
                several => self.one_of(several, entries, node.at, field),
            },
        }
    }

    fn scalar(
        &mut self,
        schema: &Value,
        options: &[&Value],
        scalar: &Scalar,
        at: Position,
        field: &str,
    ) -> TakenValue {
        if scalar.plain == Plain::Null && !scalar.from_variable {
            let problem = format!("has no value: set it to {}, or remove the key", expected(options));
            return self.fault(at, field, problem, None);
        }
        let found = shown(schema, options, scalar);
        let typed = fit(options, scalar);
        let problem = match typed {
            Ok(value) => {
                let place = SettingPlace { field: field.into(), at, found, children: HashMap::new() };
                return Some((value, place));
            }
            Err(Wrong::Type) => format!("must be {}", expected(options)),
            Err(Wrong::Unquoted) => format!("must be {}, in quotes", expected(options)),
            Err(Wrong::Meant(word)) => format!("must be {}; did you mean `{word}`?", expected(options)),
        };
        self.fault(at, field, problem, found)
    }

    fn list(&mut self, schema: &Value, items: &[Node], at: Position, field: &str) -> TakenValue {
        let bound = |keyword: &str| schema.get(keyword).and_then(Value::as_u64);
        let length = u64::try_from(items.len()).unwrap_or(u64::MAX);
        if bound("minItems").is_some_and(|least| length < least) {
            return self.fault(at, field, "must not be empty".into(), None);
        }
        if let Some(most) = bound("maxItems").filter(|most| length > *most) {
            return self.fault(at, field, format!("has {length} elements; at most {most} are allowed"), None);
        }
        let item_schema = schema.get("items").unwrap_or(&Value::Null);
        let (mut values, mut children) = (Vec::new(), HashMap::new());
        for (index, item) in items.iter().enumerate() {
            if let Some((value, place)) = self.node(item_schema, item, &format!("{field}[{index}]")) {
                children.insert(values.len().to_string(), place);
                values.push(value);
            }
        }
        Some((Value::Array(values), SettingPlace { field: field.into(), at, found: None, children }))
    }

    fn map(&mut self, schema: &Value, entries: &[MapEntry], at: Position, field: &str) -> TakenValue {
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties").filter(|others| others.is_object());
        if let Some(most) = schema.get("maxProperties").and_then(Value::as_u64)
            && u64::try_from(entries.len()).is_ok_and(|length| length > most)
        {
            return self.fault(
                at,
                field,
                format!("has {} keys; at most {most} are allowed", entries.len()),
                None,
            );
        }
        let (mut values, mut children) = (Map::new(), HashMap::new());
        for entry in entries {
            let known = properties.and_then(|properties| properties.get(&entry.key)).or(others);
            let Some(known) = known else {
                let names: Vec<_> =
                    properties.into_iter().flat_map(|known| known.keys().map(String::as_str)).collect();
                self.unknown_key(entry, &names, field);
                continue;
            };
            if let Some((value, place)) = self.node(known, &entry.value, &child_path(field, &entry.key)) {
                values.insert(entry.key.clone(), value);
                children.insert(entry.key.clone(), place);
            }
        }
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        let mut complete = true;
        for key in required.filter_map(Value::as_str).filter(|key| !values.contains_key(*key)) {
            complete = false;
            let name = child_path(field, key);
            let there = entries.iter().any(|entry| entry.key == key);
            if !there && !self.meant.contains(&name) {
                let wanted =
                    properties.and_then(|properties| properties.get(key)).map(options).unwrap_or_default();
                self.fault(at, &name, format!("is missing; must be {}", expected(&wanted)), None);
            }
        }
        let place = SettingPlace { field: field.into(), at, found: None, children };
        complete.then_some((Value::Object(values), place))
    }

    /// Checks a map against several shapes with one key each, of which it must match one.
    fn one_of(&mut self, several: &[&Value], entries: &[MapEntry], at: Position, field: &str) -> TakenValue {
        let shape_of = |key: &str| {
            several
                .iter()
                .find(|shape| shape.pointer("/properties").is_some_and(|known| known.get(key).is_some()))
        };
        if let [entry] = entries
            && let Some(shape) = shape_of(&entry.key)
        {
            return self.map(shape, entries, at, field);
        }
        let names: Vec<&str> = several
            .iter()
            .filter_map(|shape| shape.get("properties")?.as_object())
            .flat_map(|known| known.keys().map(String::as_str))
            .collect();
        let strangers: Vec<&MapEntry> =
            entries.iter().filter(|entry| shape_of(&entry.key).is_none()).collect();
        for stranger in &strangers {
            self.unknown_key(stranger, &names, field);
        }
        if strangers.is_empty() {
            self.fault(at, field, format!("must have exactly one of the keys {}", words(&names)), None);
        }
        None
    }

    fn unknown_key(&mut self, entry: &MapEntry, names: &[&str], field: &str) {
        let problem = match nearest(&entry.key, names.iter().copied()) {
            Some(name) => {
                self.meant.push(child_path(field, name));
                format!("unknown key; did you mean `{name}`?")
            }
            None => match names {
                [only] => format!("unknown key; only `{only}` is allowed"),
                _ => format!("unknown key; allowed are {}", words(names)),
            },
        };
        self.fault(entry.at, &child_path(field, &entry.key), problem, None);
    }

    fn mismatch(
        &mut self,
        options: &[&Value],
        at: Position,
        field: &str,
        found: Option<String>,
    ) -> TakenValue {
        self.fault(at, field, format!("must be {}", expected(options)), found)
    }

    fn fault(&mut self, at: Position, field: &str, problem: String, found: Option<String>) -> TakenValue {
        self.faults.push(ConfigError { position: Some(at), field: field.to_owned(), problem, found });
        None
    }
}

fn is(schema: &Value, name: &str) -> bool {
    schema.get("type").and_then(Value::as_str) == Some(name)
}
