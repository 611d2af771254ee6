//! The scripts besides deciding: clock steps, and operations sent twice, too late, or for nothing.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use traffic_dam::limit::meter::Shortage;
use traffic_dam::limit::rule::{Algorithm, Match, Mode, OnLoss, Per, Quota, Rule};
use traffic_dam::redis::rules::cell::Cell;
use traffic_dam::redis::rules::script::{CHARGED, ENDED, RuleScripts, call};
use traffic_dam::refusal::Unit;

use super::server::Server;

fn rule(algorithm: Algorithm, limit: u64) -> Rule {
    Rule {
        name: "r".into(),
        algorithm,
        per: vec![Per::Caller],
        unit: Unit::Tokens,
        quota: Quota { limit, period: Duration::from_secs(100), burst: limit },
        mode: Mode::Enforce,
        matches: Match::default(),
        reserve_max: false,
        on_loss: OnLoss::Share,
        max_keys: 1,
    }
}

/// One cell of each kind on a server whose clock is a key.
struct Bench {
    _server: Server,
    connection: MultiplexedConnection,
    scripts: RuleScripts,
    cells: Vec<(Cell, String)>,
}

/// A charge's verdict, and for each cell its mark and its state.
type Answer = (i64, Vec<(i64, [u64; 3])>);

impl Bench {
    async fn new() -> Self {
        let server = Server::start().await;
        let mut connection = server.connect().await;
        let scripts = RuleScripts::from_sources(|source| source.replace("'TIME'", "'MGET', 's', 'us'"));
        redis::cmd("MSET").arg("us").arg(0).query_async::<()>(&mut connection).await.unwrap();
        let cells = [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::SlidingLog]
            .map(|algorithm| Cell::of(&rule(algorithm, 10)))
            .map(|cell| (cell, format!("{{t}}:{}", cell.kind())));
        let mut bench = Self { _server: server, connection, scripts, cells: cells.into() };
        bench.at(1_000_000).await;
        bench
    }

    /// Sets the clock to this second.
    async fn at(&mut self, second: u64) {
        redis::cmd("SET").arg("s").arg(second).query_async::<()>(&mut self.connection).await.unwrap();
    }

    async fn charge(&mut self, record: &str, amount: u64) -> Answer {
        let keys = self.cells.iter().map(|(_, key)| key.as_str());
        let cells = self.cells.iter().map(|(cell, _)| (cell.kind(), cell.charge(amount, true).unwrap()));
        let call = call(&self.scripts.charge, (record, CHARGED), keys, cells);
        let answer: Vec<i64> = call.invoke_async(&mut self.connection).await.unwrap();
        let cells = answer[1..]
            .chunks_exact(5)
            .map(|cell| (cell[1], [cell[2], cell[3], cell[4]].map(i64::cast_unsigned)));
        (answer[0], cells.collect())
    }

    /// Leases from one cell. Returns the amount, 0 if it got none.
    async fn lease(&mut self, place: usize, amount: u64) -> i64 {
        let (cell, key) = &self.cells[place];
        let cells = std::iter::once((cell.kind(), cell.charge(amount, true).unwrap()));
        let name = format!("lease{}", fastrand::u64(..));
        let call = call(&self.scripts.lease, (&name, CHARGED), std::iter::once(key.as_str()), cells);
        let answer: Vec<i64> = call.invoke_async(&mut self.connection).await.unwrap();
        answer[0]
    }

    async fn end(&mut self, undo: bool, record: &str, marks: &[i64], reserved: u64, actual: u64) -> i64 {
        let keys = self.cells.iter().map(|(_, key)| key.as_str());
        let marks = marks.iter().map(|mark| mark.cast_unsigned()).chain(std::iter::repeat(0));
        let cells = self.cells.iter().zip(marks);
        let cells = cells.map(|((cell, _), mark)| (cell.kind(), cell.correct(mark, reserved, actual)));
        let script = if undo { &self.scripts.undo } else { &self.scripts.settle };
        call(script, (record, ENDED), keys, cells).invoke_async(&mut self.connection).await.unwrap()
    }

    /// Returns what is left in each cell.
    async fn left(&mut self) -> Vec<u64> {
        let name = format!("look{}", fastrand::u64(..));
        let (_, cells) = self.charge(&name, 10).await;
        self.end(true, &name, &[], 10, 0).await;
        let charged = cells.iter().all(|(mark, _)| *mark >= 0);
        let left = self.cells.iter().zip(cells).map(|((cell, _), (_, shown))| cell.level(shown).remaining);
        left.map(|left| if charged { left + 10 } else { left }).collect()
    }
}

#[tokio::test]
async fn a_clock_that_goes_back_forgives_nothing_and_locks_nobody_out() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.charge("a", 8).await.0, 1);
    bench.at(1_000_000 - 3600).await;
    assert_eq!(bench.left().await, [2, 2, 2], "as if no time had passed");
    let (verdict, cells) = bench.charge("b", 4).await;
    assert_eq!(verdict, 0);
    let waits = bench.cells.iter().zip(&cells).map(|((cell, _), (_, shown))| cell.shortage(*shown, 4));
    let longest = waits.map(|shortage| match shortage {
        Some(Shortage::Wait(wait)) => wait,
        other => panic!("{other:?}"),
    });
    assert!(longest.max() <= Some(Duration::from_secs(200)));
    // Time goes on from there.
    assert_eq!(bench.charge("c", 2).await.0, 1);
    bench.at(1_000_000 - 3600 + 201).await;
    assert_eq!(bench.left().await, [10, 10, 10]);
    // A step forward is like normal time.
    assert_eq!(bench.charge("d", 10).await.0, 1);
    bench.at(1_000_000 + 3600).await;
    assert_eq!(bench.left().await, [10, 10, 10]);
}

#[tokio::test]
async fn a_clock_that_goes_back_does_not_stand_still_for_who_is_refused() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.charge("a", 10).await.0, 1);
    bench.at(1_000_000 - 3600).await;
    assert_eq!(bench.charge("b", 10).await.0, 0);
    bench.at(1_000_000 - 3600 + 201).await;
    assert_eq!(bench.charge("c", 10).await.0, 1, "it went on from the refusal");
    // The same for leases, each of which has one cell.
    bench.at(1_000_000 - 7200).await;
    for place in 0..3 {
        assert_eq!(bench.lease(place, 10).await, 0, "in cell {place}");
    }
    bench.at(1_000_000 - 7200 + 201).await;
    for place in 0..3 {
        assert_eq!(bench.lease(place, 10).await, 1, "in cell {place}");
    }
}

#[tokio::test]
async fn a_charge_is_taken_back_whether_it_ran_or_is_still_to_run() {
    let mut bench = Bench::new().await;
    assert_eq!(bench.charge("a", 4).await.0, 1);
    assert_eq!(bench.end(true, "a", &[], 4, 0).await, 1);
    assert_eq!(bench.end(true, "a", &[], 4, 0).await, 0, "once");
    assert_eq!(bench.left().await, [10, 10, 10]);
    assert_eq!(bench.end(true, "late", &[], 4, 0).await, 0);
    assert_eq!(bench.charge("late", 4).await, (-1, vec![]), "it comes too late");
    assert_eq!(bench.left().await, [10, 10, 10]);
    assert_eq!(bench.charge("b", 7).await.0, 1);
    assert_eq!(bench.charge("c", 7).await.0, 0);
    assert_eq!(bench.end(true, "c", &[], 7, 0).await, 0, "a refusal took nothing");
    assert_eq!(bench.left().await, [3, 3, 3]);
}

#[tokio::test]
async fn what_is_sent_twice_is_settled_once() {
    let mut bench = Bench::new().await;
    let (_, cells) = bench.charge("a", 2).await;
    let marks: Vec<i64> = cells.iter().map(|(mark, _)| *mark).collect();
    assert_eq!(bench.end(false, "a:s", &marks, 2, 7).await, 1);
    assert_eq!(bench.end(false, "a:s", &marks, 2, 7).await, 0);
    assert_eq!(bench.left().await, [3, 3, 3]);
    // Debt is kept.
    assert_eq!(bench.end(false, "b:s", &[], 0, 13).await, 1);
    bench.at(1_000_000 + 90).await;
    assert!(bench.left().await.iter().all(|left| *left <= 1));
}

#[tokio::test]
async fn a_lease_is_the_first_amount_that_fits() {
    let mut bench = Bench::new().await;
    for (index, (cell, key)) in bench.cells.clone().into_iter().enumerate() {
        let mut lease = async |record: String, amounts: &[u64]| -> Vec<i64> {
            let cells = amounts.iter().map(|amount| (cell.kind(), cell.charge(*amount, true).unwrap()));
            let call = call(&bench.scripts.lease, (&record, CHARGED), [key.as_str()], cells);
            call.invoke_async(&mut bench.connection).await.unwrap()
        };
        assert_eq!(lease(format!("{index}a"), &[6, 1]).await[0], 1);
        assert_eq!(lease(format!("{index}b"), &[6, 1]).await[0], 2);
        assert_eq!(lease(format!("{index}c"), &[6, 4]).await[..2], [0, -1]);
        let cells = [6, 1].map(|amount| (cell.kind(), cell.correct(0, amount, 0)));
        let record = format!("{index}b");
        let undo = call(&bench.scripts.undo, (&record, ENDED), [key.as_str()], cells);
        assert_eq!(undo.invoke_async::<i64>(&mut bench.connection).await.unwrap(), 1);
        let mut lease = async |record: String, amounts: &[u64]| -> Vec<i64> {
            let cells = amounts.iter().map(|amount| (cell.kind(), cell.charge(*amount, true).unwrap()));
            let call = call(&bench.scripts.lease, (&record, CHARGED), [key.as_str()], cells);
            call.invoke_async(&mut bench.connection).await.unwrap()
        };
        assert_eq!(lease(format!("{index}d"), &[6, 4]).await[0], 2, "the one was taken back");
    }
}
