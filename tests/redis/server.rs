//! A Redis server for one test, on a free port, that ends with the test.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Far longer than anything here takes: a wait this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A running server, or one that was stopped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Option<Child>,
    folder: TempDir,
    pub(crate) port: u16,
    words: Vec<String>,
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a sentinel with this settings file.
    pub(crate) async fn start_sentinel(file: &Path) -> Self {
        Self::start_as(vec![file.to_str().unwrap().to_owned(), "--sentinel".to_owned()]).await
    }

    /// Starts with additional options.
    pub(crate) async fn start_with(more: &[&str]) -> Self {
        let usual = ["--save", "", "--appendonly", "no"];
        Self::start_as(usual.iter().chain(more).map(|&word| word.to_owned()).collect()).await
    }

    async fn start_as(words: Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut server = Self { process: None, folder, port: free_port(), words };
        server.resume().await;
        server
    }

    /// Restarts it, empty, on its old port.
    pub(crate) async fn resume(&mut self) {
        let port = self.port.to_string();
        let started = Command::new("redis-server")
            .args(&self.words)
            .args(["--port", &port, "--bind", "127.0.0.1"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.process = Some(started.expect("redis-server is there (scripts/need redis)"));
        let answers = async {
            while self.try_connect().await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, answers).await.expect("the server answers");
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Sends SIGSTOP or SIGCONT to its process.
    pub(crate) fn stall(&self, stalled: bool) {
        let process = self.process.as_ref().expect("it runs").id().to_string();
        let signal = if stalled { "-STOP" } else { "-CONT" };
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn try_connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let client = redis::Client::open(self.url())?;
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        Ok(connection)
    }

    /// Returns a new connection for the test.
    pub(crate) async fn connect(&self) -> MultiplexedConnection {
        self.try_connect().await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
