//! What all answers to one request have in common.

use bytes::BytesMut;

use super::ask::{SimEndpoint, WorkerRequest};

/// Tokens of the thoughts, if any are wanted.
const THOUGHTS: u32 = 4;

/// Common data of all answers to one request.
#[derive(Debug)]
pub(super) struct AnswerPlan {
    pub(super) form: SimEndpoint,
    /// JSON string with quotes.
    pub(super) id: String,
    /// JSON string with quotes.
    pub(super) model: String,
    pub(super) created: u64,
    pub(super) prompt_tokens: u64,
    /// Cached tokens of the prompt, as the request marks them.
    pub(super) cached_tokens: u64,
    /// Those that the prefix cache had; `None` without one.
    pub(super) cached: Option<u64>,
    /// Tokens of the thoughts before the answer.
    pub(super) thoughts: u32,
    /// JSON string with quotes: the tool to call.
    pub(super) tool: Option<String>,
    pub(super) include_usage: bool,
    /// For each sequence, `true` if its token limit ended it.
    pub(super) cut: Vec<bool>,
    /// Start of each chunk, up to its choices.
    pub(super) head: String,
    /// Number of events sent, for the sequence numbers of the Responses API.
    pub(super) events: u64,
}

/// Appends formatted text, which cannot fail.
pub(super) fn put(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    std::fmt::Write::write_fmt(out, text).unwrap_or_default();
}

impl AnswerPlan {
    /// Prepares the answers to `ask`. `name` must be safe inside a JSON string.
    pub(super) fn new(
        ask: &WorkerRequest,
        name: &str,
        served_model: &str,
        created: u64,
        cut: &[bool],
    ) -> Self {
        let (prefix, object) = match ask.form {
            SimEndpoint::Chat => ("chatcmpl", "chat.completion"),
            SimEndpoint::Completion => ("cmpl", "text_completion"),
            SimEndpoint::Response => ("resp", "response"),
            SimEndpoint::Embedding => ("embd", "list"),
            SimEndpoint::Messages => ("msg", "message"),
            SimEndpoint::Rerank => ("score", "list"),
        };
        let chunk = if ask.stream && ask.form == SimEndpoint::Chat { ".chunk" } else { "" };
        let id = format!("\"{prefix}-{name}\"");
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let model = quoted(ask.model.as_deref().unwrap_or(served_model));
        let head =
            format!("{{\"id\":{id},\"object\":\"{object}{chunk}\",\"created\":{created},\"model\":{model}");
        Self {
            form: ask.form,
            id,
            model,
            created,
            prompt_tokens: ask.prompt_tokens,
            cached_tokens: ask.cached_tokens,
            cached: None,
            thoughts: if ask.thinks { THOUGHTS } else { 0 },
            tool: ask.tool.as_deref().map(quoted),
            include_usage: ask.include_usage,
            cut: cut.to_vec(),
            head,
            events: 0,
        }
    }
}
