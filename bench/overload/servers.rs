//! Workers and gateways as separate processes, which end when this process is done with them.

use std::error::Error;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::client::Client;

/// Range of ports to choose from, below the kernel's ephemeral range.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Longest time for a server to answer after its start.
const COMING_UP: Duration = Duration::from_secs(15);

/// Returns a loopback address with a free port.
pub(crate) fn free_address() -> Result<SocketAddr, Box<dyn Error>> {
    (0..500)
        .map(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS))))
        .find(|address| TcpListener::bind(address).is_ok())
        .ok_or_else(|| "no free port was found".into())
}

/// A running server; it is killed on drop.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a server, and waits until `path` answers 200. Its output goes to a file in `folder`.
    pub(crate) async fn start(
        mut command: Command,
        address: SocketAddr,
        path: &str,
        folder: &Path,
    ) -> Result<Self, Box<dyn Error>> {
        let log = folder.join(format!("{}.log", address.port()));
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut server = Self { child: command.spawn()?, log };
        let client = Client::new(address);
        let until = Instant::now() + COMING_UP;
        while !matches!(client.get(path).await, Ok((200, _))) {
            if server.child.try_wait()?.is_some() || Instant::now() > until {
                let said = fs::read_to_string(&server.log).unwrap_or_default();
                let end =
                    said.lines().rev().take(4).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>();
                let end = end.join(" · ").replace(&format!("{}/", folder.display()), "");
                return Err(format!("a server did not come up: {end}").into());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGSTOP: its connections stay open, but it does nothing.
    pub(crate) fn pause(&self) -> Result<(), Box<dyn Error>> {
        self.signal("STOP")
    }

    /// Sends SIGCONT.
    pub(crate) fn resume(&self) -> Result<(), Box<dyn Error>> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> Result<(), Box<dyn Error>> {
        let done = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status()?;
        if done.success() { Ok(()) } else { Err(format!("a server could not be sent SIG{name}").into()) }
    }

    /// Sends SIGKILL, as in a crash.
    pub(crate) fn kill(&mut self) {
        // It may already have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
