//! The documents match the code. Generated parts are rewritten with `UPDATE=1`; what the rest names is looked up, and its
//! settings and commands are tried.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[path = "documents/blocks.rs"]
mod blocks;
#[path = "documents/mentions.rs"]
mod mentions;
#[path = "documents/pages.rs"]
mod pages;

use std::fmt::Write;
use std::path::Path;

use traffic_dam::layers::observe::LOG_FIELDS;
use traffic_dam::metrics::{MetricKind, Metrics, label_values};

/// Compares the text between two marks of a document, or writes it if `UPDATE` is set.
fn current(path: &str, mark: &str, expected: &str) {
    let begin = format!("<!-- {mark}: made from the code by `UPDATE=1 cargo test --test documents` -->\n");
    let end = format!("<!-- end of {mark} -->\n");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let page = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = page.split_once(&begin).unwrap();
    let (held, after) = rest.split_once(&end).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, format!("{before}{begin}{expected}{end}{after}")).unwrap();
        return;
    }
    assert!(held == expected, "{path} is out of date: run `UPDATE=1 cargo test --test documents`");
}

fn code(words: &[impl AsRef<str>]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{}`", word.as_ref())).collect();
    quoted.join(", ")
}

#[test]
fn the_table_of_metrics_is_current() {
    let metrics = Metrics::new();
    // Only gateways that use Redis show these series.
    metrics.redis().fallback();
    let mut text = "\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    let catalogue = metrics.catalogue();
    for metric in &catalogue {
        let (kind, labels) = (metric.kind.as_str(), code(&metric.labels));
        writeln!(text, "| `{}` | {kind} | {labels} | {} |", metric.name, metric.help).unwrap();
    }
    text.push_str("\n## Labels of closed sets\n\n| label | values |\n| --- | --- |\n");
    let mut labels: Vec<_> = catalogue.iter().flat_map(|metric| &metric.labels).collect();
    labels.sort_unstable();
    labels.dedup();
    for label in labels {
        if let Some(values) = label_values(label) {
            writeln!(text, "| `{label}` | {} |", code(&values)).unwrap();
        }
    }
    text.push_str("\n## Buckets\n\nUpper bounds, dense where the SLOs lie.\n\n");
    text.push_str("| histogram | `le` |\n| --- | --- |\n");
    for metric in catalogue.iter().filter(|metric| metric.kind == MetricKind::Histogram) {
        let bounds: Vec<_> = metric.buckets.iter().map(ToString::to_string).collect();
        writeln!(text, "| `{}` | {} |", metric.name, bounds.join(" ")).unwrap();
    }
    current("docs/metrics.md", "metrics", &text);
}

#[test]
fn the_table_of_log_fields_is_current() {
    let mut text = "\n| field | what it says |\n| --- | --- |\n".to_owned();
    for (name, meaning) in LOG_FIELDS {
        writeln!(text, "| `{name}` | {meaning} |").unwrap();
    }
    text.push('\n');
    current("docs/logs.md", "log fields", &text);
}

#[test]
fn the_drawn_path_has_every_layer_in_its_order() {
    let text = |path| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let stack = text("src/stack.rs");
    let (_, layers) = stack.split_once("ServiceBuilder::new()").unwrap();
    let mut path = vec!["listener".to_owned()];
    path.extend(layers.split(".layer(").skip(1).map(|layer| {
        let name: String = layer.trim_start().chars().take_while(char::is_ascii_alphanumeric).collect();
        name.trim_end_matches("Layer").to_lowercase()
    }));
    path.extend(["upstream".to_owned(), "worker".to_owned()]);
    for document in ["README.md", "docs/architecture.md"] {
        let page = text(document);
        let drawing = page.split("```").find(|block| block.contains("listener →")).unwrap();
        let drawn: Vec<_> = drawing.split('↓').next().unwrap().split('→').map(str::trim).collect();
        assert_eq!(drawn, path, "{document} draws another path than src/stack.rs");
    }
}
