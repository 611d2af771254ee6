//! Token usage as workers report it.

use crate::openai::scan::{JsonError, Scanner};

/// Tokens as counted by a worker; 0 for a missing number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt (input) tokens, including cached ones.
    pub(crate) prompt: u64,
    /// Completion (output) tokens; 0 if there are none, as for embeddings.
    pub(crate) output: u64,
    /// Prompt tokens that the worker had cached; `None` if it does not say.
    pub(crate) cached: Option<u64>,
}

impl Usage {
    /// Reads a `usage` value of chat, completions, responses or messages. `None` if it says
    /// nothing: `null`, or only zeros.
    pub(super) fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, JsonError> {
        if scanner.peek()? != b'{' {
            scanner.skip()?;
            return Ok(None);
        }
        let (mut prompt, mut output, mut total, mut apart, mut cached) = (None, None, None, 0_u64, None);
        scanner.object::<JsonError>(|scanner, key| {
            let slot = match key.raw {
                b"prompt_tokens" | b"input_tokens" => &mut prompt,
                b"completion_tokens" | b"output_tokens" => &mut output,
                b"total_tokens" => &mut total,
                // The Messages API counts these separately; the others include them.
                b"cache_read_input_tokens" | b"cache_creation_input_tokens" => {
                    let tokens = count(scanner)?;
                    apart = apart.saturating_add(tokens.unwrap_or(0));
                    if key.raw == b"cache_read_input_tokens" {
                        cached = tokens.or(cached);
                    }
                    return Ok(());
                }
                b"prompt_tokens_details" | b"input_tokens_details" => {
                    cached = cached_tokens(scanner)?.or(cached);
                    return Ok(());
                }
                _ => return scanner.skip(),
            };
            *slot = count(scanner)?.or(*slot);
            Ok(())
        })?;
        let rest =
            |known: Option<u64>| total.map_or(0, |total: u64| total.saturating_sub(known.unwrap_or(0)));
        let usage = Self {
            prompt: prompt.unwrap_or_else(|| rest(output)).saturating_add(apart),
            output: output.unwrap_or_else(|| if prompt.is_some() { rest(prompt) } else { 0 }),
            cached,
        };
        Ok(((usage.prompt, usage.output) != (0, 0)).then_some(usage))
    }

    /// Returns it unless it says nothing, or what no answer can have.
    pub(super) fn plausible(self) -> Option<Self> {
        let largest = self.prompt.max(self.output);
        (largest > 0 && largest <= MOST).then_some(self)
    }
}

/// Reads the cached tokens in the details of a prompt; `None` if there are none.
fn cached_tokens(scanner: &mut Scanner<'_>) -> Result<Option<u64>, JsonError> {
    if scanner.peek()? != b'{' {
        return scanner.skip().map(|()| None);
    }
    let mut cached = None;
    scanner.object::<JsonError>(|scanner, key| {
        if key.raw != b"cached_tokens" {
            return scanner.skip();
        }
        cached = count(scanner)?;
        Ok(())
    })?;
    Ok(cached)
}

/// More tokens than any answer has: a larger number is an error of the worker, such as -1 without a sign.
const MOST: u64 = 100_000_000;

/// Reads a number of tokens; `None` for any other value, and for one that no answer can have.
fn count(scanner: &mut Scanner<'_>) -> Result<Option<u64>, JsonError> {
    match scanner.peek()? {
        b'0'..=b'9' => {
            let digits = scanner.number()?;
            // Some workers write whole numbers with a fraction.
            let fraction =
                || digits.parse().ok().filter(|number: &f64| *number < 1e15).map(|number| number as u64);
            Ok(digits.parse().ok().or_else(fraction).filter(|tokens| *tokens <= MOST))
        }
        _ => scanner.skip().map(|()| None),
    }
}

/// Combined usage reports of a stream. Workers report once at the end, or at the beginning, or with
/// each piece the tokens so far; zeros and missing numbers say nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UsageAccount {
    reported: bool,
    best: Usage,
    /// Pieces of content at the latest report of output tokens.
    at: u64,
    /// `true` if it is below the pieces so far and not above the report before: no total count.
    partial: bool,
}

impl UsageAccount {
    /// Records a report that came with, or after, `seen` pieces of content.
    pub(super) fn report(&mut self, usage: Usage, seen: u64) {
        self.reported = true;
        self.best.prompt = self.best.prompt.max(usage.prompt);
        self.best.cached = self.best.cached.max(usage.cached);
        if usage.output > 0 {
            self.partial = usage.output <= self.best.output && self.at < seen && usage.output < seen;
            self.best.output = self.best.output.max(usage.output);
            self.at = seen;
        }
    }

    /// Returns the tokens after `seen` pieces of content: each piece after the latest report counts
    /// as one token. `None` without a report.
    pub(super) fn until_now(&self, seen: u64) -> Option<Usage> {
        let Usage { prompt, output, cached } = self.best;
        let output =
            if self.partial { output.max(seen) } else { output.saturating_add(seen.saturating_sub(self.at)) };
        self.reported.then_some(Usage { prompt, output, cached })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<Usage> {
        Usage::read(&mut Scanner::new(json.as_bytes())).unwrap()
    }

    #[test]
    fn every_shape_of_a_usage_is_read_and_zeros_say_nothing() {
        let found = |prompt, output| Some(Usage { prompt, output, cached: None });
        let cached = |prompt, output, cached| Some(Usage { prompt, output, cached: Some(cached) });
        for (json, usage) in [
            (r#"{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}"#, found(7, 2)),
            (r#"{"input_tokens":7,"output_tokens":2}"#, found(7, 2)),
            (
                r#"{"input_tokens":7,"cache_read_input_tokens":5,"cache_creation_input_tokens":null,"output_tokens":2}"#,
                cached(12, 2, 5),
            ),
            (
                r#"{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}"#,
                cached(7, 2, 4),
            ),
            (
                r#"{"input_tokens":7,"input_tokens_details":{"a":[1],"cached_tokens":0},"output_tokens":2}"#,
                cached(7, 2, 0),
            ),
            (r#"{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":null}"#, found(7, 2)),
            (r#"{"prompt_tokens":7,"total_tokens":9}"#, found(7, 2)),
            (r#"{"completion_tokens":2,"total_tokens":9}"#, found(7, 2)),
            (r#"{"total_tokens":9}"#, found(9, 0)),
            (r#"{"prompt_tokens":7.0,"completion_tokens":2e0}"#, found(7, 2)),
            (r#"{"prompt_tokens":7,"completion_tokens":0}"#, found(7, 0)),
            (r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#, None),
            (r#"{"prompt_tokens":null,"completion_tokens":"5"}"#, None),
            ("{}", None),
            ("null", None),
            ("7", None),
        ] {
            assert_eq!(read(json), usage, "{json}");
        }
    }

    #[test]
    fn reports_are_put_together_however_a_worker_spreads_them() {
        // Reports as (pieces of content so far, prompt, output), then all pieces, then the result.
        for (what, reports, seen, sum) in [
            ("at the end", &[(50, 10, 48)][..], 50, (10, 48)),
            ("at the beginning", &[(0, 10, 0)], 50, (10, 50)),
            ("at the beginning, with the first token", &[(0, 10, 1)], 49, (10, 50)),
            ("at both", &[(0, 10, 1), (50, 0, 57)], 50, (10, 57)),
            ("of nothing but the prompt at the end", &[(50, 10, 0)], 50, (10, 50)),
            ("with each piece, until it is left", &[(1, 10, 2), (2, 10, 4), (3, 10, 6)], 4, (10, 7)),
            ("zeros at the end", &[(1, 10, 2), (2, 10, 4), (2, 0, 0)], 2, (10, 4)),
            ("of each piece alone", &[(1, 10, 1), (2, 10, 1), (3, 10, 1)], 3, (10, 3)),
            ("of one token more than pieces at the end", &[(3, 10, 3), (4, 10, 3), (4, 10, 5)], 4, (10, 5)),
        ] {
            let mut account = UsageAccount::default();
            assert_eq!(account.until_now(seen), None);
            for (at, prompt, output) in reports {
                account.report(Usage { prompt: *prompt, output: *output, cached: None }, *at);
            }
            let usage = Usage { prompt: sum.0, output: sum.1, cached: None };
            assert_eq!(account.until_now(seen), Some(usage), "{what}");
        }
    }
}
