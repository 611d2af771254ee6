//! Checks the layering: a module imports only from lower layers, and not from siblings.
//!
//! The check reads text, not types: every path in `src/` from `crate`, `traffic_dam` or `super`.
//! Test code is included, because its imports tie the layers as well.
#![expect(clippy::expect_used, reason = "a test's own helpers, which clippy does not see as tests")]

use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

/// The layers, lowest first. Each folder of `sim` has its own layer.
const FLOORS: [&[&str]; 8] = [
    &["clock", "fuzz", "glob", "hex", "net", "refusal", "request", "table"],
    &["evidence", "limit", "shed", "metrics", "openai", "sim::engine", "spans"],
    &["fleet"],
    &["redis", "sim::simulate"],
    &["layers", "upstream", "server", "agent", "sim", "sim::worker"],
    &["stack", "config"],
    &["app"],
    &["commands", "main", "lib"],
];

/// Allowed imports of siblings. A request is timed and may be refused, and those two modules do not
/// know requests. `fuzz` sends hostile bytes to parsers for a time, only in tests.
const ALLOWED: [(&str, &str); 3] = [("request", "clock"), ("request", "refusal"), ("fuzz", "clock")];

/// The pure modules, which must also run in a simulation, and the crates that they must not use.
const PURE: [&str; 4] = ["limit", "shed", "fleet", "sim::engine"];
const STRAY: [&str; 5] = ["tokio", "hyper", "hyper_util", "tower", "redis"];

#[test]
fn every_module_imports_only_from_lower_floors() {
    let mut faults = Vec::new();
    let mut files = 0;
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut Vec::new(), &mut |path, text| {
        files += 1;
        faults.extend(check(path, text));
    });
    assert!(files > 10, "only {files} files were read");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn each_kind_of_stray_import_is_found() {
    for (module, text, fault) in [
        ("limit::rule", "use crate::fleet::Fleet;", "limit::rule looks up to fleet"),
        ("limit", "use crate::{clock::Nanos, shed};", "limit looks at its sibling shed"),
        (
            "limit::rule",
            "mod tests { use super::super::super::openai::X; }",
            "limit::rule looks at its sibling openai",
        ),
        ("fleet", "fn f() -> crate::server::Peer { todo!() }", "fleet looks up to server"),
        ("sim::engine", "use super::{worker::{Spec}};", "sim::engine looks up to sim::worker"),
        ("openai", "use crate::*;", "openai takes the whole crate"),
        ("main", "use traffic_dam::attic;", "main names attic, which has no floor"),
        ("shed::gate", "#[tokio::test] async fn f() {}", "shed::gate names the crate tokio"),
        ("clock", "use crate::request::{Class,};", "clock looks at its sibling request"),
        ("attic", "", "attic has no floor"),
    ] {
        assert_eq!(check(module, text), [fault], "in {text}");
    }
}

#[test]
fn lawful_imports_pass() {
    for (module, text) in [
        (
            "limit::keyed::shard",
            "use super::super::rule::Rule; use crate::{clock::Nanos, request::{self, Class}};",
        ),
        ("app", "pub(crate) mod x { pub(in crate::app) use crate::{config, stack::build}; }"),
        ("sim::worker", "use super::engine; use crate::sim::engine::Batch;"),
        (
            "limit",
            "//! like crate::fleet\n/* use /* crate::app */ */ const A: &str = \"crate::app\"; use self::rule;",
        ),
        (
            "limit",
            r##"const A: &str = r#"crate::app" "#; fn f<'a>(c: char) -> bool { c == '"' } fn g() { "crate::app"; }"##,
        ),
        ("upstream", "use tokio::net; use crate::fleet::{Fleet, *};"),
        ("request", "use crate::clock::Nanos;"),
    ] {
        assert_eq!(check(module, text), [""; 0], "in {text}");
    }
}

fn walk(folder: &Path, module: &mut Vec<String>, visit: &mut impl FnMut(&str, &str)) {
    for entry in fs::read_dir(folder).expect("src is readable").flatten() {
        let path = entry.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("names are text").to_owned();
        module.push(name);
        if path.is_dir() {
            walk(&path, module, visit);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            let own = module.strip_suffix(&["mod".to_owned()]).unwrap_or(module);
            visit(&own.join("::"), &fs::read_to_string(&path).expect("sources are text"));
        }
        module.pop();
    }
}

/// Returns the unit that a module path belongs to, and its layer.
fn unit(path: &[&str]) -> Option<(String, usize)> {
    (1..=2.min(path.len())).rev().map(|length| path[..length].join("::")).find_map(|name| {
        FLOORS.iter().position(|floor| floor.contains(&name.as_str())).map(|floor| (name, floor))
    })
}

/// Returns the errors in the imports of `text`, the source of `module`.
fn check(module: &str, text: &str) -> Vec<String> {
    let own: Vec<&str> = module.split("::").collect();
    let Some((name, floor)) = unit(&own) else { return vec![format!("{module} has no floor")] };
    let mut faults = Vec::new();
    let mut named = Vec::new();
    paths(&own, text.parse().expect("the sources are Rust"), &mut named);
    for path in named {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if let ["", outside] = path[..] {
            if PURE.contains(&name.as_str()) && STRAY.contains(&outside) {
                faults.push(format!("{module} names the crate {outside}"));
            }
            continue;
        }
        if path == ["*"] && floor < 7 {
            faults.push(format!("{module} takes the whole crate"));
            continue;
        }
        match unit(&path) {
            Some((other, _)) if other == name || ALLOWED.contains(&(&name, &other)) => {}
            Some((other, above)) if above > floor => faults.push(format!("{module} looks up to {other}")),
            Some((other, beside)) if beside == floor && !other.starts_with(&format!("{name}::")) => {
                faults.push(format!("{module} looks at its sibling {other}"));
            }
            None if !path.is_empty() => {
                faults.push(format!("{module} names {}, which has no floor", path[0]))
            }
            _ => {}
        }
    }
    faults.dedup();
    faults
}

/// Finds every path in `source`, from the crate's root; for a forbidden crate it is `["", name]`.
fn paths(here: &[&str], source: TokenStream, found: &mut Vec<Vec<String>>) {
    let trees: Vec<TokenTree> = source.into_iter().collect();
    let word = |at: usize| trees.get(at).map(TokenTree::to_string).unwrap_or_default();
    for (at, tree) in trees.iter().enumerate() {
        if let TokenTree::Group(group) = tree {
            let name = word(at.wrapping_sub(1));
            let inner = [here, &[name.as_str()]].concat();
            let is_module = word(at.wrapping_sub(2)) == "mod";
            paths(if is_module { &inner } else { here }, group.stream(), found);
        }
        let (name, leads_on) = (word(at), word(at + 1) == ":" && word(at + 2) == ":");
        if at > 0 && word(at - 1) == ":" && word(at.wrapping_sub(2)) == ":" {
            continue;
        }
        match name.as_str() {
            "crate" | "traffic_dam" if leads_on => follow(Vec::new(), &trees[at + 3..], found),
            "super" if leads_on => {
                follow(here.iter().map(|&part| part.into()).collect(), &trees[at..], found);
            }
            name if STRAY.contains(&name) && (leads_on || word(at + 1) == ";") => {
                found.push(vec![String::new(), name.into()]);
            }
            _ => {}
        }
    }
}

/// Follows the path, or the tree of paths, at the start of `rest`, from `base`.
fn follow(mut base: Vec<String>, rest: &[TokenTree], found: &mut Vec<Vec<String>>) {
    match rest.first() {
        Some(TokenTree::Group(group)) => {
            let trees: Vec<TokenTree> = group.stream().into_iter().collect();
            for branch in trees.split(|tree| tree.to_string() == ",") {
                follow(base.clone(), branch, found);
            }
            return;
        }
        Some(first) => match first.to_string().as_str() {
            "self" => {}
            "super" => drop(base.pop()),
            name => base.push(name.into()),
        },
        None => return,
    }
    if rest.len() > 3 && rest[1].to_string() == ":" && rest[2].to_string() == ":" {
        follow(base, &rest[3..], found);
    } else {
        found.push(base);
    }
}
