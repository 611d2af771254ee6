//! Calls that are answered at once, without the engine: counting tokens, pictures, sound.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::output_text;
use super::size::PromptSize;

/// Maximum tokens that an answer lists.
const LISTED: u64 = 4096;
/// Bytes of a form that count as one prompt token.
const BYTES_PER_TOKEN: usize = 400;
/// Tokens of a transcription.
const TRANSCRIBED: u32 = 5;
/// Length of spoken text, in bytes.
const SPOKEN: usize = 2048;

#[derive(Deserialize)]
struct WireText {
    system: Option<PromptSize>,
    messages: Option<PromptSize>,
    prompt: Option<PromptSize>,
    #[serde(default)]
    tokens: Vec<u32>,
}

/// A path whose calls are answered at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlainEndpoint {
    CountTokens,
    Tokenize,
    Detokenize,
    Transcribe,
    Speak,
    Draw,
}

impl PlainEndpoint {
    pub(super) fn of_path(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/messages/count_tokens" => Self::CountTokens,
            "/tokenize" => Self::Tokenize,
            "/detokenize" => Self::Detokenize,
            "/v1/audio/transcriptions" | "/v1/audio/translations" => Self::Transcribe,
            "/v1/audio/speech" => Self::Speak,
            "/v1/images/generations" | "/v1/images/edits" => Self::Draw,
            _ => return None,
        })
    }

    /// Returns the content type and body of the answer.
    ///
    /// # Errors
    /// An error message for the client.
    pub(super) fn answer(self, body: &[u8]) -> Result<(&'static str, Bytes), String> {
        let answer = match self {
            Self::CountTokens => json!({ "input_tokens": count(&read(body)?) }),
            Self::Tokenize => {
                let count = count(&read(body)?);
                json!({ "count": count, "tokens": (0..count.min(LISTED)).collect::<Vec<_>>() })
            }
            Self::Detokenize => {
                let tokens = read(body)?.tokens;
                json!({ "prompt": tokens.iter().map(|token| output_text::word(*token)).collect::<String>() })
            }
            Self::Transcribe => {
                let (input, words) = (body.len() / BYTES_PER_TOKEN, 0..TRANSCRIBED);
                let usage = json!({ "type": "tokens", "input_tokens": input, "output_tokens": TRANSCRIBED });
                json!({ "text": words.map(output_text::word).collect::<String>(), "usage": usage })
            }
            Self::Speak => return Ok(("audio/mpeg", vec![0xff; SPOKEN].into())),
            Self::Draw => {
                let usage = json!({ "input_tokens": body.len() / BYTES_PER_TOKEN, "output_tokens": 100 });
                json!({ "created": 0, "data": [{ "b64_json": "iVBORw0KGgo=" }], "usage": usage })
            }
        };
        Ok(("application/json", answer.to_string().into()))
    }
}

fn read(body: &[u8]) -> Result<WireText, String> {
    serde_json::from_slice(body).map_err(|error| format!("invalid body: {error}"))
}

fn count(text: &WireText) -> u64 {
    [&text.system, &text.messages, &text.prompt].into_iter().flatten().map(|size| size.tokens).sum()
}
