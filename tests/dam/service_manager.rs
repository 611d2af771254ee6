//! A service manager such as systemd: sockets that it hands over, and what it is told.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::routing::post;
use tokio::sync::watch;

use super::client::{Conn, PATIENCE, chat, get};
use super::rig::eventually;

/// Starts `serve` as systemd would: with `listener` as its descriptor 3.
fn start(listener: &TcpListener, settings: &std::path::Path, variables: &[(&str, &str)]) -> Child {
    let inherited: OwnedFd = listener.try_clone().unwrap().into();
    Command::new("bash")
        .args(["-c", "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "manager"])
        .args([env!("CARGO_BIN_EXE_traffic-dam"), "serve", "--config"])
        .arg(settings)
        .envs(variables.iter().copied())
        .stdin(Stdio::from(inherited))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A process that is killed if its test fails.
struct Killed(Child);

impl Killed {
    fn terminate(&self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    async fn ended(&mut self) {
        eventually("it ends", async || self.0.try_wait().unwrap().is_some()).await;
        assert_eq!(self.0.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

/// Starts a worker that counts its requests in `asked` and answers them once `released` is true.
/// Writes settings with it.
async fn worker_and_settings(
    listener: &TcpListener,
    released: watch::Receiver<bool>,
    asked: &Arc<AtomicUsize>,
) -> (tempfile::TempDir, std::path::PathBuf) {
    let worker = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = worker.local_addr().unwrap();
    let asked = Arc::clone(asked);
    let answer = move || {
        let mut released = released.clone();
        asked.fetch_add(1, Ordering::AcqRel);
        async move {
            released.wait_for(|released| *released).await.unwrap();
            ([("content-type", "application/json")], r#"{"choices":[{"message":{"content":"hi"}}]}"#)
        }
    };
    let router = Router::new().route("/v1/chat/completions", post(answer));
    tokio::spawn(axum::serve(worker, router).into_future());
    let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dam.yaml");
    let text = format!(
        "listen: {}\nadmin: {{ listen: \"{admin}\" }}\ndrain: {{ delay: 0s, timeout: 60s }}\n\
         workers: {{ static: [{{ id: w1, url: \"http://{address}\" }}] }}\n",
        listener.local_addr().unwrap()
    );
    std::fs::write(&file, text).unwrap();
    (folder, file)
}

/// Starts another thread that waits for the next message to a service manager.
async fn told(messages: &UnixDatagram, wanted: &'static str) {
    let messages = messages.try_clone().unwrap();
    messages.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = tokio::task::spawn_blocking(move || {
        let mut buffer = [0; 256];
        loop {
            let read = messages.recv(&mut buffer).expect("a message");
            if buffer[..read].trim_ascii() == wanted.as_bytes() {
                return;
            }
        }
    });
    heard.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_during_a_restart_is_served_by_the_next_process() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let (release, released) = watch::channel(false);
    let asked: Arc<AtomicUsize> = Arc::default();
    let (_folder, settings) = worker_and_settings(&listener, released, &asked).await;

    let mut first = Killed(start(&listener, &settings, &[]));
    // The kernel takes connections before the process does.
    let mut idle = Conn::open(address).await;
    assert_eq!(idle.ask(get("/health")).await.unwrap().status, 200);
    let mut under_way = Conn::open(address).await;
    under_way.send(chat("first", false, 1, &[])).await.unwrap();
    eventually("the worker has the request", async || asked.load(Ordering::Acquire) == 1).await;
    first.terminate();
    // An idle connection ends when the gateway refuses requests. From then on it accepts no connection.
    assert!(idle.answer().await.is_err());
    let mut between = Conn::open(address).await;
    between.send(chat("second", false, 1, &[])).await.unwrap();

    release.send_replace(true);
    assert_eq!(under_way.answer().await.unwrap().status, 200, "what was under way ends well");
    first.ended().await;
    let _second = Killed(start(&listener, &settings, &[]));
    assert_eq!(between.answer().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manager_is_told_of_start_life_and_end() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (_release, released) = watch::channel(true);
    let (folder, settings) = worker_and_settings(&listener, released, &Arc::default()).await;
    let path = folder.path().join("notify");
    let messages = UnixDatagram::bind(&path).unwrap();
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "200000")];
    let mut gateway = Killed(start(&listener, &settings, &variables));
    told(&messages, "READY=1").await;
    told(&messages, "WATCHDOG=1").await;
    told(&messages, "WATCHDOG=1").await;
    gateway.terminate();
    told(&messages, "STOPPING=1").await;
    gateway.ended().await;
}

#[test]
fn a_socket_that_no_setting_names_is_refused() {
    let [listener, other] = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dam.yaml");
    let text = format!(
        "listen: {}\nworkers: {{ static: [{{ id: w1, url: \"http://127.0.0.1:1\" }}] }}\n",
        other.local_addr().unwrap()
    );
    std::fs::write(&file, text).unwrap();
    drop(other);
    let mut gateway = Killed(start(&listener, &file, &[]));
    assert_eq!(gateway.0.wait().unwrap().code(), Some(2));
}
