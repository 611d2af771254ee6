//! Blocks of settings and scenarios are read as the program reads them, and the commands of "Getting started" are run.
//!
//! A block of YAML is a settings file, and may leave the workers out. One that is something else says so with a second word:
//! `yaml kustomize`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use traffic_dam::config::{LoadContext, Overrides, from_str, scenario_from};

use super::pages::{Fence, Page, all};

/// Completes what a block leaves out for its reader: digests, and workers.
fn completed(block: &str) -> String {
    let mut parts = block.split("\"…\"");
    let mut text = parts.next().unwrap().to_owned();
    for (number, part) in parts.enumerate() {
        text.push_str(&format!("\"{number:064x}\"{part}"));
    }
    if !text.lines().any(|line| line.starts_with("workers:")) {
        text.push_str("workers: { static: [{ id: w1, url: \"http://127.0.0.1:8000\", slots: 8 }] }\n");
    }
    text
}

#[test]
fn every_block_of_settings_is_valid() {
    let context = LoadContext {
        variable: &|_| Some("a-value-of-many-letters-and-digits-1".to_owned()),
        obstacle: &|_| None,
        overrides: Overrides::default(),
    };
    let mut faults = Vec::new();
    let mut read = 0;
    for page in all() {
        for fence in page.fences.iter().filter(|fence| fence.info == "yaml") {
            let place = format!("{}:{}", page.path.display(), fence.line);
            read += 1;
            match from_str(&completed(&fence.text), Path::new(&place), context) {
                Err(errors) => faults.push(errors.to_string()),
                // A manual does not recommend what `check` warns of.
                Ok(settings) if page.path.starts_with("docs/manual") => {
                    faults.extend(settings.warnings().iter().map(|warning| format!("{place}: {warning}")));
                }
                Ok(_) => {}
            }
        }
    }
    assert!(
        faults.is_empty(),
        "a block that is no settings file says so, as in `yaml helm`:\n{}",
        faults.join("\n")
    );
    assert!(read > 20, "only {read} blocks were found");
}

#[test]
fn every_scenario_of_the_manual_is_valid() {
    let pages = all();
    let manual = pages.iter().filter(|page| page.path.starts_with("docs/manual"));
    let fences: Vec<&Fence> =
        manual.flat_map(|page| &page.fences).filter(|fence| fence.info == "yaml scenario").collect();
    assert!(!fences.is_empty());
    for fence in fences {
        scenario_from(fence.text.as_bytes(), Path::new("manual.yaml")).unwrap();
    }
}

/// A server that ends with the test.
struct Server(Child);

impl Server {
    /// Starts the program, and returns the addresses that it prints.
    fn start<const N: usize>(arguments: &[&str]) -> (Self, [String; N]) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_traffic-dam"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addresses =
            [(); N].map(|()| lines.next().unwrap().unwrap().rsplit("//").next().unwrap().to_owned());
        (Self(child), addresses)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Most often it still runs.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts a gateway with the settings of a chapter, before `worker` in the place of the chapter's own.
fn gateway(settings: &str, worker: &str, folder: &Path) -> (Server, [String; 2]) {
    let (before, rest) = settings.split_once("url: \"http://").unwrap();
    let (_, after) = rest.split_once('"').unwrap();
    let file = folder.join("dam.yaml");
    std::fs::write(&file, format!("{before}url: \"http://{worker}\"{after}")).unwrap();
    let file = file.to_str().unwrap();
    Server::start(&["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--config", file])
}

#[test]
fn the_commands_of_getting_started_do_what_it_says() {
    let page = Page::read(Path::new("docs/manual/getting-started.md"));
    let folder = tempfile::tempdir().unwrap();
    let worker = ["worker", "--listen", "127.0.0.1:0", "--token-time", "1ms", "--prefill-base", "1ms"];
    let (_worker, [worker]) = Server::start(&worker);
    let mut settings = "";
    let mut chapters = Vec::new();
    for fence in &page.fences {
        if fence.info == "yaml" {
            settings = &fence.text;
        }
        if fence.info != "sh run" {
            continue;
        }
        let (_gateway, [main, admin]) = gateway(settings, &worker, folder.path());
        let script = fence.text.replace("127.0.0.1:8080", &main).replace("127.0.0.1:8081", &admin);
        let ran = Command::new("bash").args(["-ec", &script]).stdin(Stdio::null()).output().unwrap();
        let out = String::from_utf8_lossy(&ran.stdout);
        let expected = match &*fence.chapter {
            "Go over the limit" => out.contains(" 200\n") && out.contains(" 429\n"),
            _ => out.contains("\"content\":\"") && out.trim_end().ends_with("data: [DONE]"),
        };
        assert!(ran.status.success() && expected, "{}: {script}{out}", fence.chapter);
        chapters.push(&*fence.chapter);
    }
    for chapter in ["vLLM", "SGLang", "llama.cpp", "Ollama", "FastAPI", "Go over the limit"] {
        assert!(chapters.contains(&chapter), "{chapter} has no commands to run: {chapters:?}");
    }
}
