//! Checks the layering of each crate: a module imports only from lower layers, not from siblings.
//!
//! The check reads text, not types: every path in a crate from `crate`, `traffic_dam` or `super`.
//! Test code is included, because its imports tie the layers as well. That a crate imports only from
//! lower crates needs no check: the manifests say it.
#![expect(clippy::expect_used, reason = "a test's own helpers, which clippy does not see as tests")]

use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

/// The layers of one crate, lowest first.
type Floors = &'static [&'static [&'static str]];

const CORE: Floors = &[
    &["clock", "glob", "hex", "refusal", "request", "table"],
    &["estimate", "limit", "shed"],
    &["fleet"],
    &["tower"],
    &["lib"],
];
const LAB: Floors = &[&["engine", "evidence"], &["simulate"], &["lib"]];
/// The gateway sees the modules of [`CORE`] as its own, below all of these.
const GATEWAY: Floors = &[
    &["net"],
    &["metrics", "openai", "spans"],
    &["redis"],
    &["layers", "upstream", "server", "agent", "sim"],
    &["stack", "config"],
    &["app"],
    &["commands", "main", "lib"],
];

/// The folders of the crates, and the least number of their files.
const CRATES: [(&str, Floors, usize); 3] =
    [("crates/core/src", CORE, 90), ("crates/lab/src", LAB, 30), ("src", GATEWAY, 250)];

/// Allowed imports of siblings. A request is timed and may be refused, and those two modules do not
/// know requests.
const ALLOWED: [(&str, &str); 2] = [("request", "clock"), ("request", "refusal")];

/// The pure modules, which must also run in a simulation, and the crates that they must not use.
const PURE: [&str; 6] = ["limit", "shed", "fleet", "estimate", "engine", "simulate"];
const STRAY: [&str; 5] = ["tokio", "hyper", "hyper_util", "tower", "redis"];

#[test]
fn every_module_imports_only_from_lower_floors() {
    let mut faults = Vec::new();
    for (folder, floors, least) in CRATES {
        let mut files = 0;
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut Vec::new(), &mut |path, text| {
            files += 1;
            faults.extend(check(floors, path, text).into_iter().map(|fault| format!("{folder}: {fault}")));
        });
        assert!(files >= least, "only {files} files of {folder} were read");
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn each_kind_of_stray_import_is_found() {
    for (floors, module, text, fault) in [
        (CORE, "limit::rule", "use crate::fleet::Fleet;", "limit::rule looks up to fleet"),
        (CORE, "limit", "use crate::{clock::Nanos, shed};", "limit looks at its sibling shed"),
        (
            CORE,
            "limit::rule",
            "mod tests { use super::super::super::estimate::X; }",
            "limit::rule looks at its sibling estimate",
        ),
        (GATEWAY, "redis", "fn f() -> crate::server::Peer { todo!() }", "redis looks up to server"),
        (LAB, "engine", "use super::{simulate::{Policy}};", "engine looks up to simulate"),
        (GATEWAY, "openai", "use crate::*;", "openai takes the whole crate"),
        (GATEWAY, "main", "use traffic_dam::attic;", "main names attic, which has no floor"),
        (CORE, "shed::gate", "#[tokio::test] async fn f() {}", "shed::gate names the crate tokio"),
        (CORE, "clock", "use crate::request::{Class,};", "clock looks at its sibling request"),
        (LAB, "engine", "use crate::limit::Rule;", "engine names limit, which has no floor"),
        (GATEWAY, "attic", "", "attic has no floor"),
    ] {
        assert_eq!(check(floors, module, text), [fault], "in {text}");
    }
}

#[test]
fn lawful_imports_pass() {
    for (floors, module, text) in [
        (
            CORE,
            "limit::keyed::shard",
            "use super::super::rule::Rule; use crate::{clock::Nanos, request::{self, Class}};",
        ),
        (GATEWAY, "app", "pub(crate) mod x { pub(in crate::app) use crate::{config, stack::build}; }"),
        (GATEWAY, "sim::worker", "use super::worker; use crate::sim::worker::Batch;"),
        (
            CORE,
            "limit",
            "//! like crate::fleet\n/* use /* crate::app */ */ const A: &str = \"crate::app\"; use self::rule;",
        ),
        (
            CORE,
            "limit",
            r##"const A: &str = r#"crate::app" "#; fn f<'a>(c: char) -> bool { c == '"' } fn g() { "crate::app"; }"##,
        ),
        (GATEWAY, "upstream", "use tokio::net; use crate::fleet::{Fleet, *};"),
        (GATEWAY, "net", "use crate::limit; use traffic_dam_core::fleet;"),
        (CORE, "request", "use crate::clock::Nanos;"),
    ] {
        assert_eq!(check(floors, module, text), [""; 0], "in {text}");
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

/// Returns the top module that a path leads to, and its layer.
fn unit<'p>(floors: Floors, path: &[&'p str]) -> Option<(&'p str, usize)> {
    let name = *path.first()?;
    Some((name, floors.iter().position(|floor| floor.contains(&name))?))
}

/// Returns the errors in the imports of `text`, the source of `module` in a crate with `floors`.
fn check(floors: Floors, module: &str, text: &str) -> Vec<String> {
    let own: Vec<&str> = module.split("::").collect();
    let Some((name, floor)) = unit(floors, &own) else { return vec![format!("{module} has no floor")] };
    let mut faults = Vec::new();
    let mut named = Vec::new();
    paths(&own, text.parse().expect("the sources are Rust"), &mut named);
    for path in named {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        if let ["", outside] = path[..] {
            if PURE.contains(&name) && STRAY.contains(&outside) {
                faults.push(format!("{module} names the crate {outside}"));
            }
            continue;
        }
        if path == ["*"] && floor + 1 < floors.len() {
            faults.push(format!("{module} takes the whole crate"));
            continue;
        }
        match unit(floors, &path) {
            Some((other, _)) if other == name || ALLOWED.contains(&(name, other)) => {}
            Some((other, above)) if above > floor => faults.push(format!("{module} looks up to {other}")),
            Some((other, beside)) if beside == floor => {
                faults.push(format!("{module} looks at its sibling {other}"));
            }
            // The gateway shows the modules of the core as its own.
            None if floors == GATEWAY && unit(CORE, &path).is_some() => {}
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
