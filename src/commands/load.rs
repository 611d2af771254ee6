//! `demo --load`: offers more requests than the worker can serve, and reports the outcome.
//!
//! An open loop: like people, it sends requests whether or not earlier ones were answered. A closed
//! loop would slow down with the gateway and hide the overload that it should show.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use traffic_dam::openai::error::StreamFormat;
use traffic_dam::openai::tap::SseTap;
use traffic_dam_lab::draw::gap;

/// Maximum number of requests in flight, to bound our sockets; far more than the gateway admits.
const MOST_UNDER_WAY: usize = 2000;

#[derive(Clone, Debug)]
pub(crate) struct Offer {
    /// Address of the gateway.
    pub(crate) target: SocketAddr,
    /// Path of each request.
    pub(crate) path: &'static str,
    /// Format of the answers' events.
    pub(crate) format: StreamFormat,
    /// Requests per second.
    pub(crate) rate: f64,
    /// Body of each request.
    pub(crate) body: Bytes,
    /// TTFT SLO: an answer with a later first token is no goodput.
    pub(crate) ttft_slo: Duration,
}

/// Outcomes of the requests of the last second.
#[derive(Debug, Default)]
struct LoadTally {
    offered: u64,
    admitted: u64,
    refused: u64,
    failed: u64,
    good: u64,
    ttft: Vec<Duration>,
}

enum LoadOutcome {
    Served { ttft: Duration },
    Refused,
    Failed,
}

/// Offers load until the future is dropped, and calls `report` with a line each second.
pub(crate) async fn run(offer: Offer, mut report: impl FnMut(String)) {
    let tally = Arc::new(Mutex::new(LoadTally::default()));
    let under_way = Arc::new(tokio::sync::Semaphore::new(MOST_UNDER_WAY));
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds.tick().await;
    let (mut next, mut random) = (Instant::now(), fastrand::Rng::new());
    loop {
        tokio::select! {
            _ = seconds.tick() => report(line(&std::mem::take(&mut *tally.lock()))),
            () = sleep(next.saturating_duration_since(Instant::now())) => {
                // Exponential gaps, as between people who do not know each other.
                next += Duration::from_secs_f64(gap(offer.rate, &mut random));
                tally.lock().offered += 1;
                let Ok(permit) = Arc::clone(&under_way).try_acquire_owned() else {
                    tally.lock().failed += 1;
                    continue;
                };
                let (offer, tally) = (offer.clone(), Arc::clone(&tally));
                tokio::spawn(async move {
                    let outcome = ask(&offer).await.unwrap_or(LoadOutcome::Failed);
                    tally.lock().count(&outcome, offer.ttft_slo);
                    drop(permit);
                });
            }
        }
    }
}

impl LoadTally {
    fn count(&mut self, outcome: &LoadOutcome, slo: Duration) {
        match outcome {
            LoadOutcome::Refused => self.refused += 1,
            LoadOutcome::Failed => self.failed += 1,
            LoadOutcome::Served { ttft } => {
                self.admitted += 1;
                self.good += u64::from(*ttft <= slo);
                self.ttft.push(*ttft);
            }
        }
    }
}

fn line(tally: &LoadTally) -> String {
    let mut ttft = tally.ttft.clone();
    ttft.sort_unstable();
    let p95 = ttft.get((ttft.len() * 95).div_ceil(100).saturating_sub(1));
    let p95 = p95.map_or_else(|| "-".to_owned(), |ttft| format!("{} ms", ttft.as_millis()));
    let failed = if tally.failed > 0 { format!("  failed {}/s", tally.failed) } else { String::new() };
    format!(
        "offered {:>4}/s  admitted {:>3}/s  refused {:>4}/s  p95 TTFT {p95:>8}  goodput {:>3}/s{failed}",
        tally.offered, tally.admitted, tally.refused, tally.good,
    )
}

async fn ask(offer: &Offer) -> Result<LoadOutcome, Box<dyn std::error::Error + Send + Sync>> {
    let socket = TcpStream::connect(offer.target).await?;
    socket.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(Method::POST)
        .uri(offer.path)
        .header(HOST, offer.target.to_string())
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(offer.body.clone()))?;
    let sent = Instant::now();
    let mut response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        driver.abort();
        let refused = response.headers().contains_key("x-traffic-dam-reason");
        return Ok(if refused { LoadOutcome::Refused } else { LoadOutcome::Failed });
    }
    let mut tap = SseTap::expecting(offer.format);
    let mut ttft = None;
    while let Some(frame) = response.frame().await {
        if let Ok(data) = frame?.into_data() {
            let seen = tap.feed(&data);
            if ttft.is_none() && seen.content {
                ttft = Some(sent.elapsed());
            }
        }
    }
    driver.abort();
    Ok(match ttft {
        Some(ttft) if tap.seen().done => LoadOutcome::Served { ttft },
        _ => LoadOutcome::Failed,
    })
}
