//! One name, one type: a name that is defined twice in the crate stands here, with the reason.
//!
//! The check reads the tokens of `src/`: structs, enums, traits and aliases of modules, tests left out. Both ways: a name that
//! is defined once more fails, and so does a listed one that is defined less often than listed.
#![expect(clippy::expect_used, reason = "a test's own helpers, which clippy does not see as tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Why names are defined more than once, and how often each is.
const TWINS: [(&str, &[(&str, usize)]); 9] = [
    ("every subcommand's arguments, in a file of its own", &[("Arguments", 11)]),
    (
        "one setting: as the file spells it, as it is in effect, and as its part takes it",
        &[
            ("AdminSettings", 2),
            ("CallerKey", 2),
            ("CallerSettings", 2),
            ("Discovery", 2),
            ("Model", 2),
            ("EjectionMode", 2),
            ("RetrySettings", 2),
            ("RouteTimeouts", 2),
            ("Sticky", 3),
            ("Timeouts", 3),
        ],
    ),
    (
        "a section of the settings file (`config::file`) has the name of the part that it sets",
        &[
            ("Admin", 2),
            ("Bounds", 4),
            ("Callers", 4),
            ("Drain", 3),
            ("Law", 2),
            ("Limit", 2),
            ("Log", 3),
            ("Redis", 2),
            ("Route", 4),
            ("Worker", 3),
        ],
    ),
    ("private to a file: what a handle that is cloned shares", &[("Inner", 6), ("Shared", 5)]),
    (
        "what went wrong, in the words of one module; others name it with that module",
        &[("Failure", 4), ("Fault", 9), ("TlsError", 2)],
    ),
    (
        "jobs and rules in Redis are built alike, in folders that do not see each other",
        &[
            ("Afterwards", 2),
            ("Errand", 4),
            ("Never", 2),
            ("Refused", 3),
            ("Said", 5),
            ("Scripts", 2),
            ("Written", 3),
        ],
    ),
    ("a family of series has the name of what it is about", &[("Pool", 3), ("Rule", 2)]),
    (
        "measured runs (`evidence`) and simulated ones (`sim`) have the same parts, and do not see each other",
        &[
            ("Check", 3),
            ("Figures", 2),
            ("Line", 4),
            ("Outcome", 4),
            ("Point", 2),
            ("Report", 4),
            ("Request", 2),
            ("Run", 3),
        ],
    ),
    (
        "none but age: whoever works on one of them gives it a name of its own",
        &[
            ("Answer", 3),
            ("Ask", 2),
            ("Asked", 2),
            ("Charge", 2),
            ("Counter", 2),
            ("Desk", 2),
            ("Engine", 2),
            ("Entry", 4),
            ("Event", 2),
            ("Fields", 2),
            ("File", 2),
            ("Found", 2),
            ("Head", 2),
            ("Health", 2),
            ("Held", 2),
            ("Hold", 2),
            ("Key", 2),
            ("Kind", 2),
            ("Limits", 2),
            ("Link", 2),
            ("Live", 2),
            ("Mark", 3),
            ("Member", 2),
            ("Outgoing", 2),
            ("Phase", 2),
            ("Lines", 2),
            ("Listeners", 2),
            ("Place", 6),
            ("Promise", 2),
            ("Reading", 3),
            ("Roll", 2),
            ("Turn", 3),
            ("Roster", 2),
            ("Sample", 2),
            ("Seat", 2),
            ("Seen", 2),
            ("Share", 2),
            ("Silence", 2),
            ("Source", 5),
            ("Standing", 3),
            ("State", 5),
            ("Stream", 3),
            ("Switch", 2),
            ("Taken", 3),
            ("Told", 2),
            ("Waiting", 3),
            ("Watch", 3),
            ("Wire", 2),
        ],
    ),
];

#[test]
fn a_name_means_one_type_or_is_listed_with_a_reason() {
    let defined = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(defined.len() > 500, "only {} names were found", defined.len());
    let mut listed = BTreeMap::new();
    for (reason, names) in TWINS {
        for &(name, count) in names {
            assert!(listed.insert(name, count).is_none(), "{name} is listed twice, once as: {reason}");
        }
    }
    let mut faults = Vec::new();
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

/// Each name that `src/` defines outside of tests, with its files.
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

/// The files and folders, without `.rs`, of the modules that `text`, the source at `path`, declares for tests only.
fn test_files(path: &Path, text: &str) -> Vec<PathBuf> {
    let whole = path.with_extension("");
    let folder = match whole.file_name().and_then(|name| name.to_str()) {
        Some("mod" | "lib" | "main") => path.parent().expect("a file is in a folder"),
        _ => &whole,
    };
    test_modules(text).map(|module| folder.join(module)).collect()
}

/// The modules in files of their own that `text` declares for tests only.
fn test_modules(text: &str) -> impl Iterator<Item = &str> {
    text.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
        let (_, module) = rest.lines().next()?.split_once("mod ")?;
        module.strip_suffix(';')
    })
}

/// Finds the types and traits that the modules of `source` define, tests and what functions keep to themselves left out.
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
