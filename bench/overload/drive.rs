//! Sends requests when they are due, and measures the CPU time.
//!
//! A separate thread keeps the time: the event loop's timer has 1 ms steps and stops while the loop
//! is busy. Both would look like a slow server. The delay of each request is recorded.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::arrivals::Arrival;
use crate::client::Client;
use crate::machine;
use crate::sample::{Outcome, Sample};

/// Time from the setup of a run to its first arrival.
const LEAD: Duration = Duration::from_millis(100);

/// Returns when the client of a request, with its outcome and end time, sends it once more.
pub(crate) type Again = dyn Fn(&Arrival, &Outcome, Duration) -> Option<Duration> + Send + Sync;

/// Returns the start time of a run that is about to begin.
pub(crate) fn soon() -> Instant {
    Instant::now() + LEAD
}

/// Sends all `arrivals` at their times after `start`, and returns when the last one has ended.
pub(crate) async fn drive(
    client: &Arc<Client>,
    arrivals: Vec<Arrival>,
    start: Instant,
    again: Option<Arc<Again>>,
) -> Vec<Sample> {
    let samples = Arc::new(Mutex::new(Vec::with_capacity(arrivals.len())));
    let mut due = keep_time(arrivals, start);
    let mut tasks = JoinSet::new();
    while let Some(arrival) = due.recv().await {
        let (client, samples, again) = (Arc::clone(client), Arc::clone(&samples), again.clone());
        tasks.spawn(async move {
            let mut sample = ask(&client, arrival, start).await;
            let back = again.and_then(|again| again(&sample.arrival, &sample.outcome, start.elapsed()));
            if let Some(at) = back {
                let arrival = Arrival { due: at, ..sample.arrival.clone() };
                samples.lock().push(sample);
                sleep_until(start + at).await;
                sample = ask(&client, arrival, start).await;
                sample.again = true;
            }
            samples.lock().push(sample);
        });
        while tasks.try_join_next().is_some() {}
    }
    while tasks.join_next().await.is_some() {}
    std::mem::take(&mut *samples.lock())
}

async fn ask(client: &Client, arrival: Arrival, start: Instant) -> Sample {
    let due = start + arrival.due;
    let late = due.elapsed();
    let outcome = client.ask(&arrival, due).await;
    Sample { arrival, late, outcome, again: false }
}

/// Sends each arrival into the channel when it is due. Ends early when the receiver is dropped.
fn keep_time(arrivals: Vec<Arrival>, start: Instant) -> mpsc::UnboundedReceiver<Arrival> {
    let (send, receive) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for arrival in arrivals {
            pause((start + arrival.due).saturating_duration_since(Instant::now()));
            if send.send(arrival).is_err() {
                return;
            }
        }
    });
    receive
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own, with nothing else to do until then")]
fn pause(wait: Duration) {
    std::thread::sleep(wait);
}

/// CPU time used so far, and when it was read.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    at: Instant,
    generator: Duration,
    gateway: Option<Duration>,
    machine: Duration,
}

impl Clocks {
    fn read(gateway: Option<u32>) -> Self {
        Self {
            at: Instant::now(),
            generator: machine::process_time(std::process::id()).unwrap_or_default(),
            gateway: gateway.and_then(machine::process_time),
            machine: machine::busy_time().unwrap_or_default(),
        }
    }
}

/// CPU use while a run was measured, in cores: 1 is one core, busy all the time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) generator: f64,
    pub(crate) gateway: Option<f64>,
    pub(crate) machine: f64,
}

/// Measures from `from` to `until` the CPU time of this process, of the gateway and of all
/// processes. Calls `note` at both ends and returns its two results.
pub(crate) async fn watch<T>(
    gateway: Option<u32>,
    from: Instant,
    until: Instant,
    note: impl AsyncFn() -> T,
) -> (Spent, T, T) {
    sleep_until(from).await;
    let first = note().await;
    let before = Clocks::read(gateway);
    sleep_until(until).await;
    let after = Clocks::read(gateway);
    let last = note().await;
    let seconds = (after.at - before.at).as_secs_f64().max(1e-9);
    let cores = |after: Duration, before: Duration| after.saturating_sub(before).as_secs_f64() / seconds;
    let spent = Spent {
        generator: cores(after.generator, before.generator),
        gateway: after.gateway.zip(before.gateway).map(|(after, before)| cores(after, before)),
        machine: cores(after.machine, before.machine),
    };
    (spent, first, last)
}
