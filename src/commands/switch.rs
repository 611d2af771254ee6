//! `traffic-dam switch`: switches a pool to another colour through the admin port of a gateway.
//!
//! During a canary it calls the gateway once a second. If it is killed, the gateway misses the calls
//! and goes back, so an unattended trial never goes on.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use traffic_dam::config::syntax::Syntax;
use traffic_dam::net::client;
use traffic_dam::server::admin::{read_judge, read_share};
use traffic_dam::view::{CanaryState, CanaryView, SideView};

use super::admin_port::{AdminAddress, AdminPort, NO_TOKEN};
use super::{CommandError, print_line, runtime};

/// Time for one call: a switch waits up to 4 s for the other gateways.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval of the calls during a canary.
const LOOK: Duration = Duration::from_secs(1);
/// Interval of the lines about a canary.
const TELL: Duration = Duration::from_secs(10);
/// Time without an answer after which the gateway has gone back by itself.
const LOST: Duration = Duration::from_secs(15);
/// Largest answer.
const LONGEST: usize = 64 * 1024;

/// Exit codes beside 0.
const REVERTED: u8 = 1;
const NO_DATA: u8 = 2;
const UNCHANGED: u8 = 3;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The pool
    pool: String,
    /// The colour that gets its requests from now on
    colour: String,
    /// Only this version of the colour takes work
    #[arg(long)]
    version: Option<String>,
    /// First try the colour with this share of the sessions, such as 5%; switch only if it is no worse
    #[arg(long, value_parser = |text: &str| read_share(text).map(|_| text.to_owned()), conflicts_with = "force")]
    canary: Option<String>,
    /// Duration of the trial; up to 5 times as long if there are not enough answers
    #[arg(long, default_value = "2m", value_parser = read_length, requires = "canary")]
    judge: Duration,
    /// Switch even during a canary, or to a colour without a ready worker, for example to go back
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    address: AdminAddress,
}

fn read_length(text: &str) -> Result<Duration, String> {
    let judge = <Duration as Syntax>::read(text).filter(|judge| judge.subsec_nanos() == 0);
    let judge = judge.filter(|judge| read_judge(judge.as_secs()).is_ok());
    judge.ok_or_else(|| "must be whole seconds from 1s to 1h, such as `2m`".to_owned())
}

pub(crate) fn run(arguments: Arguments) -> Result<(), CommandError> {
    let Arguments { pool, colour, version, canary, judge, force, address } = arguments;
    let gateway = PoolClient { port: AdminPort::new(address)?, pool };
    let mut body = json!({ "colour": colour, "force": force });
    if let Some(version) = version {
        body["version"] = json!(version);
    }
    if let Some(share) = &canary {
        body["canary"] = json!(share);
        body["judge"] = json!(judge.as_secs());
        body["attended"] = json!(true);
    }
    runtime()?.block_on(async {
        // Listened to before the canary begins: an interrupt in between must cancel it.
        let interrupted = canary.map(|_| signal(SignalKind::interrupt())).transpose()?;
        let (status, answer) = gateway.call(Method::PUT, "active", Some(&body)).await.map_err(unchanged)?;
        match (status, interrupted) {
            (StatusCode::ACCEPTED, Some(interrupted)) => {
                let begun = serde_json::from_value(answer)
                    .map_err(|error| unchanged(format!("the gateway may have another version: {error}")))?;
                gateway.attend(begun, interrupted).await
            }
            (StatusCode::OK, None) => {
                print_line(format!("{colour} is active in {} at every gateway", gateway.pool));
                Ok(())
            }
            (StatusCode::ACCEPTED, None) => {
                print_line(format!(
                    "the switch of {} to {colour} is published; not every gateway follows yet",
                    gateway.pool
                ));
                Ok(())
            }
            (status, _) => Err(unchanged(refusal(status, &answer))),
        }
    })
}

const fn failed(code: u8, message: String) -> CommandError {
    CommandError::InvalidData { code, message }
}

fn unchanged(message: String) -> CommandError {
    failed(UNCHANGED, format!("not switched: {message}"))
}

/// Returns what an error answer says.
fn refusal(status: StatusCode, answer: &Value) -> String {
    match (status, answer["error"]["message"].as_str()) {
        (StatusCode::UNAUTHORIZED, _) => NO_TOKEN.to_owned(),
        (_, Some(message)) => message.to_owned(),
        (status, None) => format!("unexpected status {status}"),
    }
}

/// A pool at the admin port of a gateway.
struct PoolClient {
    port: AdminPort,
    pool: String,
}

impl PoolClient {
    /// Calls `/api/v1/pools/{pool}/{what}`.
    async fn call(
        &self,
        method: Method,
        what: &str,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Value), String> {
        let request = self.port.request(method, &format!("/api/v1/pools/{}/{what}", self.pool));
        let text = body.map(Value::to_string).unwrap_or_default();
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(Bytes::from(text)));
        let request = request.map_err(|error| error.to_string())?;
        let asked = async {
            let answer = client::send(&self.port.url, self.port.tls.as_ref(), request).await;
            let answer = answer.map_err(|error| error.to_string())?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
        };
        let silent = |_| format!("no answer within {} s", PATIENCE.as_secs());
        timeout(PATIENCE, asked).await.map_err(silent)?
    }

    /// Attends a canary until it has ended. An interrupt cancels it.
    async fn attend(&self, begun: CanaryView, mut interrupted: Signal) -> Result<(), CommandError> {
        let epoch = json!({ "epoch": begun.epoch });
        let mut view = begun;
        print_line(format!("{}: {} gets {} % beside {}", self.pool, view.new, view.share * 100.0, view.old));
        let (mut heard, mut printed) = (Instant::now(), Instant::now());
        // From the interrupt on it is cancelled, not attended, until the gateway has done so.
        let mut cancels = false;
        loop {
            match view.state {
                CanaryState::UnderWay => {}
                CanaryState::Promoted => {
                    print_line(lines(&view));
                    print_line(format!("{} is active in {}", view.new, self.pool));
                    return Ok(());
                }
                state => {
                    let code = if state == CanaryState::NoData { NO_DATA } else { REVERTED };
                    print_line(lines(&view));
                    let why = view.why.as_deref().unwrap_or("no reason given");
                    return Err(failed(code, format!("back to {}: {why}", view.old)));
                }
            }
            if printed.elapsed() >= TELL {
                printed = Instant::now();
                print_line(lines(&view));
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                _ = interrupted.recv() => cancels = true,
            }
            let call = if cancels {
                self.call(Method::DELETE, "canary", None).await
            } else {
                self.call(Method::PUT, "canary", Some(&epoch)).await
            };
            match call {
                Ok((StatusCode::OK, answer)) => {
                    heard = Instant::now();
                    view = serde_json::from_value(answer).map_err(|error| {
                        failed(REVERTED, format!("the gateway may have another version: {error}"))
                    })?;
                }
                // It has just ended; the next call says how.
                Ok((StatusCode::NOT_FOUND, _)) if cancels => cancels = false,
                Ok((StatusCode::NOT_FOUND, _)) => {
                    let why = "the gateway does not know the canary any more; its pool goes back";
                    return Err(failed(REVERTED, why.to_owned()));
                }
                // A new gateway process would have said that it does not know the canary.
                Ok((status, answer)) if heard.elapsed() > LOST => {
                    return Err(failed(REVERTED, refusal(status, &answer)));
                }
                Err(why) if heard.elapsed() > LOST => {
                    return Err(failed(REVERTED, format!("the gateway is gone; its pool goes back: {why}")));
                }
                Ok((status, answer)) if cancels => {
                    print_line(format!("not cancelled yet: {}", refusal(status, &answer)));
                }
                Err(why) if cancels => print_line(format!("not cancelled yet: {why}")),
                Ok(_) | Err(_) => {}
            }
        }
    }
}

/// Returns how a canary is doing, in one line.
fn lines(view: &CanaryView) -> String {
    let side = |name: &str, side: &SideView| {
        let ttft = side.ttft_ms.map_or_else(|| "–".to_owned(), |millis| format!("{millis:.0} ms"));
        format!("{name} {} offered, {} good, {} failed, TTFT {ttft}", side.offered, side.good, side.failed)
    };
    format!(
        "{} s: {}; {}",
        view.elapsed_ms / 1000,
        side(&view.old, &view.usual),
        side(&view.new, &view.canary)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_canary_is_one_line() {
        let side = |offered| SideView {
            offered,
            answers: offered,
            good: offered - 1,
            failed: 1,
            ttft_ms: (offered > 1).then_some(212.4),
        };
        let view = CanaryView {
            old: "blue".into(),
            new: "green".into(),
            elapsed_ms: 12_900,
            usual: side(95),
            canary: side(1),
            ..CanaryView::default()
        };
        assert_eq!(
            lines(&view),
            "12 s: blue 95 offered, 94 good, 1 failed, TTFT 212 ms; green 1 offered, 0 good, 1 failed, TTFT –"
        );
    }

    #[test]
    fn a_trial_takes_whole_seconds() {
        assert_eq!(read_length("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "0s", "1500ms", "2h"] {
            assert!(read_length(wrong).is_err(), "{wrong}");
        }
    }
}
