//! The command line, as new users meet it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use super::gateway::Gateway;

fn run(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_traffic-dam"));
    command.args(arguments).stdin(Stdio::null()).env_remove("TRAFFIC_DAM_LOG");
    command
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_version_names_commit_and_target() {
    let version = out(&run(&["--version"]));
    let expected = format!("traffic-dam {} (commit ", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(&expected) && version.contains("-linux-"), "{version}");
}

#[test]
fn shells_and_man_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = out(&run(&["completions", shell]));
        assert!(script.contains("traffic-dam") && script.contains("admin-listen"), "{shell}: {script}");
    }
    assert!(out(&run(&["man"])).contains("SUBCOMMANDS"));
    let folder = tempfile::tempdir().unwrap();
    let written = run(&["man", "--to", folder.path().to_str().unwrap()]);
    assert!(written.status.success(), "{}", err(&written));
    let serve = std::fs::read_to_string(folder.path().join("traffic-dam-serve.1")).unwrap();
    assert!(serve.contains("TRAFFIC_DAM_CONFIG"), "{serve}");
}

#[test]
fn check_warns_is_quiet_when_told_and_prints_the_schema() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dam.yaml");
    let text = "workers: { static: [{ id: w1, url: \"http://127.0.0.1:8000/v1\" }] }\n\
                concurrency: { ttft_slo: 1s, queue: { wait: 2s } }\n";
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let loud = run(&["check", "-c", path]);
    assert!(loud.status.success() && out(&loud).contains("ttft_slo: 1s"), "{}", err(&loud));
    assert!(out(&loud).contains("url: \"http://127.0.0.1:8000\""), "the gateway adds `/v1`: {}", out(&loud));
    let quiet = command(&["check", "--quiet"]).env("TRAFFIC_DAM_CONFIG", path).output().unwrap();
    assert!(quiet.status.success() && quiet.stdout.is_empty(), "{}", out(&quiet));
    for said in [err(&loud), err(&quiet)] {
        assert!(
            said.contains("warning: concurrency.queue.wait: `2s`") && said.lines().count() == 1,
            "{said}"
        );
    }
    let schema = run(&["check", "--schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    assert!(schema["properties"]["workers"].is_object());
    let empty = command(&["check"]).env("TRAFFIC_DAM_CONFIG", "").output().unwrap();
    assert!(err(&empty).contains("unset the variable TRAFFIC_DAM_CONFIG"), "{}", err(&empty));
    // Without a flag or variable the settings are read from their path in the image.
    let missing = command(&["check"]).env_remove("TRAFFIC_DAM_CONFIG").output().unwrap();
    assert!(err(&missing).contains("/etc/traffic-dam/dam.yaml"), "{}", err(&missing));
}

#[test]
fn check_refuses_files_that_a_start_would_refuse() {
    let folder = tempfile::tempdir().unwrap();
    let [file, other] = ["dam.yaml", "other.pem"].map(|name| folder.path().join(name));
    std::fs::write(&other, "no certificate").unwrap();
    let (file, other) = (file.to_str().unwrap(), other.display());
    let worker = "static: [{ id: w1, url: \"https://127.0.0.1:8000\" }]";
    for (text, named) in [
        (format!("workers: {{ {worker}, ca: {other} }}"), "workers.ca: "),
        (format!("workers: {{ {worker} }}\ntls: {{ cert: {other}, key: {other} }}"), "tls: "),
        (format!("workers: {{ {worker} }}\nadmin: {{ listen: \"0.0.0.0:8081\" }}"), "admin.listen"),
    ] {
        std::fs::write(file, text).unwrap();
        let refused = run(&["check", "-c", file]);
        assert!(refused.status.code() == Some(2) && err(&refused).contains(named), "{}", err(&refused));
        assert!(refused.stdout.is_empty(), "{}", out(&refused));
    }
}

#[test]
fn errors_of_certificates_are_told_in_plain_words() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(folder.path().join(format!("{name}.pem")), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    }
    for (text, words) in [
        (
            "tls: { cert: a.pem, key: b.key }",
            "cannot be used together: the key is not that of the certificate",
        ),
        ("tls: { cert: none.pem, key: a.key }", "(relative paths start in the current directory)"),
        ("workers: { static: [], ca: a.key }", "workers.ca: a.key: no certificate in it"),
        ("redis: { ca: a.key, url: rediss://127.0.0.1:1 }", "redis.ca: a.key: no certificate in it"),
    ] {
        let workers = if text.starts_with("workers") { "" } else { "workers: { static: [] }\n" };
        std::fs::write(folder.path().join("dam.yaml"), format!("{workers}{text}\n")).unwrap();
        let refused = command(&["check", "-c", "dam.yaml"]).current_dir(folder.path()).output().unwrap();
        assert!(err(&refused).contains(words), "{text}: {}", err(&refused));
    }
}

#[test]
fn a_worker_without_slots_is_refused() {
    let refused = run(&["worker", "--slots", "0"]);
    assert!(refused.status.code() == Some(2) && err(&refused).contains("--slots"), "{}", err(&refused));
}

#[test]
fn top_without_a_terminal_says_so() {
    let output = run(&["top", "--admin", "127.0.0.1:1"]);
    let said = err(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("terminal") && said.contains("http://127.0.0.1:1/api/v1/state"), "{said}");
}

#[tokio::test]
async fn health_takes_an_address_and_a_url() {
    let gateway = Gateway::start("workers: { static: [] }", Stdio::null()).await;
    let admin = gateway.admin.to_string();
    let ask = async |at: String| {
        tokio::task::spawn_blocking(move || run(&["health", "--admin", &at])).await.unwrap()
    };
    for at in [admin.clone(), format!("http://{admin}"), format!("localhost:{}", gateway.admin.port())] {
        let output = ask(at.clone()).await;
        assert!(output.status.success(), "{at}: {}", err(&output));
    }
    let encrypted = ask(format!("https://{admin}")).await;
    assert!(
        err(&encrypted).contains("the TLS handshake failed: it does not speak TLS"),
        "{}",
        err(&encrypted)
    );
    assert!(gateway.metric_named("process_resident_memory_bytes").await > 1e6);
}

#[test]
fn health_does_not_wait_for_an_answer_that_comes_byte_by_byte() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        // A header that never ends, until the command gives up and closes.
        let mut written = socket.write_all(b"HTTP/1.1 200 OK\r\nx-long: ");
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        while written.is_ok() {
            // The request, and then nothing: each read is a pause.
            let _nothing = socket.read(&mut [0; 512]);
            written = socket.write_all(b"x");
        }
    });
    let output = run(&["health", "--admin", &address]);
    assert!(!output.status.success(), "{}", err(&output));
}

#[test]
fn variables_have_one_prefix_and_their_former_names_still_count() {
    // It ends before it connects to Redis: an agent runs beside its worker, without TLS.
    let worker = |variable: Option<&str>| {
        let mut command = command(&["agent", "--worker", "https://w.example"]);
        command.env_remove("TRAFFIC_DAM_REDIS_URL").env_remove("DAM_REDIS_URL");
        variable.map(|variable| command.env(variable, "redis://127.0.0.1:1"));
        err(&command.output().unwrap())
    };
    assert!(worker(None).contains("--redis"), "{}", worker(None));
    for variable in ["TRAFFIC_DAM_REDIS_URL", "DAM_REDIS_URL"] {
        let said = worker(Some(variable));
        assert!(said.contains("must be an `http://` URL"), "{variable}: {said}");
    }
}

#[test]
fn the_demo_speaks_messages_too() {
    let ports = ["--listen", "--admin-listen", "--worker-listen"].map(|port| [port, "127.0.0.1:0"]);
    let arguments: Vec<_> =
        ["demo", "--load", "--api", "messages"].into_iter().chain(ports.into_iter().flatten()).collect();
    let mut demo = command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("/v1/messages")), "the commands to try");
    // Each second says what was offered; sooner or later an answer was whole and in time.
    let good = lines
        .any(|line| line.split_once("goodput").is_some_and(|(_, count)| !count.trim().starts_with("0/s")));
    demo.kill().and_then(|()| demo.wait()).unwrap();
    assert!(good);
}

#[test]
fn the_demo_under_load_speaks_of_no_rule() {
    let ports = ["--listen", "--admin-listen", "--worker-listen"].map(|port| [port, "127.0.0.1:0"]);
    for (more, said) in
        [(&[][..], "one more than the rule admits"), (&["--load"], "There are no quotas here")]
    {
        let arguments: Vec<_> =
            ["demo"].iter().chain(more).copied().chain(ports.into_iter().flatten()).collect();
        let mut demo = command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(demo.stdout.take().unwrap()).lines().map_while(Result::ok);
        let greeting: Vec<_> = lines.take_while(|line| line != "ask -i").collect();
        demo.kill().and_then(|()| demo.wait()).unwrap();
        let greeting = greeting.join(" ");
        assert!(greeting.contains(said), "{greeting}");
        assert_eq!(greeting.contains("the rule"), more.is_empty(), "{greeting}");
    }
}
