//! Heap that the gateway holds for what is open, counted by an allocator. The counts do not depend on the
//! speed of the machine; those of a debug build are a little larger than those of a release build.
//!
//! `make memory` prints what a process takes from the system, beside other proxies.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking, and the figures are worth a look"
)]

#[path = "memory/ends.rs"]
mod ends;

use std::alloc::System;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use traffic_dam::app::{App, BoundListeners};
use traffic_dam::clock::Clock;
use traffic_dam::config::{self, LoadContext, Overrides};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Enough that what the gateway allocates at its own times counts for nothing in the mean.
const COUNT: usize = 400;
/// Streams of one HTTP/2 connection, the default of `bounds.h2_streams`.
const SHARED_BY: u32 = 100;

/// Starts a gateway with all layers, on one thread.
fn gateway(worker: SocketAddr) -> SocketAddr {
    let text = format!(
        r#"
callers:
  from: [api_key]
  anonymous: refuse
  keys: [{{ id: bench, sha256: c00397de4384b5bbaf14c02fe1ec7020d28d1eeab6a722c576c84b6678c41c29 }}]
limits:
  - {{ name: burst, algorithm: token_bucket, per: caller, unit: requests, rate: 1000000/s, burst: 1000000 }}
  - {{ name: minute, algorithm: sliding_window, per: caller, unit: tokens, limit: 100000000000, window: 1m }}
  - {{ name: address, algorithm: token_bucket, per: ip, unit: requests, rate: 1000000/s, burst: 1000000 }}
  - {{ name: all, algorithm: token_bucket, per: all, unit: requests, rate: 1000000/s, burst: 1000000 }}
concurrency: {{ limit: slots }}
workers:
  static: [{{ id: w1, url: "http://{worker}", slots: 4096, kv_tokens: 1000000000 }}]
log: {{ sample: 0 }}
"#
    );
    let surroundings =
        LoadContext { variable: &|_| None, obstacle: &|_| None, overrides: Overrides::default() };
    let settings = config::from_str(&text, Path::new("dam.yaml"), surroundings)
        .unwrap_or_else(|faults| panic!("{faults}"));
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let app = App::new(settings, Clock::system()).unwrap();
            let bind = || traffic_dam::net::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
            let listeners = BoundListeners::bound(bind(), bind());
            tell.send(listeners.addresses().unwrap().0).unwrap();
            app.serve(listeners).await;
        });
    });
    told.recv().unwrap()
}

/// Bytes on the heap now.
fn live() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Waits until `measure` gives at most `most`, and returns what it gives: the gateway may not be done yet with
/// what it was asked, or with what has ended.
fn at_most(what: &str, most: usize, measure: impl Fn() -> usize) -> usize {
    const STEP: Duration = Duration::from_millis(10);
    let mut measured = measure();
    for _ in 0..1000 {
        if measured <= most {
            return measured;
        }
        thread::park_timeout(STEP);
        measured = measure();
    }
    panic!("{what}: {measured} bytes, more than {most}");
}

/// Opens `COUNT` of something and checks what each holds, and how many bytes were allocated for it on the way.
fn costs(what: &str, held: &mut Vec<TcpStream>, most: usize, open: impl FnOnce(&mut Vec<TcpStream>)) {
    let (before, made) = (live(), HEAP.stats());
    open(held);
    let each = at_most(what, most, || live().saturating_sub(before) / COUNT);
    let made = HEAP.stats() - made;
    println!(
        "{what}: {each} bytes held; {} bytes in {} allocations on the way",
        made.bytes_allocated / COUNT,
        made.allocations / COUNT
    );
}

#[test]
fn what_is_open_holds_little_and_what_has_ended_nothing() {
    let gateway = gateway(ends::worker(4 * COUNT));
    let (stream, plain) = (ends::request(true), ends::request(false));
    let mut held = Vec::with_capacity(8 * COUNT);
    let base = live();
    held.extend((0..COUNT).map(|_| ends::ask(gateway, &stream)));
    held.push(ends::ask_over_http2(gateway, SHARED_BY));
    held.clear();
    // What stays for good: caches, metrics, the room of maps.
    at_most("what the first ones leave, for each", 4000, || live().saturating_sub(base) / COUNT);
    let start = live();

    costs("an idle connection", &mut held, 28_000, |held| {
        held.extend((0..COUNT).map(|_| ends::ask(gateway, &plain)))
    });
    costs("an open stream", &mut held, 30_000, |held| {
        held.extend((0..COUNT).map(|_| ends::ask(gateway, &stream)))
    });
    costs("an open stream over HTTP/2", &mut held, 6_500, |held| {
        held.extend((0..COUNT / SHARED_BY as usize).map(|_| ends::ask_over_http2(gateway, SHARED_BY)));
    });
    held.clear();
    at_most("after all, for each", 100, || live().saturating_sub(start) / COUNT);
}
