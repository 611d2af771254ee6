//! Compares the scripts with the limiters in memory: same calls at the same times, and equal
//! answers to the last unit and microsecond.

use std::time::Duration;

use fastrand::Rng;
use redis::aio::MultiplexedConnection;
use traffic_dam::clock::Nanos;
use traffic_dam::limit::meter::Shortage;
use traffic_dam::limit::rule::{Algorithm, Match, Mode, OnLoss, Per, Quota, Rule};
use traffic_dam::limit::{Charge, Decision, ExpectedCost, RuleSet, Served, Subject};
use traffic_dam::redis::rules::cell::Cell;
use traffic_dam::redis::rules::script::{CHARGED, ENDED, RuleScripts, call};
use traffic_dam::refusal::{QuotaStatus, Unit};
use traffic_dam::request::Class;

use super::server::Server;

/// Sequences in all, and how many run side by side, with one call of each per round trip.
const COURSES: usize = 20_000;
const ABREAST: usize = 2_000;
const CALLS: usize = 8;

const SUBJECT: Subject<'static> = Subject {
    caller: "key:a",
    team: None,
    ip: None,
    model: None,
    served: Served::AS_ASKED,
    route: "/v1/chat/completions",
    path: "/v1/chat/completions",
    class: Class::Interactive,
    own: None,
};

fn micros_up(length: Duration) -> u128 {
    length.as_nanos().div_ceil(1000)
}

fn rule(random: &mut Rng, index: usize) -> Rule {
    let algorithm =
        [Algorithm::TokenBucket, Algorithm::SlidingWindow, Algorithm::SlidingLog][random.usize(..3)];
    let large = random.u64(1..=1_000_000_000_000);
    let limit = match algorithm {
        Algorithm::SlidingLog => random.u64(1..=40),
        _ => [random.u64(1..=10), random.u64(1..=1000), large][random.usize(..3)],
    };
    let millis = [1, 1000, 60_000, 86_400_000, random.u64(1..=100_000), 30 * 86_400_000][random.usize(..6)];
    let burst = if algorithm == Algorithm::TokenBucket { random.u64(1..=limit.min(1000)) } else { limit };
    Rule {
        name: format!("r{index}").into(),
        algorithm,
        per: vec![Per::Caller],
        unit: if random.u8(..3) == 0 { Unit::Requests } else { Unit::Tokens },
        quota: Quota { limit, period: Duration::from_millis(millis), burst },
        mode: if random.u8(..5) == 0 { Mode::Observe } else { Mode::Enforce },
        matches: Match::default(),
        reserve_max: false,
        on_loss: OnLoss::Share,
        max_keys: 10,
    }
}

/// One rule's part of a call.
#[derive(Clone, Debug)]
struct Part {
    rule: usize,
    cell: Cell,
    key: String,
    amount: u64,
    mark: u64,
}

/// An admitted request that has not ended.
struct Open {
    charge: Charge,
    record: String,
    parts: Vec<Part>,
    /// Rules that charged nothing.
    free: Vec<Part>,
    /// Rules in observe mode that would have refused.
    refused: Vec<usize>,
}

/// The answer of the limiters in memory.
enum Said {
    Admitted { open: Box<Open>, quotas: Vec<QuotaStatus>, would_refuse: Vec<usize> },
    Refused { asked: Vec<Part>, retry_after: Option<Duration>, refusing: Vec<usize> },
    Nothing,
}

/// One sequence of calls to one rule set.
struct Course {
    tag: String,
    random: Rng,
    rule_set: RuleSet,
    /// Time in µs since the epoch.
    now: u64,
    calls: u64,
    open: Vec<Open>,
}

impl Course {
    fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let rules = (0..random.usize(1..=4)).map(|index| rule(&mut random, index)).collect();
        Self {
            tag: format!("{{{seed}}}"),
            rule_set: RuleSet::new(rules),
            now: random.u64(1_000_000..10 * 365 * 86_400_000_000),
            calls: 0,
            open: Vec::new(),
            random,
        }
    }

    /// Advances the time: by nothing, by a little, or by about one period of a rule.
    fn wait(&mut self) {
        let rules = self.rule_set.rules();
        let period = rules[self.random.usize(..rules.len())].quota.period;
        let period = u64::try_from(period.as_micros()).unwrap();
        self.now += match self.random.u8(..6) {
            0 | 1 => 0,
            2 => self.random.u64(..100),
            3 => self.random.u64(..=period / 10),
            4 => period,
            _ => self.random.u64(..period * 5 / 2),
        };
    }

    /// Makes the next call in memory, and adds the same one to `pipe`.
    fn play(&mut self, scripts: &RuleScripts, pipe: &mut redis::Pipeline) -> Said {
        self.wait();
        self.calls += 1;
        let clock = format!("clock{}", self.tag);
        let (seconds, rest) = (self.now / 1_000_000, self.now % 1_000_000);
        pipe.hset_multiple(clock, &[("s", seconds), ("us", rest)]).ignore();
        if !self.open.is_empty() && self.random.u8(..3) == 0 {
            let index = self.random.usize(..self.open.len());
            let open = self.open.swap_remove(index);
            self.end(open, scripts, pipe);
            return Said::Nothing;
        }
        self.charge(scripts, pipe)
    }

    fn end(&mut self, open: Open, scripts: &RuleScripts, pipe: &mut redis::Pipeline) {
        let now = Nanos(self.now * 1000);
        let Open { charge, record, mut parts, free, refused } = open;
        let settled = format!("{record}:s");
        let undone = self.random.u8(..3) == 0;
        // An undo names all cells of the charge and finds their marks in its record.
        parts.retain(|part| undone || !refused.contains(&part.rule));
        let (script, record, actual) = match self.random.bool() {
            _ if undone => {
                self.rule_set.refund(charge, now);
                (&scripts.undo, record, 0)
            }
            true => {
                let actual = self.random.u64(..60);
                parts.extend(free);
                parts.retain(|part| self.rule_set.rules()[part.rule].unit == Unit::Tokens);
                self.rule_set.settle(charge, actual, now);
                (&scripts.settle, settled, actual)
            }
            false => {
                self.rule_set.refund(charge, now);
                (&scripts.settle, settled, 0)
            }
        };
        let mark = |part: &Part| if undone { 0 } else { part.mark };
        let keys = parts.iter().map(|part| part.key.as_str());
        let cells =
            parts.iter().map(|part| (part.cell.kind(), part.cell.correct(mark(part), part.amount, actual)));
        pipe.invoke_script(&call(script, (&record, ENDED), keys, cells));
    }

    fn charge(&mut self, scripts: &RuleScripts, pipe: &mut redis::Pipeline) -> Said {
        let random = &mut self.random;
        let prompt = [random.u64(..5), random.u64(..50), random.u64(..2_000_000)][random.usize(..3)];
        let cost =
            ExpectedCost { prompt_tokens: prompt, expected_output: random.u64(..20), max_output: None };
        let (mut parts, mut free) = (Vec::new(), Vec::new());
        let mut never = false;
        for claim in self.rule_set.rule_costs(&SUBJECT, &cost) {
            let cell = Cell::of(&claim.rule);
            let key = format!("{}:{}:{}", self.tag, claim.rule.name, cell.kind());
            match claim.amount {
                // Nothing is charged now, but its actual use is settled.
                Some(0) => free.push(Part { rule: claim.index, cell, key, amount: 0, mark: 0 }),
                Some(amount) => {
                    parts.push(Part { rule: claim.index, cell, key, amount, mark: 0 });
                }
                None => never |= claim.rule.mode == Mode::Enforce,
            }
        }
        let verdict = self.rule_set.admit(&SUBJECT, &cost, Nanos(self.now * 1000));
        if never || parts.is_empty() {
            match verdict {
                Ok(admission) => {
                    assert!(!never);
                    self.rule_set.refund(admission.charge, Nanos(self.now * 1000));
                }
                Err(denial) => assert!(denial.too_large),
            }
            pipe.ping();
            return Said::Nothing;
        }
        let record = format!("op{}:{}", self.tag, self.calls);
        let rules = self.rule_set.rules();
        let cells = parts.iter().map(|part| {
            let fields = part.cell.charge(part.amount, rules[part.rule].mode == Mode::Enforce);
            (part.cell.kind(), fields.expect("amounts are within the capacity"))
        });
        let keys = parts.iter().map(|part| part.key.as_str());
        pipe.invoke_script(&call(&scripts.charge, (&record, CHARGED), keys, cells));
        let of = |decisions: &[(usize, Decision)], which| {
            let mut rules: Vec<_> =
                decisions.iter().filter(|(_, said)| *said == which).map(|(rule, _)| *rule).collect();
            rules.sort_unstable();
            rules
        };
        match verdict {
            Ok(admission) => Said::Admitted {
                quotas: self.rule_set.quota_statuses(&admission.charge, Nanos(self.now * 1000)).into_vec(),
                would_refuse: of(&admission.decisions, Decision::WouldRefuse),
                open: Box::new(Open { charge: admission.charge, record, parts, free, refused: Vec::new() }),
            },
            Err(denial) => Said::Refused {
                asked: parts,
                retry_after: denial.retry_after,
                refusing: of(&denial.decisions, Decision::Refused),
            },
        }
    }

    /// Compares the answers of memory and server.
    fn compare(&mut self, said: Said, answer: &redis::Value) {
        let place = format!("course {}, call {}", self.tag, self.calls);
        match said {
            Said::Nothing => {}
            Said::Admitted { mut open, quotas, would_refuse } => {
                let answer: Vec<i64> = redis::from_redis_value(answer.clone()).expect(&place);
                assert_eq!(answer[0], 1, "{place}: {:?} {answer:?}", open.parts);
                let mut refused = Vec::new();
                for (part, shown) in open.parts.iter_mut().zip(answer[1..].chunks_exact(5)) {
                    let rule = &self.rule_set.rules()[part.rule];
                    if shown[0] == 0 {
                        refused.push(part.rule);
                        continue;
                    }
                    part.mark = u64::try_from(shown[1]).unwrap();
                    let level = part.cell.level([shown[2], shown[3], shown[4]].map(i64::cast_unsigned));
                    if rule.mode == Mode::Enforce {
                        let quota = quotas.iter().find(|quota| quota.rule == rule.name).unwrap();
                        assert_eq!(level.remaining, quota.remaining, "{place}: {rule:?} {shown:?}");
                        assert_eq!(level.reset.as_micros(), micros_up(quota.reset), "{place}: {rule:?}");
                    }
                }
                open.refused.clone_from(&refused);
                refused.sort_unstable();
                let never = |rule: &usize| {
                    !open.parts.iter().any(|part| part.rule == *rule) && !refused.contains(rule)
                };
                assert!(would_refuse.iter().all(|rule| refused.contains(rule) || never(rule)), "{place}");
                assert!(refused.iter().all(|rule| would_refuse.contains(rule)), "{place}");
                self.open.push(*open);
            }
            Said::Refused { asked, retry_after, refusing } => {
                let answer: Vec<i64> = redis::from_redis_value(answer.clone()).expect(&place);
                assert_eq!(answer[0], 0, "{place}: {asked:?} {answer:?}");
                let (mut waits, mut refused) = (Vec::new(), Vec::new());
                for (part, shown) in asked.iter().zip(answer[1..].chunks_exact(5)) {
                    assert_eq!(shown[1], -1, "{place}: nothing is charged");
                    if shown[0] == 1 || self.rule_set.rules()[part.rule].mode == Mode::Observe {
                        continue;
                    }
                    refused.push(part.rule);
                    let shown = [shown[2], shown[3], shown[4]].map(i64::cast_unsigned);
                    let Some(Shortage::Wait(wait)) = part.cell.shortage(shown, part.amount) else {
                        panic!("{place}: {part:?} {shown:?}")
                    };
                    waits.push(wait.as_micros());
                }
                refused.sort_unstable();
                assert_eq!(refused, refusing, "{place}");
                assert_eq!(waits.into_iter().max(), retry_after.map(micros_up), "{place}: {asked:?}");
            }
        }
    }
}

/// The scripts, with the time from each sequence's key. Keys expire by server time: not here.
fn scripts() -> RuleScripts {
    let changes = [
        ("redis.call('TIME')", "redis.call('HMGET', 'clock' .. string.match(KEYS[1], '%b{}'), 's', 'us')"),
        ("math.ceil((later - at) / 1000) + 1", "1e9"),
    ];
    RuleScripts::from_sources(|source| {
        changes.into_iter().fold(source.to_owned(), |source, (from, to)| {
            assert_eq!(source.matches(from).count(), 1, "{from}");
            source.replace(from, to)
        })
    })
}

async fn load(scripts: &RuleScripts, connection: &mut MultiplexedConnection) {
    for script in [&scripts.charge, &scripts.lease, &scripts.settle, &scripts.undo] {
        script.prepare_invoke().load_async(connection).await.unwrap();
    }
}

#[tokio::test]
async fn the_scripts_decide_as_the_limiters_in_memory() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    let scripts = scripts();
    load(&scripts, &mut connection).await;
    let (mut admitted, mut refused) = (0, 0);
    for first in (0..COURSES).step_by(ABREAST) {
        let mut courses: Vec<_> = (first..first + ABREAST).map(|seed| Course::new(seed as u64)).collect();
        for _ in 0..CALLS {
            let mut pipe = redis::pipe();
            let said: Vec<_> = courses.iter_mut().map(|course| course.play(&scripts, &mut pipe)).collect();
            let answers: Vec<redis::Value> = pipe.query_async(&mut connection).await.unwrap();
            for ((course, said), answer) in courses.iter_mut().zip(said).zip(&answers) {
                match said {
                    Said::Admitted { .. } => admitted += 1,
                    Said::Refused { .. } => refused += 1,
                    Said::Nothing => {}
                }
                course.compare(said, answer);
            }
        }
        redis::cmd("FLUSHALL").arg("ASYNC").query_async::<()>(&mut connection).await.unwrap();
    }
    assert!(admitted > COURSES && refused > COURSES / 4, "{admitted} admitted, {refused} refused");
}
