//! Every type name is defined once in a crate, except the ones listed here with a reason.
//!
//! Reads the tokens of each crate's `src/`: structs, enums, traits and aliases of modules, without
//! tests. A name defined more often, or less often, than listed fails.
#![expect(clippy::expect_used, reason = "a test's own helpers, which clippy does not see as tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The crates, by the folders of their manifests, with the least number of names in each.
const CRATES: [(&str, usize); 4] =
    [("", 500), ("crates/core", 200), ("crates/lab", 60), ("crates/worker", 20)];

/// Names that a crate defines more than once: how often, and why.
struct Twins {
    folder: &'static str,
    reason: &'static str,
    names: &'static [(&'static str, usize)],
}

const TWINS: [Twins; 1] = [Twins {
    folder: "",
    reason: "every subcommand's arguments, in a file of its own",
    names: &[("Arguments", 12)],
}];

#[test]
fn a_name_means_one_type_or_is_listed_with_a_reason() {
    let mut faults = Vec::new();
    for (folder, least) in CRATES {
        let defined = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join("src"));
        assert!(defined.len() >= least, "only {} names were found in {folder}", defined.len());
        let mut listed = BTreeMap::new();
        for Twins { reason, names, .. } in TWINS.iter().filter(|twins| twins.folder == folder) {
            for &(name, count) in *names {
                assert!(listed.insert(name, count).is_none(), "{name} is listed twice, once as: {reason}");
            }
        }
        for (name, places) in &defined {
            let (have, may) = (places.len(), listed.remove(name.as_str()).unwrap_or(1));
            let places = places.join(", ");
            if have > may {
                faults.push(format!("{name} is defined {have} times, and {may} may be: {places}"));
            } else if have < may {
                faults.push(format!("{name} is listed {may} times, and defined in {places} only"));
            }
        }
        faults.extend(listed.keys().map(|name| format!("{name} is listed, and defined nowhere")));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn definitions_are_told_from_what_looks_like_them() {
    for (source, names) in [
        (
            "pub struct A<T>(T); enum B {} trait C { type X; } pub(crate) type D = u8;",
            &["A", "B", "C", "D"][..],
        ),
        ("mod inner { struct A; mod deeper { enum B {} } }", &["A", "B"]),
        ("pin_project! { struct A { x: u8 } }", &["A"]),
        ("impl Iterator for X { type Item = u8; } fn f() { struct Local; }", &[]),
        ("mod tests { struct A; } const B: &str = \"struct C;\"; // struct D;", &[]),
        ("macro_rules! m { ($x:ident) => { struct $x; } }", &[]),
    ] {
        let mut found = Vec::new();
        definitions(source.parse().expect("it is Rust"), &mut found);
        assert_eq!(found, names, "in {source}");
    }
    let source = "#[cfg(test)]\nmod spread;\n#[cfg(test)]\npub(crate) mod planted;\nmod other;\n";
    assert_eq!(test_modules(source).collect::<Vec<_>>(), ["spread", "planted"]);
}

/// Returns each name that the folder `root` defines outside of tests, with its files.
fn sources(root: &Path) -> BTreeMap<String, Vec<String>> {
    let mut texts = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).expect("src is readable").flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let text = fs::read_to_string(&path).expect("sources are text");
                texts.insert(path, text);
            }
        }
    }
    let tests: BTreeSet<PathBuf> = texts.iter().flat_map(|(path, text)| test_files(path, text)).collect();
    let mut defined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in &texts {
        if tests.iter().any(|test| path.with_extension("").starts_with(test)) {
            continue;
        }
        let mut names = Vec::new();
        definitions(text.parse().expect("the sources are Rust"), &mut names);
        let place = path.strip_prefix(root).unwrap_or(path).display().to_string();
        for name in names {
            defined.entry(name).or_default().push(place.clone());
        }
    }
    defined
}

/// Returns the files and folders (without `.rs`) of the test-only modules in `text`, at `path`.
fn test_files(path: &Path, text: &str) -> Vec<PathBuf> {
    let whole = path.with_extension("");
    let folder = match whole.file_name().and_then(|name| name.to_str()) {
        Some("mod" | "lib" | "main") => path.parent().expect("a file is in a folder"),
        _ => &whole,
    };
    test_modules(text).map(|module| folder.join(module)).collect()
}

/// Returns the test-only modules of `text` that have their own files.
fn test_modules(text: &str) -> impl Iterator<Item = &str> {
    text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
        let (_, module) = rest.lines().next()?.split_once("mod ")?;
        module.strip_suffix(';')
    })
}

/// Finds the types and traits defined in modules of `source`, without tests and function bodies.
fn definitions(source: TokenStream, found: &mut Vec<String>) {
    let trees: Vec<TokenTree> = source.into_iter().collect();
    let word = |at: usize| trees.get(at).map(TokenTree::to_string).unwrap_or_default();
    for (at, tree) in trees.iter().enumerate() {
        match tree {
            TokenTree::Ident(kind) if ["struct", "enum", "trait", "type"].iter().any(|item| kind == item) => {
                if let Some(TokenTree::Ident(name)) = trees.get(at + 1) {
                    found.push(name.to_string());
                }
            }
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace && at >= 2 => {
                let (before, name) = (word(at - 2), word(at - 1));
                if before == "mod" && name != "tests" || before == "pin_project" && name == "!" {
                    definitions(group.stream(), found);
                }
            }
            _ => {}
        }
    }
}
