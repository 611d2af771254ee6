//! Workers as separate processes: killed, hung, restarted, cut off, under load.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::client::{Conn, chat, get};
use super::fleet::discovering;
use super::redis::{Redis, Speaker};
use super::rig::{Dam, eventually};

/// Concurrent streams: more than one worker's slots, fewer than both workers'.
const CLIENTS: usize = 12;
const SLOTS: u32 = 16;

/// A worker as a process; it is killed at the end of the test.
#[derive(Debug)]
struct Process {
    child: Child,
    addr: SocketAddr,
}

impl Process {
    async fn start() -> Self {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = free.local_addr().unwrap();
        drop(free);
        let child = Command::new(env!("CARGO_BIN_EXE_traffic-dam"))
            .args(["worker", "--prefill-base", "1ms", "--token-time", "10ms", "--token-time-per-seq", "0ms"])
            .args(["--slots", &SLOTS.to_string(), "--listen", &addr.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let process = Self { child, addr };
        eventually("the worker answers", async || match TcpStream::connect(addr).await {
            Ok(_) => {
                Conn::open(addr).await.ask(get("/health")).await.is_ok_and(|answer| answer.status == 200)
            }
            Err(_) => false,
        })
        .await;
        process
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

/// A network between gateway and worker that can be cut: connections stay open, no data passes.
#[derive(Debug)]
struct Network {
    addr: SocketAddr,
    cut: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Network {
    async fn to(worker: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let cut = watch::Sender::new(false);
        let state = cut.subscribe();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let state = state.clone();
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(worker).await else { return };
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::join!(carry(near_in, far_out, state.clone()), carry(far_in, near_out, state));
                });
            }
        });
        Self { addr, cut, task }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut cut: watch::Receiver<bool>,
) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if cut.wait_for(|cut| !cut).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    to.shutdown().await.ok();
}

fn at(addr: SocketAddr) -> String {
    format!(r#","url":"http://{addr}","slots":{SLOTS}"#)
}

/// Counts of the streams' endings.
#[derive(Debug, Default)]
struct Seen {
    whole: AtomicUsize,
    /// Streams that had begun and ended with an error event.
    told: AtomicUsize,
    stop: AtomicBool,
}

/// Keeps half-second streams running. A stream must end completely, or with an error event after it
/// has begun; any other ending fails the test.
struct Load {
    seen: Arc<Seen>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn before(dam: &Dam) -> Self {
        let (seen, addr) = (Arc::new(Seen::default()), dam.addr);
        let client = |_| {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                while !seen.stop.load(Ordering::Relaxed) {
                    let answer = super::client::ask(addr, chat("a", true, 50, &[])).await;
                    assert_eq!((answer.status, answer.whole), (200, true), "{}", answer.text());
                    if answer.text().ends_with("data: [DONE]\n\n") {
                        seen.whole.fetch_add(1, Ordering::Relaxed);
                    } else {
                        let text = answer.text();
                        assert!(text.contains("\"content\":") && text.contains("upstream_"), "{text}");
                        seen.told.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        Self { clients: (0..CLIENTS).map(client).collect(), seen }
    }

    fn whole(&self) -> usize {
        self.seen.whole.load(Ordering::Relaxed)
    }

    /// Waits until `count` more streams are complete.
    async fn flows(&self, count: usize) {
        let before = self.whole();
        eventually("streams", async || self.whole() >= before + count).await;
    }

    /// Ends the load; returns how many streams ended with an error.
    async fn stop(self) -> usize {
        self.seen.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.seen.told.load(Ordering::Relaxed)
    }
}

async fn light(dam: &Dam, id: &str, light: f64) {
    let label = format!("worker=\"{id}\"");
    let what = format!("light {light} of {id}");
    eventually(&what, async || dam.metric("worker_light", &label) == light).await;
}

fn text(redis: &Redis) -> String {
    let more = ", timeouts: { idle: 4s, first_token: 20s }, retry: { max: 2, budget: 1.0 }";
    discovering(redis, more) + "\nconcurrency: { queue: { wait: 20s } }\n"
}

#[tokio::test]
async fn a_worker_is_killed_and_started_again_elsewhere_under_its_name() {
    let (redis, dies, stays) = (Redis::start().await, Process::start().await, Process::start().await);
    let dam = Dam::start(&text(&redis));
    let publisher = Speaker::start(&redis, "w1", at(dies.addr));
    let _stays = Speaker::start(&redis, "w2", at(stays.addr));
    light(&dam, "w1", 2.0).await;
    light(&dam, "w2", 2.0).await;
    let load = Load::before(&dam);
    load.flows(CLIENTS).await;
    drop((dies, publisher));
    light(&dam, "w1", 0.0).await;
    load.flows(CLIENTS).await;
    let again = Process::start().await;
    let _speaker = Speaker::start_boot(&redis, "w1", "b", at(again.addr));
    light(&dam, "w1", 2.0).await;
    let served = async || {
        let count = Conn::open(again.addr).await.ask(get("/debug/requests")).await.unwrap().json();
        count["finished"].as_u64().unwrap() > 0
    };
    eventually("the new process serves", served).await;
    let told = load.stop().await;
    assert!(told <= CLIENTS, "only streams that had begun there were told: {told}");
    dam.idle().await;
}

/// Hangs a worker under load while its health check succeeds, and lets it continue later.
async fn hangs(near: SocketAddr, hangs: impl FnOnce(), goes_on: impl FnOnce()) {
    let (redis, stays) = (Redis::start().await, Process::start().await);
    let dam = Dam::start(&text(&redis));
    let _speakers = [Speaker::start(&redis, "w1", at(near)), Speaker::start(&redis, "w2", at(stays.addr))];
    light(&dam, "w1", 2.0).await;
    light(&dam, "w2", 2.0).await;
    let load = Load::before(&dam);
    load.flows(2 * CLIENTS).await;
    hangs();
    light(&dam, "w1", 0.0).await;
    load.flows(4 * CLIENTS).await;
    goes_on();
    light(&dam, "w1", 2.0).await;
    load.flows(2 * CLIENTS).await;
    let told = load.stop().await;
    assert!(told <= CLIENTS, "{told}");
    dam.idle().await;
}

#[tokio::test]
async fn a_worker_hangs_and_nobody_fails_who_had_not_begun_there() {
    let worker = Process::start().await;
    hangs(worker.addr, || worker.signal("-STOP"), || worker.signal("-CONT")).await;
}

#[tokio::test]
async fn a_worker_is_cut_off_and_nobody_fails_who_had_not_begun_there() {
    let worker = Process::start().await;
    let network = Network::to(worker.addr).await;
    let cut = |cut| {
        network.cut.send_replace(cut);
    };
    hangs(network.addr, || cut(true), || cut(false)).await;
}
