//! The tokens that a worker reports.

use crate::openai::scan::{Flaw, Scanner};

/// Tokens as a worker counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt (input) tokens.
    pub prompt: u64,
    /// Completion (output) tokens; 0 where there are none, as for embeddings.
    pub output: u64,
}

impl Usage {
    /// Reads a `usage` value, in the words of chat and completions or in those of responses. `None` when it says
    /// nothing, as `null` does.
    pub(super) fn read(scanner: &mut Scanner<'_>) -> Result<Option<Self>, Flaw> {
        if scanner.peek()? != b'{' {
            scanner.skip()?;
            return Ok(None);
        }
        let (mut prompt, mut output) = (None, None);
        scanner.object::<Flaw>(|scanner, key| {
            let slot = match key.raw {
                b"prompt_tokens" | b"input_tokens" => &mut prompt,
                b"completion_tokens" | b"output_tokens" => &mut output,
                _ => return scanner.skip(),
            };
            match scanner.peek()? {
                b'0'..=b'9' => *slot = scanner.number()?.parse().ok().or(*slot),
                _ => scanner.skip()?,
            }
            Ok(())
        })?;
        Ok((prompt.is_some() || output.is_some())
            .then(|| Self { prompt: prompt.unwrap_or(0), output: output.unwrap_or(0) }))
    }
}
