//! Parses YAML text to a tree of nodes with positions.
//!
//! The reader uses the parser's events, not a finished document. So it sees duplicate keys before
//! one is lost, and bounds the depth before it builds anything. It refuses anchors and aliases,
//! because with them ten lines could expand to gigabytes, and tags, because none has a meaning.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::error::{ConfigError, Position, child_path, truncate};
use super::tree::{MapEntry, Node, NodeKind, Plain, Scalar};

/// Maximum nesting; the settings need seven levels.
const DEPTH: usize = 16;

/// Reads the single document of `text`. Adds errors to `faults`; returns the valid part, if any.
pub(crate) fn read(text: &str, faults: &mut Vec<ConfigError>) -> Option<Node> {
    YamlReader { faults, open: Vec::new(), done: None }.run(text)
}

/// A list or map whose end has not been read.
enum OpenNode {
    List {
        at: Position,
        items: Vec<Node>,
    },
    Map {
        at: Position,
        entries: Vec<MapEntry>,
        seen: HashMap<String, Position>,
        key: Option<(String, Position)>,
    },
}

struct YamlReader<'a> {
    faults: &'a mut Vec<ConfigError>,
    open: Vec<OpenNode>,
    done: Option<Node>,
}

impl YamlReader<'_> {
    fn run(mut self, text: &str) -> Option<Node> {
        let mut documents = 0_usize;
        for event in Parser::new_from_str(text) {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => {
                    self.fault(position(error.marker()), format!("invalid YAML: {}", error.info()));
                    // The part before the error may be incomplete: checking it would mislead.
                    return None;
                }
            };
            let at = position(&span.start);
            match event {
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        self.fault(at, "a settings file must be one YAML document: remove this `---`".into());
                        return None;
                    }
                }
                Event::Alias(_) => {
                    self.fault(
                        at,
                        "aliases are not supported; a value that begins with `*` needs quotes".into(),
                    );
                    self.place(Node { at, kind: NodeKind::Broken });
                }
                Event::Scalar(text, style, anchor, tag) => {
                    let sound = self.reject_anchor_and_tag(at, anchor, tag.is_some());
                    let plain = match style {
                        ScalarStyle::Plain => Plain::of(&text),
                        _ => Plain::Text,
                    };
                    let (text, written) = (text.to_string(), text.into_owned());
                    let scalar = Scalar { text, written, plain, from_variable: false };
                    let kind = if sound { NodeKind::Scalar(scalar) } else { NodeKind::Broken };
                    self.place(Node { at, kind });
                }
                Event::SequenceStart(anchor, tag) => {
                    self.reject_anchor_and_tag(at, anchor, tag.is_some());
                    self.begin(at, OpenNode::List { at, items: Vec::new() })?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.reject_anchor_and_tag(at, anchor, tag.is_some());
                    self.begin(
                        at,
                        OpenNode::Map { at, entries: Vec::new(), seen: HashMap::new(), key: None },
                    )?;
                }
                Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                    Some(OpenNode::List { at, items }) => {
                        self.place(Node { at, kind: NodeKind::List(items) })
                    }
                    Some(OpenNode::Map { at, entries, .. }) => {
                        self.place(Node { at, kind: NodeKind::Map(entries) })
                    }
                    None => {}
                },
            }
        }
        self.done
    }

    fn begin(&mut self, at: Position, open: OpenNode) -> Option<()> {
        if self.open.len() == DEPTH {
            self.fault(at, format!("nested deeper than {DEPTH} levels"));
            return None;
        }
        self.open.push(open);
        Some(())
    }

    fn reject_anchor_and_tag(&mut self, at: Position, anchor: usize, tag: bool) -> bool {
        if anchor > 0 {
            self.fault(at, "anchors are not supported; a value that begins with `&` needs quotes".into());
        }
        if tag {
            self.fault(at, "tags are not supported; a value that begins with `!` needs quotes".into());
        }
        anchor == 0 && !tag
    }

    /// Adds a complete node to the open list or map, or makes it a key or the document.
    fn place(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.done = Some(node),
            Some(OpenNode::List { items, .. }) => items.push(node),
            Some(OpenNode::Map { entries, seen, key, .. }) => {
                let problem = match key.take() {
                    // An empty key marks an entry that already has an error.
                    Some((name, _)) if name.is_empty() => None,
                    Some((name, at)) => match seen.get(&name).copied() {
                        Some(first) => Some((at, name, first)),
                        None => {
                            seen.insert(name.clone(), at);
                            entries.push(MapEntry { key: name, at, value: node });
                            None
                        }
                    },
                    None => return self.begin_entry(node),
                };
                if let Some((at, name, first)) = problem {
                    let problem = format!("`{}` is already set on line {}", truncate(&name), first.line);
                    let field = child_path(&self.field(), &name);
                    self.faults.push(ConfigError { position: Some(at), field, problem, found: None });
                }
            }
        }
    }

    /// Makes a node the next key of the open map.
    fn begin_entry(&mut self, node: Node) {
        let (name, reported) = match node.kind {
            NodeKind::Scalar(scalar) => (scalar.text, false),
            kind => (String::new(), matches!(kind, NodeKind::Broken)),
        };
        if name.is_empty() && !reported {
            self.fault(node.at, "a key must be a string that is not empty".into());
        }
        if let Some(OpenNode::Map { key, .. }) = self.open.last_mut() {
            *key = Some((name, node.at));
        }
    }

    fn field(&self) -> String {
        self.open.iter().fold(String::new(), |field, open| match open {
            OpenNode::List { items, .. } => format!("{field}[{}]", items.len()),
            OpenNode::Map { key: Some((key, _)), .. } if !key.is_empty() => child_path(&field, key),
            OpenNode::Map { .. } => field,
        })
    }

    fn fault(&mut self, at: Position, problem: String) {
        let field = self.field();
        self.faults.push(ConfigError { position: Some(at), field, problem, found: None });
    }
}

fn position(marker: &Marker) -> Position {
    Position { line: marker.line().max(1), column: marker.col().saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(text: &str) -> Vec<String> {
        let mut faults = Vec::new();
        read(text, &mut faults);
        faults.iter().map(|fault| format!("{:?} {} {}", fault.position, fault.field, fault.problem)).collect()
    }

    fn only(text: &str, line: usize, column: usize, field: &str, words: &str) {
        let mut faults = Vec::new();
        read(text, &mut faults);
        let [fault] = faults.as_slice() else { panic!("{faults:?}") };
        assert_eq!(fault.position, Some(Position { line, column }), "{fault:?}");
        assert_eq!(fault.field, field);
        assert!(fault.problem.contains(words), "{fault:?}");
    }

    #[test]
    fn duplicate_keys_are_faults_where_they_stand_twice() {
        only(
            "admin:\n  listen: a\n  token: b\n  listen: c\n",
            4,
            3,
            "admin.listen",
            "`listen` is already set on line 2",
        );
    }

    #[test]
    fn aliases_anchors_tags_and_second_documents_are_refused() {
        only("workers:\n  static:\n    - { model: * }\n", 3, 16, "workers.static[0]", "invalid YAML");
        only("a: 1\nb: &x [1]\n", 2, 4, "b", "anchors are not supported");
        only("a: !!str 1\n", 1, 4, "a", "tags are not supported");
        only("a: 1\n---\nb: 2\n", 2, 1, "", "one YAML document");
        let faults = faults_of("a: &x 1\nlist: [*x, *x]\n");
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[2].contains("list[1] aliases are not supported"), "{faults:?}");
    }

    #[test]
    fn depth_is_bounded_before_anything_is_built() {
        only(
            &format!("{}1", "- ".repeat(100)),
            1,
            33,
            "[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]",
            "16 levels",
        );
        assert_eq!(faults_of(&"[".repeat(100_000)).len(), 1);
    }

    #[test]
    fn broken_syntax_is_one_fault_with_its_place() {
        only("listen: \"abc\ntls: [\n", 1, 9, "listen", "invalid YAML");
        only("a: b: c\n", 1, 5, "", "invalid YAML");
    }

    #[test]
    fn keys_must_be_words() {
        only("? [a]\n: 1\n", 1, 3, "", "a key must be a string");
    }
}
