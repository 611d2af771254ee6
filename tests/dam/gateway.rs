//! A gateway as a separate process.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;

use super::client::{ask, get};
use super::rig::{eventually, sum};

/// A gateway as a process; it is killed at the end of the test.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Gateway {
    /// Starts with these settings; its log goes to `stderr`.
    pub(crate) async fn start(text: &str, stderr: Stdio) -> Self {
        let ports = [(); 2].map(|()| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let [addr, admin] = ports.map(|port| port.local_addr().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dam.yaml");
        std::fs::write(&file, text).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_traffic-dam"))
            .args(["serve", "--listen", &addr.to_string(), "--admin-listen", &admin.to_string(), "--config"])
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let gateway = Self { child, addr, admin, _folder: folder };
        eventually("it lives", async || {
            TcpStream::connect(admin).await.is_ok() && ask(admin, get("/healthz")).await.status == 200
        })
        .await;
        gateway
    }

    /// Stops the process for `length`.
    pub(crate) async fn pause(&self, length: Duration) {
        self.signal("-STOP");
        sleep(length).await;
        self.signal("-CONT");
    }

    /// Returns its log, if it goes to a pipe.
    pub(crate) fn stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Returns the metric of one series, by its whole name.
    pub(crate) async fn metric_named(&self, name: &str) -> f64 {
        let answer = ask(self.admin, get("/metrics")).await;
        let value = answer.text().lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name}"))
    }

    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        sum(ask(self.admin, get("/metrics")).await.text(), name, label)
    }

    /// Waits until it uses Redis.
    pub(crate) async fn hears_redis(&self) {
        eventually("Redis is used", async || self.metric("redis_up", "").await == 1.0).await;
    }

    /// Returns how many of its timers fired later than `bound` seconds.
    pub(crate) async fn late(&self, bound: &str) -> f64 {
        let within = self.metric("event_loop_lag_seconds_bucket", &format!("le=\"{bound}\"")).await;
        self.metric("event_loop_lag_seconds_count", "").await - within
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}
