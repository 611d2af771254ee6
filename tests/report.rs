//! Runs `traffic-dam report` and `capacity` as commands: a folder of runs in, files and an exit
//! code out. Each kind of faulty run has its own exit code.
#![expect(clippy::expect_used, reason = "a test's own helpers, which clippy does not see as tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

/// The runs of one experiment: facts, and requests.
type Runs = Vec<(Value, Vec<Value>)>;

const WARM_S: u64 = 2;
const MEASURED_S: u64 = 12;

/// Half of the capacity on both arms, twice, and a fleet of two.
fn sound() -> Runs {
    let plan = [("direct", 1, 1), ("dam", 1, 1), ("direct", 2, 1), ("dam", 2, 1), ("dam", 1, 2)];
    plan.iter().map(|(arm, round, workers)| run(arm, *round, *workers)).collect()
}

fn run(arm: &str, round: u64, workers: u64) -> (Value, Vec<Value>) {
    let facts = json!({
        "arm": arm, "load": 0.5, "workers": workers, "round": round, "capacity": 40 * workers,
        "ttft_slo_ms": 1000, "warm_s": WARM_S, "measured_s": MEASURED_S, "wall_s": 16, "cores": 2, "dropped": 0,
        "cpu": { "generator": 4.0, "gateway": 1.0, "workers": 3.0, "machine": 10.0 }, "gateway_mib": 20,
    });
    let rate = 20 * workers;
    let requests = (0..rate * (WARM_S + MEASURED_S)).map(|n| {
        let at = n * 1000 / rate;
        let (ttft, prompt, tokens) = (80 + n * 7 % 40, 100 + n * 13 % 900, 10 + n * 11 % 60);
        json!({
            "at": at, "late": 0.2, "start": at + 50, "wall": 1_700_000_000_000_u64 + at, "outcome": "admitted",
            "ttft": ttft, "end": ttft + 900, "reason": "", "prompt": prompt, "tokens": tokens,
        })
    });
    (facts, requests.collect())
}

fn write(folder: &Path, runs: &Runs) {
    for (index, (facts, requests)) in runs.iter().enumerate() {
        let run = folder.join(format!("runs/{index:03}"));
        fs::create_dir_all(&run).expect("a temporary folder takes files");
        let lines: Vec<String> = requests.iter().map(ToString::to_string).collect();
        fs::write(run.join("run.json"), facts.to_string()).expect("a temporary folder takes files");
        fs::write(run.join("requests.jsonl"), lines.join("\n")).expect("a temporary folder takes files");
    }
}

fn call(arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_traffic-dam"));
    command.args(arguments).current_dir(folder).output().expect("the binary runs")
}

#[test]
fn sound_runs_become_a_report_and_a_plan() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &sound());
    let report = call(&["report", "."], folder.path());
    let said = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.status.success(), "{said}{}", String::from_utf8_lossy(&report.stderr));
    assert!(
        said.contains("The data are valid") && said.contains("| 0.5× | 1 | Traffic Dam | 20.0 |"),
        "{said}"
    );
    for file in ["index.html", "report.md", "report.json"] {
        assert!(fs::metadata(folder.path().join(file)).unwrap().len() > 500, "{file}");
    }
    let plan = call(&["capacity", "report.json", "--target", "50", "--plot", "c.svg"], folder.path());
    let said = String::from_utf8_lossy(&plan.stdout).into_owned();
    // 20 and 40 answers per second scale without loss: 50 need three workers, plus one spare.
    assert!(
        said.contains(
            "for 50/s with one worker lost: 4 workers (by the Universal Scalability Law 4, by the factor 4)"
        ),
        "{said}"
    );
    assert!(fs::read_to_string(folder.path().join("c.svg")).unwrap().contains("<svg"));
    assert_eq!(call(&["capacity", "report.json", "--target", "0"], folder.path()).status.code(), Some(2));

    // One worker at half of its capacity, two at a quarter: not comparable.
    let mut runs = sound();
    runs[4].0["load"] = json!(0.25);
    write(folder.path(), &runs);
    assert!(call(&["report", "."], folder.path()).status.success());
    let plan = call(&["capacity", "report.json"], folder.path());
    assert_eq!(plan.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&plan.stderr).contains("no load was offered to fleets of every size"));
}

#[test]
fn each_planted_fault_has_its_exit_code_and_no_conclusion() {
    type Plant = (i32, &'static str, fn(&mut Runs));
    let plants: [Plant; 7] = [
        (10, "TTFT missing", |runs| runs[1].1[9]["ttft"] = Value::Null),
        (11, "TTFT impossible", |runs| runs[1].1[9]["end"] = json!(1)),
        (12, "clock stepped", |runs| runs[1].1[9]["wall"] = json!(1_700_000_009_999_u64)),
        (13, "generator saturated", |runs| runs[1].0["dropped"] = json!(2)),
        (14, "warm-up not settled", |runs| {
            let cold =
                runs.iter_mut().filter(|(facts, _)| facts["arm"] == "dam").flat_map(|(_, requests)| requests);
            cold.filter(|request| request["at"].as_u64() < Some(6000)).for_each(|request| {
                (request["ttft"], request["end"]) = (json!(1500), json!(2500));
            });
        }),
        (15, "arms differ in load", |runs| runs[1].1.retain(|request| request["tokens"].as_u64() < Some(60))),
        (16, "too few data", |runs| runs.truncate(2)),
    ];
    for (code, name, plant) in plants {
        let folder = tempfile::tempdir().unwrap();
        let mut runs = sound();
        plant(&mut runs);
        write(folder.path(), &runs);
        let report = call(&["report", "."], folder.path());
        let complaint = String::from_utf8_lossy(&report.stderr).into_owned();
        assert_eq!(report.status.code(), Some(code), "{name}: {complaint}");
        assert!(complaint.contains(&format!("no conclusion: {name}")), "{complaint}");
        assert!(fs::read_to_string(folder.path().join("report.md")).unwrap().contains("No conclusion"));
        assert_eq!(call(&["capacity", "report.json"], folder.path()).status.code(), Some(code), "{name}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(String::from_utf8_lossy(&call(&["report", "."], folder.path()).stderr).contains("./runs: "));
    let mut runs = sound();
    runs[1].0["load"] = json!("much");
    write(folder.path(), &runs);
    let report = call(&["report", "."], folder.path());
    assert_eq!(report.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&report.stderr).contains("001/run.json: invalid type: string \"much\""));
}
