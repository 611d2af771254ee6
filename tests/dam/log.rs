//! The log of a process whose stderr nobody reads.

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use super::client::{Conn, chat, get};
use super::rig::eventually;

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).ok();
    }
}

#[tokio::test]
async fn a_reader_that_stops_stops_no_request() {
    let ports = [(); 2].map(|()| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let [addr, admin] = ports.map(|port| port.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dam.yaml");
    std::fs::write(&file, "workers: { static: [] }").unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_traffic-dam"))
        .args(["serve", "--listen", &addr.to_string(), "--admin-listen", &admin.to_string(), "--config"])
        .arg(&file)
        .stdout(Stdio::null())
        // A pipe holds 64 KiB, some hundred and fifty lines.
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _gateway = Gateway(child);
    eventually("it lives", async || match tokio::net::TcpStream::connect(admin).await {
        Ok(_) => Conn::open(admin).await.ask(get("/healthz")).await.is_ok_and(|answer| answer.status == 200),
        Err(_) => false,
    })
    .await;
    let mut conn = Conn::open(addr).await;
    for _ in 0..1000 {
        assert!(conn.ask(chat("a", false, 8, &[])).await.unwrap().status >= 400);
    }
}
