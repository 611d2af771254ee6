//! The arrival times of requests, drawn before the first request is sent.
//!
//! The load is an open loop: nothing during a run can move an arrival, so a slow server does not
//! reduce its own load. Each source is a separate Poisson process. The same seed draws the same
//! arrivals, so every arm gets the same load.

use std::time::Duration;

use traffic_dam_lab::draw::{gap, normal};

/// Standard deviation of the logarithm of prompt lengths, and the bounds that clip them, in tokens.
const PROMPT_SIGMA: f64 = 0.7;
const PROMPT_LEAST: f64 = 20.0;
const PROMPT_MOST: f64 = 1500.0;
/// Median prompt length in tokens: a question with a little context.
const PROMPT_MEDIAN: f64 = 150.0;

/// Priority that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Critical,
    Interactive,
    Batch,
}

impl Class {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }
}

/// Distribution of a source's answer lengths.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Output {
    /// Chosen by the worker.
    Drawn,
    /// Set by the client and followed: log-normal; median in tokens, deviation of the logarithm.
    Asked { median: f64, sigma: f64 },
}

impl Output {
    /// Draws the length of one answer; `None` leaves it to the worker.
    pub(crate) fn draw(self, random: &mut fastrand::Rng) -> Option<u32> {
        match self {
            Self::Drawn => None,
            Self::Asked { median, sigma } => Some((median * (sigma * normal(random)).exp()).max(2.0) as u32),
        }
    }
}

/// A caller that sends requests at random times at a constant mean rate.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Number of the caller.
    pub(crate) caller: u32,
    /// Requests per second.
    pub(crate) rate: f64,
    pub(crate) class: Class,
    /// Share of its requests that ask for a stream, 0 to 1.
    pub(crate) streamed: f64,
    pub(crate) output: Output,
    /// Time of its first possible request, since the start of the run.
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

impl Source {
    /// Returns a caller of streams in the default class, from the start of a run until `until`.
    pub(crate) fn new(caller: u32, rate: f64, until: Duration) -> Self {
        let (class, output) = (Class::Interactive, Output::Drawn);
        Self { caller, rate, class, streamed: 1.0, output, from: Duration::ZERO, until }
    }

    /// Returns several callers that share a rate equally.
    pub(crate) fn retry_spread(callers: u32, rate: f64, until: Duration) -> Vec<Self> {
        (0..callers).map(|caller| Self::new(caller, rate / f64::from(callers), until)).collect()
    }
}

/// A request that is sent in any case.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Arrival {
    /// Time since the start of the run.
    pub(crate) due: Duration,
    pub(crate) caller: u32,
    pub(crate) class: Class,
    pub(crate) streamed: bool,
    pub(crate) prompt_tokens: u32,
    /// `max_tokens` of the request, if the client sets it.
    pub(crate) max_tokens: Option<u32>,
}

/// Draws the arrivals of all sources, in order of time.
pub(crate) fn draw(sources: &[Source], seed: u64) -> Vec<Arrival> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut arrivals = Vec::new();
    for source in sources {
        // Each source has its own stream, so that adding a source does not change the others.
        let mut random = random.fork();
        let mut at = source.from;
        loop {
            // Without a rate the next arrival would never come.
            at += Duration::from_secs_f64(gap(source.rate, &mut random).min(1e6));
            if at >= source.until {
                break;
            }
            arrivals.push(Arrival {
                due: at,
                caller: source.caller,
                class: source.class,
                streamed: random.f64() < source.streamed,
                prompt_tokens: prompt_tokens(&mut random),
                max_tokens: source.output.draw(&mut random),
            });
        }
    }
    arrivals.sort_by_key(|arrival| arrival.due);
    arrivals
}

/// Draws a log-normal prompt length in tokens.
pub(crate) fn prompt_tokens(random: &mut fastrand::Rng) -> u32 {
    (PROMPT_MEDIAN * (PROMPT_SIGMA * normal(random)).exp()).clamp(PROMPT_LEAST, PROMPT_MOST) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(100);

    #[test]
    fn arrivals_are_poisson_at_the_rate_asked_for() {
        let arrivals = draw(&[Source::new(0, 200.0, LONG)], 7);
        let count = arrivals.len() as f64;
        assert!((count - 20_000.0).abs() < 4.0 * 20_000_f64.sqrt(), "{count} arrivals");
        // In a Poisson process the gaps' standard deviation equals their mean.
        let gaps: Vec<f64> =
            arrivals.windows(2).map(|pair| (pair[1].due - pair[0].due).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!(
            (variance.sqrt() / mean - 1.0).abs() < 0.05,
            "deviation {} of the mean",
            variance.sqrt() / mean
        );
    }

    #[test]
    fn a_seed_means_one_crowd() {
        let sources = Source::retry_spread(5, 50.0, LONG);
        assert_eq!(draw(&sources, 3), draw(&sources, 3));
        assert_ne!(draw(&sources, 3), draw(&sources, 4));
        assert!(draw(&sources, 3).windows(2).all(|pair| pair[0].due <= pair[1].due));
    }

    #[test]
    fn a_source_asks_in_its_own_time_only() {
        let source = Source { from: LONG / 2, ..Source::new(9, 100.0, LONG) };
        let arrivals = draw(&[source], 1);
        assert!(arrivals.iter().all(|arrival| arrival.due >= LONG / 2 && arrival.due < LONG));
        assert!(arrivals.iter().all(|arrival| arrival.streamed && arrival.caller == 9));
        let half = draw(&[Source { streamed: 0.5, ..Source::new(0, 100.0, LONG) }], 1);
        let streamed = half.iter().filter(|arrival| arrival.streamed).count() as f64 / half.len() as f64;
        assert!((streamed - 0.5).abs() < 0.03, "{streamed} streamed");
    }

    #[test]
    fn lengths_are_those_asked_for() {
        let output = Output::Asked { median: 60.0, sigma: 0.3 };
        let drawn = draw(&[Source { output, ..Source::new(0, 100.0, LONG) }], 1);
        let mut lengths: Vec<u32> = drawn.iter().filter_map(|arrival| arrival.max_tokens).collect();
        lengths.sort_unstable();
        assert_eq!(lengths.len(), drawn.len());
        assert!((58..62).contains(&lengths[lengths.len() / 2]), "{}", lengths[lengths.len() / 2]);
        let output = Output::Asked { median: 100.0, sigma: 0.0 };
        let drawn = draw(&[Source { output, ..Source::new(0, 100.0, LONG) }], 1);
        assert!(drawn.iter().all(|arrival| arrival.max_tokens == Some(100)));
        assert!(draw(&[Source::new(0, 100.0, LONG)], 1).iter().all(|arrival| arrival.max_tokens.is_none()));
    }

    #[test]
    fn nobody_who_asks_nothing_asks() {
        assert!(draw(&[Source::new(0, 0.0, LONG)], 1).is_empty());
    }
}
