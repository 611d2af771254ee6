//! A Redis server for one test, and workers that send heartbeats through it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redis::FromRedisValue;
use ::redis::aio::MultiplexedConnection;
use tokio::task::JoinHandle;

use super::client::PATIENCE;
use super::rig::{Worker, eventually};

/// Heartbeat interval here: the shortest that is allowed.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);

/// A Redis server on a free loopback port. It ends with the test.
#[derive(Debug)]
pub(crate) struct Redis {
    port: u16,
    folder: tempfile::TempDir,
    child: Child,
}

fn server(port: u16, folder: &Path) -> Child {
    let port = port.to_string();
    let options =
        ["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no", "--daemonize", "no"];
    Command::new("redis-server")
        .args(options)
        .arg("--dir")
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is there: scripts/need redis")
}

/// Most ports that are tried: another process may take one before the server binds it.
const PORTS: usize = 10;

impl Redis {
    pub(crate) async fn start() -> Self {
        for _ in 0..PORTS {
            let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let port = free.local_addr().unwrap().port();
            drop(free);
            let folder = tempfile::tempdir().unwrap();
            let mut redis = Self { port, child: server(port, folder.path()), folder };
            if redis.has_port().await {
                return redis;
            }
        }
        panic!("another process took each of {PORTS} free ports");
    }

    async fn answers(&self) {
        eventually("Redis answers", async || self.connect().await.is_some()).await;
    }

    /// Waits until the port is served. Returns `false` if another process does.
    async fn has_port(&mut self) -> bool {
        eventually("Redis answers or ends", async || {
            self.child.try_wait().unwrap().is_some() || self.connect().await.is_some()
        })
        .await;
        let info = self.run(&[b"INFO", b"server"]).await;
        let info = info.and_then(|info| String::from_redis_value(info).ok()).unwrap_or_default();
        let id = info.lines().find_map(|line| line.strip_prefix("process_id:"));
        self.child.try_wait().unwrap().is_none() && id.map(str::trim) == Some(&self.child.id().to_string())
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn connect(&self) -> Option<MultiplexedConnection> {
        let client = redis::Client::open(self.url()).unwrap();
        let config =
            redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_millis(200)));
        client.get_multiplexed_async_connection_with_config(&config).await.ok()
    }

    /// Runs a command; `None` means that no answer came.
    pub(crate) async fn run(&self, command: &[&[u8]]) -> Option<redis::Value> {
        let mut connection = self.connect().await?;
        let (name, arguments) = command.split_first().unwrap();
        let mut command = redis::Cmd::new();
        command.arg(*name).arg(arguments);
        command.query_async(&mut connection).await.ok()
    }

    /// Publishes on the heartbeat channel.
    pub(crate) async fn publish(&self, text: &str) {
        self.run(&[b"PUBLISH", b"dam:health", text.as_bytes()]).await.expect("Redis answers");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Stops the server process.
    pub(crate) fn pause(&self) {
        self.signal("-STOP");
    }

    pub(crate) async fn resume(&self) {
        self.signal("-CONT");
        self.answers().await;
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Restarts it on its old port, empty.
    pub(crate) async fn restart(&mut self) {
        self.child = server(self.port, self.folder.path());
        assert!(self.has_port().await, "another process took the port");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may be gone already.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

/// Returns a heartbeat of boot `boot`, with `more` fields.
pub(crate) fn beat(worker: &str, boot: &str, seq: u64, more: &str) -> String {
    let interval = INTERVAL.as_millis();
    format!(
        r#"{{"v":1,"worker":"{worker}","boot":"{boot}","seq":{seq},"interval_ms":{interval},"state":"ready"{more}}}"#
    )
}

/// Returns the field with a worker's address.
pub(crate) fn at(worker: &Worker) -> String {
    format!(r#","url":"http://{}","slots":8"#, worker.addr)
}

/// Sends a worker's heartbeat every interval, through every outage of Redis, until it is dropped.
#[derive(Debug)]
pub(crate) struct Speaker {
    task: JoinHandle<()>,
    quiet: Arc<AtomicBool>,
}

impl Speaker {
    pub(crate) fn start(redis: &Redis, id: &str, more: String) -> Self {
        Self::start_boot(redis, id, "a", more)
    }

    /// Starts heartbeats of a restarted process.
    pub(crate) fn start_boot(redis: &Redis, id: &str, boot: &'static str, more: String) -> Self {
        Self::start_by(&redis.url(), id, boot, more)
    }

    /// Starts heartbeats as the user in `url`.
    pub(crate) fn start_by(url: &str, id: &str, boot: &'static str, more: String) -> Self {
        let client = redis::Client::open(url).unwrap();
        let quiet = Arc::new(AtomicBool::new(false));
        let (hushed, id) = (Arc::clone(&quiet), id.to_owned());
        let task = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            let mut connection = None;
            for seq in 0.. {
                ticks.tick().await;
                if hushed.load(Ordering::Relaxed) {
                    continue;
                }
                if connection.is_none() {
                    let connect = client.get_multiplexed_async_connection();
                    connection = tokio::time::timeout(INTERVAL, connect).await.ok().and_then(Result::ok);
                }
                let Some(open) = &mut connection else { continue };
                let text = beat(&id, boot, seq, &more);
                let mut say = redis::pipe();
                say.cmd("SADD").arg("dam:workers").arg(&id);
                let kept = 3 * u64::try_from(INTERVAL.as_millis()).unwrap();
                say.cmd("SET").arg(format!("dam:worker:{id}")).arg(&text).arg("PX").arg(kept);
                say.cmd("PUBLISH").arg("dam:health").arg(&text);
                let said = tokio::time::timeout(INTERVAL, say.query_async::<()>(open)).await;
                if !matches!(said, Ok(Ok(()))) {
                    connection = None;
                }
            }
        });
        Self { task, quiet }
    }

    /// Stops or resumes the heartbeats.
    pub(crate) fn quiet(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Checks during `length` that `holds` does not panic.
pub(crate) async fn throughout(length: Duration, mut holds: impl AsyncFnMut()) {
    assert!(length < PATIENCE);
    let over = tokio::time::sleep(length);
    tokio::pin!(over);
    loop {
        tokio::select! {
            biased;
            () = &mut over => return,
            () = holds() => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
