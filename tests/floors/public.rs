//! Public functions, constants and modules whose names occur nowhere outside of their crate.
//!
//! They can be `pub(crate)`, and then the compiler reports one that nothing uses. Types and fields are
//! not checked: a type that a public function returns is public, even if no other crate names it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::CRATES;

/// What a user of a published crate needs: to drive a `Gate` without its handle, and to build a refusal.
const FOR_USERS: [(&str, &[&str]); 1] = [("crates/core/src", &["abandon", "awaits", "with_quotas"])];

#[test]
fn public_names_are_used_outside_of_their_crate() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for folder in ["src", "crates", "tests", "benches", "bench", "examples"] {
        read(&root.join(folder), &mut texts);
    }
    // It names what it lists.
    texts.retain(|(path, _)| !path.ends_with(file!()));
    let mut faults = Vec::new();
    for (folder, _, least) in CRATES {
        let (own, others): (Vec<_>, Vec<_>) =
            texts.iter().partition(|(path, _)| is_library(path.strip_prefix(root).unwrap_or(path), folder));
        assert!(own.len() >= least / 2, "only {} files of {folder} were read", own.len());
        let outside: BTreeSet<&str> = others.iter().flat_map(|(_, text)| words(text)).collect();
        let listed = FOR_USERS.iter().find_map(|(name, listed)| (*name == folder).then_some(*listed));
        let mut unused = BTreeSet::new();
        for (_, text) in own {
            public(text.parse().expect("the sources are Rust"), &mut |name| {
                if !outside.contains(&*name) {
                    unused.insert(name);
                }
            });
        }
        let listed = listed.into_iter().flatten().map(|&name| name.to_owned()).collect();
        faults.extend(unused.difference(&listed).map(|name| format!("{folder}: no other crate uses {name}")));
        faults.extend(listed.difference(&unused).map(|name| format!("{folder}: {name} need not be listed")));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn public_names_are_told_from_others() {
    let source = "pub fn a() {} pub(crate) fn b() {} impl X { pub const unsafe fn c() {} pub d: u8 }
        mod m { pub async fn e() {} } pub const F: u8 = 0; pub mod g {} pub use h::i; pub struct J;
        mod tests { pub fn k() {} } fn l() { let pub_m = 0; } macro_rules! n { () => { pub fn o() {} } }";
    let mut found = Vec::new();
    public(source.parse().expect("it is Rust"), &mut |name| found.push(name));
    assert_eq!(found, ["a", "c", "e", "F", "g"]);
    assert_eq!(
        words("let a_b = c.d(); // e\n/// f\nx").collect::<Vec<_>>(),
        ["let", "a_b", "c", "d", "e", "x"]
    );
}

/// Returns `true` if `path` belongs to the library in `folder`; the program beside it is a crate of its own.
fn is_library(path: &Path, folder: &str) -> bool {
    path.starts_with(folder) && !path.starts_with("src/commands") && path != Path::new("src/main.rs")
}

fn read(folder: &Path, texts: &mut Vec<(PathBuf, String)>) {
    for path in fs::read_dir(folder).expect("sources are readable").flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            read(&path, texts);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let text = fs::read_to_string(&path).expect("sources are text");
            texts.push((path, text));
        }
    }
}

/// Returns the words of `text`, without lines that are comments.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split(|letter: char| !letter.is_alphanumeric() && letter != '_'))
        .filter(|word| !word.is_empty())
}

/// Finds the public functions, constants and modules in `source`, without tests and macros.
fn public(source: TokenStream, found: &mut impl FnMut(String)) {
    let trees: Vec<TokenTree> = source.into_iter().collect();
    let word = |at: usize| trees.get(at).map(TokenTree::to_string).unwrap_or_default();
    for (at, tree) in trees.iter().enumerate() {
        match tree {
            TokenTree::Ident(name) if name == "pub" => {
                let mut next = at + 1;
                while ["async", "unsafe"].contains(&&*word(next))
                    || word(next) == "const" && ["fn", "unsafe"].contains(&&*word(next + 1))
                {
                    next += 1;
                }
                if ["fn", "const", "static", "mod"].contains(&&*word(next)) {
                    found(word(next + 1));
                }
            }
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                let is_macro = at >= 2 && word(at - 2) == "!";
                let is_tests = at >= 1 && word(at - 1) == "tests";
                if !is_macro && !is_tests {
                    public(group.stream(), found);
                }
            }
            _ => {}
        }
    }
}
