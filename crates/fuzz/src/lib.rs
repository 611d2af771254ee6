//! Fuzzer for parsers of untrusted bytes: mutates known inputs for as long as `make fuzz` says.
//!
//! `cargo test` ignores the fuzz tests, because they run for a time, not for a count. They are next
//! to the parser's other tests, run unoptimised, so that arithmetic overflow panics, and print the
//! input that failed and the seed.

#![expect(clippy::print_stdout, reason = "a run says its result, and a failure its input and seed")]

use std::env;
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Longer inputs are cut: bugs at bounds show with small bounds too, and short inputs run faster.
const LONGEST: usize = 4096;
/// Mutated inputs kept for further mutation; beyond this, a new one replaces a random one.
const CORPUS: usize = 1024;

/// Calls `check` with inputs made from `seeds` and `words` for `FUZZ_SECONDS`, by default 60 s.
/// `FUZZ_SEED` repeats a run.
#[expect(clippy::disallowed_methods, reason = "a run lasts for a time that passes outside")]
pub fn fuzz(seeds: &[&[u8]], words: &[&[u8]], mut check: impl FnMut(&[u8], &mut Rng)) {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    let lasts = Duration::from_secs(number("FUZZ_SECONDS").unwrap_or(60));
    let mut random = Rng::with_seed(seed);
    let mut corpus: Vec<Vec<u8>> = Vec::new();
    let (began, mut inputs) = (Instant::now(), 0_u64);
    while began.elapsed() < lasts {
        // Half start from a seed: mutated ones are soon far from what a parser accepts.
        let known = random.choice(seeds).copied().unwrap_or_default();
        let before = if random.bool() { random.choice(&corpus) } else { None };
        let mut input = before.map_or(known, Vec::as_slice).to_vec();
        for _ in 0..random.usize(1..=6) {
            change(&mut input, words, &corpus, &mut random);
        }
        input.truncate(LONGEST);
        let shown = Shown { input: &input, seed, inputs };
        check(&input, &mut random);
        drop(shown);
        inputs += 1;
        if corpus.len() < CORPUS {
            corpus.push(input);
        } else if random.u8(..) == 0 {
            let at = random.usize(..CORPUS);
            corpus[at] = input;
        }
    }
    assert!(inputs > 100, "only {inputs} inputs in {lasts:?}");
    println!("{inputs} inputs in {lasts:?}");
}

/// Cuts `bytes` into pieces of random lengths, some of them empty.
pub fn pieces<'a>(mut bytes: &'a [u8], random: &mut Rng) -> Vec<&'a [u8]> {
    let most = [1, 3, 17, 300][random.usize(..4)];
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(random.usize(0..=most).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

fn change(input: &mut Vec<u8>, words: &[&[u8]], corpus: &[Vec<u8>], random: &mut Rng) {
    let at = random.usize(0..=input.len());
    let end = (at + random.usize(0..=16)).min(input.len());
    match random.u8(..8) {
        0 => input.insert(at, random.u8(..)),
        1 => drop(input.drain(at..end)),
        2 => input.truncate(at),
        3 => input[at..end].iter_mut().for_each(|byte| *byte ^= 1 << random.u8(..8)),
        4 => {
            let again = input[at..end].repeat(random.usize(1..=8));
            drop(input.splice(at..at, again));
        }
        5 => {
            let other = random.choice(corpus).map_or(&[][..], Vec::as_slice);
            let from = random.usize(0..=other.len());
            drop(input.splice(at.., other[from..].iter().copied()));
        }
        _ => {
            let word = random.choice(words).copied().unwrap_or_default();
            drop(input.splice(at..if random.bool() { at } else { end }, word.iter().copied()));
        }
    }
}

/// Guard that prints the input if the check panics.
struct Shown<'a> {
    input: &'a [u8],
    seed: u64,
    inputs: u64,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("input {} of FUZZ_SEED={}: b\"{}\"", self.inputs, self.seed, self.input.escape_ascii());
        }
    }
}
