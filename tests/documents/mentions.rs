//! What documents name exists: links, subcommands and their options, make targets, files, settings, metrics, alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use traffic_dam::config::schema;
use traffic_dam::metrics::Metrics;

use super::pages::{Page, all, root};

/// Collects faults of all pages, so that one run shows them all.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, page: &Page, fault: impl std::fmt::Display) {
        self.0.push(format!("{}: {fault}", page.path.display()));
    }

    fn none(&self) {
        assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
    }
}

/// Resolves `.` and `..` without looking at the file system.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

#[test]
fn every_link_leads_somewhere() {
    let pages = all();
    let anchors: BTreeMap<&Path, Vec<String>> =
        pages.iter().map(|page| (page.path.as_path(), page.anchors())).collect();
    let mut faults = Faults::default();
    let mut links = 0;
    for page in &pages {
        for link in page.links().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            links += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => page.path.clone(),
                file => normal(&page.path.parent().unwrap().join(file)),
            };
            if !root().join(&target).exists() {
                faults.add(page, format!("`{link}`: there is no such file"));
            } else if !anchor.is_empty()
                && anchors.get(&*target).is_some_and(|anchors| anchors.iter().all(|known| known != anchor))
            {
                faults.add(page, format!("`{link}`: there is no such heading"));
            }
        }
    }
    faults.none();
    assert!(links > 200, "only {links} links were found");
}

/// Returns the lines of code of a page: of blocks that a shell reads or nobody, and of code in the text.
fn lines(page: &Page) -> Vec<String> {
    let shell = |info: &str| matches!(info.split(' ').next(), Some("" | "sh" | "bash" | "console"));
    let blocks = page.fences.iter().filter(|fence| shell(&fence.info)).map(|fence| &*fence.text);
    let lines = blocks
        .chain(page.code())
        .flat_map(|text| text.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>());
    lines.collect()
}

/// Returns the arguments of each call of the program in a line, up to a word of the shell's own.
fn calls(line: &str) -> Vec<Vec<&str>> {
    let mut calls = Vec::new();
    let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
    while let Some(word) = words.next() {
        let program = word.trim_start_matches('(').rsplit('/').next() == Some("traffic-dam")
            && !word.starts_with("deploy/");
        if program {
            let own = |word: &&str| !matches!(*word, "|" | "&" | "&&" | ";" | ">" | "2>" | "--");
            calls.push(words.clone().take_while(own).collect());
        }
    }
    calls
}

/// Returns the options in a help text.
fn options(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words = lines
        .flat_map(|line| line.split([' ', ',']).take_while(|word| word.is_empty() || word.starts_with('-')));
    words.filter(|word| !word.is_empty()).map(|word| word.trim_end_matches("...").to_owned()).collect()
}

#[test]
fn every_command_has_the_options_that_are_named() {
    let help = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_traffic-dam")).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let general = help(&["--help"]);
    let (_, list) = general.split_once("Commands:\n").unwrap();
    let names =
        list.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    let known: BTreeMap<&str, BTreeSet<String>> =
        names.map(|name| (name, options(&help(&[name, "--help"])))).collect();
    assert!(known["serve"].contains("--config") && known["serve"].contains("-c"), "{known:?}");
    let mut faults = Faults::default();
    let mut seen = 0;
    for page in all() {
        for line in lines(&page) {
            for call in calls(&line) {
                let Some((name, arguments)) = call.split_first().filter(|(name, _)| !name.starts_with('-'))
                else {
                    continue;
                };
                let Some(options) = known.get(name) else {
                    faults.add(&page, format!("`{line}`: there is no `traffic-dam {name}`"));
                    continue;
                };
                seen += 1;
                for option in arguments.iter().filter(|word| word.starts_with('-') && word.len() > 1) {
                    let option = option.split('=').next().unwrap().trim_end_matches([',', '.', ')']);
                    if !options.contains(option) {
                        faults.add(&page, format!("`{line}`: `traffic-dam {name}` has no `{option}`"));
                    }
                }
            }
        }
    }
    faults.none();
    assert!(seen > 40, "only {seen} commands were found");
}

#[test]
fn every_make_target_is_one() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.0))
        .filter(|name| is_word(name))
        .collect();
    assert!(targets.contains("test"), "{targets:?}");
    let mut faults = Faults::default();
    for page in all() {
        for line in lines(&page) {
            let mut words = line.split_whitespace().skip_while(|word| word.contains('='));
            if let (Some("make"), Some(target)) = (words.next(), words.next())
                && is_word(target)
                && !targets.contains(target)
            {
                faults.add(&page, format!("`{line}`: there is no such target"));
            }
        }
    }
    faults.none();
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[test]
fn every_file_of_the_repository_that_is_named_exists() {
    // The changelog names files that are gone; `prepare` makes the certificate.
    let made = ["deploy/compose/tls/cert.pem"];
    let folders = ["bench/", "deploy/", "docs/", "examples/", "k6/", "scripts/", "src/", "tests/"];
    let mut faults = Faults::default();
    for page in all().iter().filter(|page| page.path != Path::new("CHANGELOG.md")) {
        for word in page.code().flat_map(str::split_whitespace).filter(|word| !made.contains(word)) {
            let plain = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-@".contains(&byte));
            if plain && folders.iter().any(|folder| word.starts_with(folder)) && !root().join(word).exists() {
                faults.add(page, format!("`{word}`: there is no such file"));
            }
        }
    }
    faults.none();
}

/// Returns `true` if the schema has a key at this path; indices are left out.
fn has_key(schema: &Value, path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    let choices =
        ["anyOf", "oneOf", "allOf"].iter().filter_map(|name| schema.get(name)?.as_array()).flatten();
    let mut inner = choices.chain(schema.get("items"));
    inner.any(|inner| has_key(inner, path))
        || schema.get("properties").and_then(|all| all.get(first)).is_some_and(|inner| has_key(inner, rest))
        || schema.get("additionalProperties").is_some_and(|inner| inner.is_object() && has_key(inner, rest))
}

#[test]
fn every_setting_that_is_named_is_one() {
    let schema = schema();
    let sections = schema["properties"].as_object().unwrap();
    // Values of the Helm chart are named like settings.
    let foreign = [Path::new("docs/kubernetes.md")];
    let mut faults = Faults::default();
    let mut seen = 0;
    for page in all().iter().filter(|page| !foreign.contains(&&*page.path)) {
        for code in page.code() {
            let name = |part: &str| {
                part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            };
            let path: Vec<&str> = code.split('.').map(|part| part.trim_end_matches("[]")).collect();
            let file = matches!(path.last(), Some(&("md" | "rs" | "conf" | "yaml" | "yml" | "json" | "py")));
            if path.len() < 2
                || file
                || !path.iter().all(|part| name(part))
                || !sections.contains_key(path[0])
            {
                continue;
            }
            seen += 1;
            if !has_key(schema, &path) {
                faults.add(page, format!("`{code}`: there is no such setting"));
            }
        }
    }
    faults.none();
    assert!(seen > 100, "only {seen} settings were found");
    assert!(!has_key(schema, &["callers", "keyes"]) && has_key(schema, &["callers", "keys", "sha256"]));
}

#[test]
fn every_metric_and_alert_that_is_named_exists() {
    let metrics = Metrics::new();
    // Only gateways that use Redis show these series.
    metrics.redis().fallback();
    let known: BTreeSet<String> = metrics.catalogue().iter().map(|metric| metric.name.clone()).collect();
    let alerts = fs::read_to_string(root().join("deploy/prometheus/alerts.yml")).unwrap();
    let mut faults = Faults::default();
    for page in all().iter().filter(|page| page.path != Path::new("CHANGELOG.md")) {
        for code in page.code() {
            let name = code.split('{').next().unwrap().trim_start_matches("traffic_dam_");
            let name = name.trim_end_matches("_count").trim_end_matches("_bucket");
            let metric = ["_total", "_seconds"].iter().any(|end| name.ends_with(end))
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            if metric && !known.contains(name) {
                faults.add(page, format!("`{code}`: there is no such metric"));
            }
        }
        let text = fs::read_to_string(root().join(&page.path)).unwrap();
        for (at, _) in text.match_indices("TrafficDam") {
            let name = text[at..].split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap();
            if name != "TrafficDam" && !alerts.contains(&format!("- alert: {name}\n")) {
                faults.add(page, format!("{name}: there is no such alert"));
            }
        }
    }
    faults.none();
}
