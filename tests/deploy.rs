//! `deploy/` is complete: the files that Compose copies exist, the dashboard equals its list, and
//! every alert has a test and a runbook chapter. `make monitoring` checks with the tools themselves
//! and a gateway.
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test's own helpers, which clippy does not see as tests"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use traffic_dam::refusal::Reason;

#[path = "deploy/dashboard.rs"]
mod dashboard;
#[path = "deploy/probe.rs"]
mod probe;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns the words after `key` on lines of `text`.
fn after<'a>(text: &'a str, key: &'a str) -> BTreeSet<&'a str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(key)).map(str::trim).collect()
}

#[test]
fn the_dashboard_is_what_its_list_says() {
    let wanted = format!("{:#}\n", dashboard::dashboard());
    let path = root().join("deploy/grafana/dashboard.json");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &wanted).expect("the repository can be written to");
    }
    let have = text("deploy/grafana/dashboard.json");
    assert!(have == wanted, "the dashboard is old: run UPDATE=1 cargo test --test deploy");
}

#[test]
fn panels_have_what_grafana_needs_and_do_not_overlap() {
    let board = dashboard::dashboard();
    let panels = board["panels"].as_array().expect("panels are a list");
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    let mut titles = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title is text");
        assert!(ids.insert(panel["id"].as_u64()) && titles.insert(title), "{title} is there twice");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a place"));
        assert!(x + w <= 24, "{title} reaches beyond the grid");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{title} lies upon another panel at {cell:?}");
        }
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("queries are a list");
        assert!(!targets.is_empty(), "{title} asks nothing");
        for target in targets {
            let query = target["expr"].as_str().expect("a query is text");
            assert!(!query.contains("$i{") && !query.contains("[$r]"), "{title}: {query}");
            assert!(target["datasource"]["uid"] == "${datasource}", "{title} names a data source of its own");
            let many = targets.len() > 1 || query.contains(" by (");
            assert!(!many || target["legendFormat"] != "", "{title}: lines without names");
        }
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
    }
}

#[test]
fn what_is_copied_into_volumes_is_there() {
    let compose = text("deploy/compose/compose.yaml");
    // All else is a volume: a file that is mounted itself would stay the old one when an editor replaces it.
    assert_eq!(after(&compose, "- ../:"), BTreeSet::from(["/from:ro"]));
    let script = text("deploy/compose/settings.sh");
    let mut copied = 0;
    for word in script.split(|c: char| c.is_whitespace() || c == '"') {
        let path = word.strip_prefix("$from/").map(|path| format!("compose/{path}"));
        let path = path.or_else(|| word.strip_prefix("/from/").map(str::to_owned));
        // The certificate is made by deploy/compose/prepare.
        let Some(path) = path.filter(|path| !path.starts_with("compose/tls/")) else { continue };
        // Of a pattern, its folder.
        let path = path.split_once("/*").map_or(&*path, |(folder, _)| folder);
        assert!(root().join("deploy").join(path).exists(), "{path} is copied, and is not there");
        copied += 1;
    }
    assert!(copied >= 9, "only {copied} files and folders are copied");
    let example = text("deploy/compose/.env.example");
    for (_, rest) in compose.match_indices("${").map(|(at, _)| compose.split_at(at + 2)) {
        let name = rest.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).next().unwrap_or_default();
        assert!(example.contains(&format!("{name}=")), "{name} is not in .env.example");
    }
}

#[test]
fn one_service_builds_each_image_and_secrets_go_to_those_who_need_them() {
    let compose = text("deploy/compose/compose.yaml");
    // The gateway's and the worker's. The same tag built six times at once is five failures.
    assert_eq!(after(&compose, "build: ").len(), 2);
    assert_eq!(compose.matches("build: {").count(), 2);
    let gateway = compose.split_once("x-gateway:").and_then(|(_, rest)| rest.split_once("x-worker:"));
    assert!(gateway.is_some_and(|(gateway, _)| gateway.contains("DAM_ADMIN_TOKEN: ")));
    assert_eq!(compose.matches("DAM_ADMIN_TOKEN: ").count(), 1, "only gateways have an admin port");
    for ignored in [".gitignore", ".dockerignore"] {
        assert!(text(ignored).lines().any(|line| line.ends_with(".env")), "{ignored}");
    }
}

#[test]
fn the_image_is_built_with_the_compiler_that_the_package_asks_for() {
    let manifest = text("Cargo.toml");
    let wanted = after(&manifest, "rust-version = ")
        .pop_first()
        .expect("the package names a compiler")
        .trim_matches('"');
    assert!(
        text("deploy/Dockerfile").contains(&format!("FROM --platform=$BUILDPLATFORM rust:{wanted}-")),
        "the image has another than {wanted}"
    );
    assert!(
        text(".github/workflows/test.yml").contains(&format!("container: rust:{wanted}-")),
        "the workflow has another than {wanted}"
    );
}

#[test]
fn the_gateways_settings_are_valid() {
    for file in ["dam", "queue"] {
        let check = Command::new(env!("CARGO_BIN_EXE_traffic-dam"))
            .args(["check", "--config", &format!("deploy/compose/gateway/{file}.yaml")])
            .current_dir(root())
            .envs([
                ("DAM_ADMIN_LISTEN", "172.30.96.140:8081"),
                ("DAM_ADMIN_TOKEN", "a-token-of-many-letters-and-digits-1"),
                ("DAM_PROXIES", "172.30.96.0/26"),
                ("DAM_REDIS_KEY", "a-key-of-many-letters-and-digits-12345"),
                ("DAM_REDIS_URL", "redis://redis:6379"),
            ])
            .output()
            .expect("the binary runs");
        assert!(check.status.success(), "{file}: {}", String::from_utf8_lossy(&check.stderr));
    }
}

#[test]
fn every_alert_is_tested_both_ways_and_has_its_chapter() {
    let [alerts, tests, runbook, trouble] = [
        "deploy/prometheus/alerts.yml",
        "deploy/prometheus/tests.yml",
        "docs/runbook.md",
        "scripts/monitoring",
    ]
    .map(text);
    let caused: BTreeSet<&str> =
        after(&trouble, "\"${ask[@]}\" firing ").into_iter().flat_map(str::split_whitespace).collect();
    let names = after(&alerts, "- alert: ");
    assert!(names.len() >= 16, "{names:?}");
    assert_eq!(after(&runbook, "## TrafficDam").len(), names.len(), "the runbook has other chapters");
    for name in names {
        let chapter = runbook.split_once(&format!("\n## {name}\n")).map(|(_, rest)| rest);
        let chapter = chapter.unwrap_or_else(|| panic!("{name} has no chapter in the runbook"));
        let chapter = chapter.split("\n## ").next().unwrap_or_default();
        for part in ["**Means.**", "**Look.**", "**Do.**"] {
            assert!(chapter.contains(part), "{name}: its chapter lacks {part}");
        }
        let link = format!("\"{{{{ $externalLabels.runbooks }}}}docs/runbook.md#{}\"\n", name.to_lowercase());
        assert!(alerts.contains(&link), "{name} has no link");
        assert!(
            tests.contains(&format!("{{ alertname: {name}, eval_time: 59m }}")),
            "{name} is not tested quiet"
        );
        let fires = format!("- alertname: {name}\n");
        let fired = tests.match_indices(&fires).any(|(at, _)| {
            tests[at + fires.len()..].lines().take(2).any(|line| line.trim() == "exp_alerts:")
        });
        assert!(fired, "{name} never fires in a test");
        assert!(caused.contains(name), "nothing in scripts/monitoring causes what {name} is for");
    }
}

#[test]
fn the_manual_says_what_to_do_about_every_refusal() {
    let page = text("docs/manual/troubleshooting.md");
    let refusals = page.split_once("\n## Refusals\n").map(|(_, rest)| rest).expect("there is a chapter");
    let mut have: Vec<(&str, &str)> = after(refusals, "| `")
        .into_iter()
        .filter_map(|row| row.split_once("` | "))
        .filter_map(|(reason, rest)| Some((reason, rest.split_once(" | ")?.0)))
        .collect();
    have.sort_unstable();
    let mut wanted: Vec<(&str, String)> =
        Reason::ALL.map(|reason| (reason.as_str(), reason.status().as_u16().to_string())).to_vec();
    wanted.sort_unstable();
    assert_eq!(have, wanted.iter().map(|(reason, status)| (*reason, &**status)).collect::<Vec<_>>());
}

#[test]
fn a_query_names_only_rules_that_are_recorded() {
    let rules = text("deploy/prometheus/rules.yml");
    let recorded = after(&rules, "- record: ");
    let board = dashboard::dashboard();
    let queries =
        board["panels"].as_array().into_iter().flatten().flat_map(|panel| panel["targets"].as_array());
    let mut all: Vec<String> =
        queries.flatten().filter_map(|target| target["expr"].as_str().map(str::to_owned)).collect();
    all.push(text("deploy/prometheus/alerts.yml"));
    all.push(rules.clone());
    let mut used = BTreeSet::new();
    for query in &all {
        let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        used.extend(words.filter(|word| word.starts_with("traffic_dam:")));
    }
    let unknown: Vec<_> = used.iter().filter(|name| !recorded.contains(**name)).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not recorded");
    assert!(!used.is_empty());
}
