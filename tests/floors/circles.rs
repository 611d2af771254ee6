//! Files and folders of one folder that import each other in a circle.
//!
//! An import through a folder's `mod.rs` counts as an import of the file from which it is passed on.
//! What `mod.rs` itself defines is not counted, and neither are tests, inside of files or in `tests.rs`
//! beside them: both may use all files of the folder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

use super::paths::paths;
use super::{CRATES, walk};

/// The path of a module from the root of its crate.
type ModulePath = Vec<String>;

/// Names that modules pass on, and what they stand for.
type PassedOn = BTreeMap<ModulePath, BTreeMap<String, ModulePath>>;

/// Names passed on by names passed on: more is a circle of `use` items.
const DEEPEST: usize = 8;

#[test]
fn files_import_each_other_in_no_circles() {
    let mut found: Vec<(&str, String, Vec<String>)> = Vec::new();
    for (folder, ..) in CRATES {
        let mut sources = BTreeMap::new();
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut Vec::new(), &mut |path, text| {
            let module: ModulePath = path.split("::").map(str::to_owned).collect();
            if !module.iter().any(|name| name == "tests") {
                sources.insert(module, text.to_owned());
            }
        });
        found.extend(circles(&sources).into_iter().map(|(module, files)| (folder, module, files)));
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Returns the circles of a crate: for each the folder, and the names in it in alphabetical order.
fn circles(sources: &BTreeMap<ModulePath, String>) -> Vec<(String, Vec<String>)> {
    let mut passed_on = PassedOn::new();
    let mut imports = Vec::new();
    for (module, text) in sources {
        let tokens = without_tests(text.parse().expect("the sources are Rust"));
        let names = passed_on.entry(module.clone()).or_default();
        for item in use_items(&tokens) {
            leaves(module, &item, None, names);
        }
        let here: Vec<&str> = module.iter().map(String::as_str).collect();
        let mut found = Vec::new();
        paths(&here, tokens, &mut found);
        imports.extend(found.into_iter().map(|path| (module, path)));
    }
    let mut folders: BTreeMap<ModulePath, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    for (module, path) in imports {
        let target = resolve(sources, &passed_on, path, 0);
        let common = module.iter().zip(&target).take_while(|(one, other)| one == other).count();
        if let (Some(from), Some(to), true) = (module.get(common), target.get(common), common > 0) {
            let folder = folders.entry(module[..common].to_vec()).or_default();
            folder.entry(from.clone()).or_default().insert(to.clone());
        }
    }
    let mut found = Vec::new();
    for (folder, files) in folders {
        let reached: BTreeMap<&String, BTreeSet<&String>> =
            files.keys().map(|file| (file, reachable(&files, file))).collect();
        let mut seen = BTreeSet::new();
        for (file, targets) in &reached {
            let circle: BTreeSet<&String> = targets
                .iter()
                .copied()
                .filter(|other| reached.get(other).is_some_and(|back| back.contains(file)))
                .collect();
            if circle.contains(file) && seen.insert(circle.clone()) {
                found.push((folder.join("::"), circle.into_iter().cloned().collect()));
            }
        }
    }
    found
}

/// Returns what `file` imports, and what that imports, and so on.
fn reachable<'a>(files: &'a BTreeMap<String, BTreeSet<String>>, file: &str) -> BTreeSet<&'a String> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&String> = files.get(file).into_iter().flatten().collect();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(files.get(next).into_iter().flatten());
        }
    }
    found
}

/// Returns the module that defines what `path` names.
fn resolve(
    sources: &BTreeMap<ModulePath, String>,
    passed_on: &PassedOn,
    path: ModulePath,
    depth: usize,
) -> ModulePath {
    let mut module = ModulePath::new();
    for (at, name) in path.iter().enumerate() {
        module.push(name.clone());
        if sources.contains_key(&module) {
            continue;
        }
        module.pop();
        let stands_for = passed_on.get(&module).and_then(|names| names.get(name));
        if let Some(stands_for) = stands_for.filter(|_| depth < DEEPEST) {
            let path = [stands_for, &path[at + 1..]].concat();
            return resolve(sources, passed_on, path, depth + 1);
        }
        break;
    }
    module
}

/// Removes the modules `tests` with their contents.
fn without_tests(source: TokenStream) -> TokenStream {
    let mut kept: Vec<TokenTree> = Vec::new();
    for tree in source {
        let before = kept.len().checked_sub(2).and_then(|at| kept.get(at..));
        let is_tests =
            before.is_some_and(|before| before[0].to_string() == "mod" && before[1].to_string() == "tests");
        if !(is_tests && matches!(tree, TokenTree::Group(_))) {
            kept.push(tree);
        }
    }
    kept.into_iter().collect()
}

/// Returns the tokens of each `use` item outside of other items.
fn use_items(source: &TokenStream) -> Vec<Vec<TokenTree>> {
    let mut items = Vec::new();
    let mut trees = source.clone().into_iter();
    while let Some(tree) = trees.next() {
        if tree.to_string() == "use" {
            items.push(trees.by_ref().take_while(|tree| tree.to_string() != ";").collect());
        }
    }
    items
}

/// Adds the names that the `use` tree `item` brings into `module`; `base` is the path before it.
fn leaves(
    module: &[String],
    item: &[TokenTree],
    base: Option<ModulePath>,
    names: &mut BTreeMap<String, ModulePath>,
) {
    if let [TokenTree::Group(group), ..] = item {
        let trees: Vec<TokenTree> = group.stream().into_iter().collect();
        for branch in trees.split(|tree| tree.to_string() == ",") {
            leaves(module, branch, base.clone(), names);
        }
        return;
    }
    let words: Vec<String> = item.iter().map(TokenTree::to_string).collect();
    let Some(first) = words.first() else { return };
    let base = match (&**first, base) {
        ("crate", None) => ModulePath::new(),
        ("self", base) => base.unwrap_or_else(|| module.to_vec()),
        ("super", base) => {
            let mut path = base.unwrap_or_else(|| module.to_vec());
            path.pop();
            path
        }
        // At the start, a module of the same file or folder; another crate's name leads nowhere.
        (name, base) => [base.as_deref().unwrap_or(module), &[name.to_owned()]].concat(),
    };
    match &words[1..] {
        [colon, again, ..] if colon == ":" && again == ":" => leaves(module, &item[3..], Some(base), names),
        [word, name] if word == "as" => drop(names.insert(name.clone(), base)),
        _ => drop(base.last().cloned().and_then(|name| names.insert(name, base))),
    }
}

#[cfg(test)]
mod examples {
    use super::*;

    fn found(sources: &[(&str, &str)]) -> Vec<(String, Vec<String>)> {
        let path = |module: &str| module.split("::").map(str::to_owned).collect();
        circles(&sources.iter().map(|(module, text)| (path(module), (*text).to_owned())).collect())
    }

    #[test]
    fn a_circle_is_found_also_through_the_folder_and_over_several_files() {
        for (a, b, c) in [
            ("use super::b::B;", "use super::a::A;", ""),
            ("use crate::top::B;", "fn f(_: super::a::A) {}", ""),
            ("use super::{c::C, X};", "use super::a::A;", "use crate::top::{b::B};"),
        ] {
            let sources =
                [("top", "pub use b::B; use self::b::Y as X;"), ("top::a", a), ("top::b", b), ("top::c", c)];
            let names = if c.is_empty() { vec!["a", "b"] } else { vec!["a", "b", "c"] };
            let expected = ("top".to_owned(), names.into_iter().map(str::to_owned).collect());
            assert_eq!(found(&sources), [expected], "{a} {b} {c}");
        }
    }

    #[test]
    fn one_direction_and_the_folder_itself_are_no_circle() {
        let sources = [
            ("top", "mod a; mod b; use a::A; pub struct T(A);"),
            ("top::a", "use super::T; use super::b::inner::I; mod tests { use super::super::c::C; }"),
            ("top::b", "mod inner;"),
            ("top::b::inner", "use crate::top::T; use super::super::b;"),
            ("top::c", "use super::a::A; const TEXT: &str = \"super::b\";"),
        ];
        assert_eq!(found(&sources), []);
    }
}
