//! Measures the cases in short slices, with the sides of each ratio in turns.

use std::sync::Barrier;
use std::time::Duration;

use criterion::Criterion;
use traffic_dam::clock::Clock;

/// Number of drawn keys; the checks cycle through them.
pub(crate) const DRAWN: usize = 1 << 20;
/// The id of the first key.
const FIRST: &str = "key:00000000";
const ROUNDS: usize = 15;
/// So short that most slices are not interrupted even on a busy machine; the median is of those.
const SLICE: Duration = Duration::from_micros(200);
/// So many that two threads run side by side for most of a round.
const SLICES: usize = 50;

struct Case {
    row: String,
    subject: &'static str,
    /// Takes the number of slices and of checks per slice; returns all slice times of all threads.
    run: Box<dyn Fn(usize, u64) -> Vec<Duration>>,
}

/// All cases.
#[derive(Default)]
pub(crate) struct Cases(Vec<Case>);

impl Cases {
    /// Adds a case for one and two threads. `check` gets its thread's two texts and a counter.
    pub(crate) fn add<F>(&mut self, row: &str, subject: &'static str, check: F)
    where
        F: Fn(&mut [String; 2], usize) + Clone + Sync + 'static,
    {
        for threads in [1, 2] {
            let check = check.clone();
            let run = Box::new(move |slices, checks| timed(threads, slices, checks, &check));
            self.0.push(Case {
                row: format!("{row}, {threads} thread{}", if threads == 1 { "" } else { "s" }),
                subject,
                run,
            });
        }
    }

    pub(crate) fn run(&self, criterion: &mut Criterion) {
        for case in &self.0 {
            criterion.benchmark_group(&case.row).bench_function(case.subject, |bencher| {
                bencher.iter_custom(|checks| {
                    let times = (case.run)(1, checks);
                    times.iter().sum::<Duration>() / times.len().max(1) as u32
                })
            });
        }
    }
}

/// Runs `check` in all threads at once, in slices, and returns the times of all slices.
fn timed<F: Fn(&mut [String; 2], usize) + Sync>(
    threads: usize,
    slices: usize,
    checks: u64,
    check: &F,
) -> Vec<Duration> {
    let clock = Clock::system();
    let work = |thread: usize| {
        let mut texts = [String::from(FIRST), String::from(FIRST)];
        let mut number = thread * DRAWN / threads;
        let slice = || {
            let start = clock.now();
            for _ in 0..checks {
                check(&mut texts, number);
                number += 1;
            }
            clock.now().since(start)
        };
        std::iter::repeat_with(slice).take(slices).collect::<Vec<_>>()
    };
    if threads == 1 {
        return work(0);
    }
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        let start = |thread| {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(thread)
            })
        };
        let started: Vec<_> = (0..threads).map(start).collect();
        started.into_iter().filter_map(|thread| thread.join().ok()).flatten().collect()
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn nanos_per_check(case: &Case, slices: usize, checks: u64) -> Vec<f64> {
    (case.run)(slices, checks).iter().map(|time| time.as_secs_f64() * 1e9 / checks as f64).collect()
}

/// Measures the subjects of each row in turns, so that a busy machine slows both sides alike.
pub(crate) fn print_ratios(Cases(cases): &Cases) {
    println!("\nMedians of {ROUNDS} rounds in turns; the ratio is the median of the rounds' ratios.\n");
    println!("| what | limiter | ns per check | ÷ governor |\n| --- | --- | --- | --- |");
    let mut rows: Vec<&str> = Vec::new();
    for case in cases {
        if !rows.contains(&case.row.as_str()) {
            rows.push(&case.row);
        }
    }
    for row in rows {
        let subjects: Vec<&Case> = cases.iter().filter(|case| case.row == row).collect();
        let mut nanos = vec![Vec::new(); subjects.len()];
        let checks =
            |case: &&Case| (SLICE.as_nanos() as f64 / median(nanos_per_check(case, SLICES, 100))) as u64;
        let checks: Vec<u64> = subjects.iter().map(checks).collect();
        for _ in 0..ROUNDS {
            for ((case, checks), nanos) in subjects.iter().zip(&checks).zip(&mut nanos) {
                nanos.push(median(nanos_per_check(case, SLICES, *checks)));
            }
        }
        let theirs = subjects.iter().position(|case| case.subject == "governor");
        for (case, mine) in subjects.iter().zip(&nanos) {
            let ratio =
                theirs.map(|theirs| median(mine.iter().zip(&nanos[theirs]).map(|(a, b)| a / b).collect()));
            let ratio = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            println!("| {row} | {} | {:.1} | {ratio} |", case.subject, median(mine.clone()));
        }
    }
}
