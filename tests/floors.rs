//! Checks the layering of each crate: a module imports only from lower layers, not from siblings.
//! Files within a folder do not import each other in circles, and some crates have one owner.
//!
//! The check reads text, not types: every path in a crate from `crate`, `traffic_dam` or `super`.
//! Test code is included, because its imports tie the layers as well. That a crate imports only from
//! lower crates needs no check: the manifests say it.
#![expect(clippy::expect_used, reason = "a test's own helpers, which clippy does not see as tests")]

#[path = "floors/circles.rs"]
mod circles;
#[path = "floors/paths.rs"]
mod paths;
#[path = "floors/public.rs"]
mod public;

use std::fs;
use std::path::Path;

use self::paths::paths;

/// The layers of one crate, lowest first.
type Floors = &'static [&'static [&'static str]];

const CORE: Floors = &[
    &["clock", "glob", "hex", "refusal", "request", "table"],
    &["estimate", "limit", "models", "shed"],
    &["fleet"],
    &["tower"],
    &["lib"],
];
const LAB: Floors = &[&["draw"], &["engine", "evidence"], &["simulate"], &["lib"]];
const WORKER: Floors = &[
    &["scripts", "settings", "signing"],
    &["connect", "reply"],
    &["publisher", "pushes"],
    &["consumer"],
    &["drainer"],
    &["lib"],
];
/// The gateway sees the modules of [`CORE`] as its own, below all of these.
const GATEWAY: Floors = &[
    &["net", "view"],
    &["metrics", "openai", "scrape", "spans"],
    &["redis"],
    &["layers", "upstream", "server", "agent", "discovery", "sim"],
    &["stack", "config"],
    &["app"],
    &["commands", "main", "lib"],
];

/// The folders of the crates, and the least number of their files.
const CRATES: [(&str, Floors, usize); 4] = [
    ("crates/core/src", CORE, 90),
    ("crates/lab/src", LAB, 30),
    ("crates/worker/src", WORKER, 12),
    ("src", GATEWAY, 250),
];

/// Allowed imports of siblings. A request is timed and may be refused, its caller may use models by
/// patterns, and those three modules do not know requests.
const ALLOWED: [(&str, &str); 3] = [("request", "clock"), ("request", "refusal"), ("request", "glob")];

/// The pure modules, which must also run in a simulation, and the crates that they must not use.
const PURE: [&str; 7] = ["limit", "models", "shed", "fleet", "estimate", "engine", "simulate"];
const STRAY: [&str; 5] = ["tokio", "hyper", "hyper_util", "tower", "redis"];

/// Crates that only one module uses, so that what they say is translated in one place. The crate of
/// workers is about Redis as a whole.
const OWNED: [(&str, &str); 6] = [
    ("redis", "redis"),
    ("prometheus", "metrics"),
    ("traffic_dam_worker", "redis"),
    ("hickory_resolver", "discovery"),
    ("kube", "discovery"),
    ("k8s_openapi", "discovery"),
];

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
        (GATEWAY, "app", "use redis::{RedisError};", "app names the crate redis"),
        (GATEWAY, "redis", "fn f(_: prometheus::Counter) {}", "redis names the crate prometheus"),
        (CORE, "fleet", "use redis;", "fleet names the crate redis"),
        (GATEWAY, "sim", "use traffic_dam_worker::signing;", "sim names the crate traffic_dam_worker"),
        (WORKER, "reply", "use crate::pushes;", "reply looks up to pushes"),
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
        (GATEWAY, "redis", "use redis::Cmd; fn f(redis: u8) { let x = redis; }"),
        (WORKER, "connect", "use redis::Cmd; use crate::settings::Urls;"),
        (GATEWAY, "config", "pub mod redis; pub use redis::Section;"),
        (GATEWAY, "app", "use crate::{redis::link, openai::{error}}; fn f(s: &S) { g(s.redis); }"),
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
            let owner = OWNED
                .iter()
                .filter(|_| floors != WORKER)
                .find_map(|(owned, owner)| (*owned == outside).then_some(*owner));
            let is_own = owner == Some(name) || text.contains(&format!("mod {outside};"));
            if owner.is_some() && !is_own || PURE.contains(&name) && STRAY.contains(&outside) {
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
