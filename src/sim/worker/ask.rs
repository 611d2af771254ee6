//! Parses requests.

use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use smallvec::{SmallVec, smallvec};

use super::driver::SequenceRequest;
use super::fault::{FAULTS, RequestFaults};
use super::size::{MAX_PARTS, PromptSize};

/// Tokens that a chat template adds around each message.
const MESSAGE_TOKENS: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimEndpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completion,
    /// `/v1/responses`
    Response,
    /// `/v1/embeddings`
    Embedding,
    /// `/v1/messages`
    Messages,
    /// `/v1/rerank` and its like
    Rerank,
}

impl SimEndpoint {
    pub(super) fn of_path(path: &str) -> Option<Self> {
        match path {
            "/v1/chat/completions" => Some(Self::Chat),
            "/v1/completions" => Some(Self::Completion),
            "/v1/responses" => Some(Self::Response),
            "/v1/embeddings" => Some(Self::Embedding),
            "/v1/messages" => Some(Self::Messages),
            "/v1/rerank" | "/rerank" | "/v2/rerank" => Some(Self::Rerank),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct WorkerRequest {
    pub(super) form: SimEndpoint,
    pub(super) model: Option<String>,
    /// One per sequence: `n` for each prompt, prompt by prompt.
    pub(super) wishes: Vec<SequenceRequest>,
    /// Tokens of all prompts, each prompt counted once.
    pub(super) prompt_tokens: u64,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    /// Prompt tokens that count as read from a cache.
    pub(super) cached_tokens: u64,
    /// `true` to think before the answer.
    pub(super) thinks: bool,
    /// Tool to call instead of an answer in text.
    pub(super) tool: Option<String>,
    pub(super) faults: Option<RequestFaults>,
}

#[derive(Deserialize)]
struct WireRequest {
    model: Option<String>,
    messages: Option<PromptSize>,
    prompt: Option<PromptSize>,
    input: Option<PromptSize>,
    instructions: Option<PromptSize>,
    system: Option<PromptSize>,
    query: Option<PromptSize>,
    documents: Option<PromptSize>,
    #[serde(default)]
    thinking: Value,
    #[serde(default)]
    tools: Value,
    #[serde(default)]
    tool_choice: Value,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    max_output_tokens: Option<u32>,
    n: Option<u32>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    ignore_eos: Option<bool>,
    sim_fault: Option<String>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

impl WorkerRequest {
    /// Parses a request. A fault in the headers overrides one in the body.
    ///
    /// # Errors
    /// An error message for the client.
    pub(super) fn parse(
        form: SimEndpoint,
        headers: &HeaderMap,
        body: &[u8],
        default_max_tokens: u32,
    ) -> Result<Self, String> {
        let wire: WireRequest =
            serde_json::from_slice(body).map_err(|error| format!("invalid body: {error}"))?;
        let named = match headers.get(FAULTS) {
            Some(value) => Some(value.to_str().map_err(|_| "x-sim-fault is not visible ASCII")?),
            None => wire.sim_fault.as_deref(),
        };
        let faults = named.map(RequestFaults::parse).transpose()?;

        let (field, size) = match form {
            SimEndpoint::Chat | SimEndpoint::Messages => ("messages", wire.messages),
            SimEndpoint::Rerank => ("documents", wire.documents),
            SimEndpoint::Completion => ("prompt", wire.prompt),
            SimEndpoint::Response | SimEndpoint::Embedding => ("input", wire.input),
        };
        let size = size.ok_or_else(|| format!("{field} is missing"))?;
        let system = wire.system.unwrap_or_default();
        let query = wire.query.map_or(0, |size| size.tokens);
        let cached_tokens = size.cached + system.cached;
        let prompts: SmallVec<[u64; 1]> = match form {
            SimEndpoint::Chat | SimEndpoint::Messages => {
                smallvec![size.tokens + system.tokens + MESSAGE_TOKENS * size.parts.len() as u64]
            }
            SimEndpoint::Rerank => size.parts.iter().map(|part| part + query).collect(),
            SimEndpoint::Response => smallvec![size.tokens + wire.instructions.map_or(0, |size| size.tokens)],
            SimEndpoint::Completion | SimEndpoint::Embedding => size.parts,
        };
        let n = match form {
            SimEndpoint::Chat | SimEndpoint::Completion => wire.n.unwrap_or(1),
            SimEndpoint::Response | SimEndpoint::Embedding | SimEndpoint::Messages | SimEndpoint::Rerank => 1,
        };
        if prompts.is_empty() || n == 0 || prompts.len().saturating_mul(n as usize) > MAX_PARTS {
            return Err(format!("{field} × n must be from 1 to {MAX_PARTS} sequences"));
        }

        let max = wire.max_completion_tokens.or(wire.max_tokens).or(wire.max_output_tokens);
        let max = max.unwrap_or(default_max_tokens).max(1);
        let (max, exact) = match form {
            // Only a prefill.
            SimEndpoint::Embedding | SimEndpoint::Rerank => (1, true),
            _ => (max, wire.ignore_eos.unwrap_or(false)),
        };
        let wish = |&prompt: &u64| SequenceRequest { prompt: prompt.max(1), max, exact };
        Ok(Self {
            form,
            model: wire.model,
            prompt_tokens: prompts.iter().map(|prompt| (*prompt).max(1)).sum(),
            wishes: prompts.iter().flat_map(|prompt| std::iter::repeat_n(wish(prompt), n as usize)).collect(),
            stream: wire.stream.unwrap_or(false)
                && !matches!(form, SimEndpoint::Embedding | SimEndpoint::Rerank),
            cached_tokens,
            thinks: wire.thinking["type"] == "enabled",
            tool: called_tool(&wire.tools, &wire.tool_choice),
            include_usage: wire.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
            faults,
        })
    }
}

/// Returns the name of the tool that the request wants to be called: the one it chooses, or the first.
fn called_tool(tools: &Value, choice: &Value) -> Option<String> {
    let name = match choice["type"].as_str()? {
        "tool" => &choice["name"],
        "any" => &tools[0]["name"],
        _ => return None,
    };
    name.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn parse(form: SimEndpoint, body: &str) -> Result<WorkerRequest, String> {
        WorkerRequest::parse(form, &HeaderMap::new(), body.as_bytes(), 256)
    }

    #[test]
    fn sequences_are_prompts_times_n() {
        let ask =
            parse(SimEndpoint::Completion, r#"{"prompt":["four","eight by"],"n":2,"max_tokens":9}"#).unwrap();
        let prompts: Vec<u64> = ask.wishes.iter().map(|wish| wish.prompt).collect();
        assert_eq!((prompts, ask.prompt_tokens), (vec![1, 1, 2, 2], 3));
        assert!(ask.wishes.iter().all(|wish| wish.max == 9 && !wish.exact));
    }

    #[test]
    fn the_newer_name_of_the_bound_goes_first() {
        let body = r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":5,
            "max_completion_tokens":7,"ignore_eos":true,"n":null}"#;
        let ask = parse(SimEndpoint::Chat, body).unwrap();
        assert_eq!(ask.wishes, [SequenceRequest { prompt: 5, max: 7, exact: true }]);
    }

    #[test]
    fn a_header_goes_before_the_body() {
        let mut headers = HeaderMap::new();
        headers.insert("x-sim-fault", HeaderValue::from_static("die"));
        let ask = WorkerRequest::parse(
            SimEndpoint::Response,
            &headers,
            br#"{"input":"hi","sim_fault":"hang"}"#,
            256,
        );
        assert_eq!(ask.unwrap().faults, Some(RequestFaults::parse("die").unwrap()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (form, body, word) in [
            (SimEndpoint::Chat, "{", "body"),
            (SimEndpoint::Chat, r#"{"prompt":"hi"}"#, "messages"),
            (SimEndpoint::Completion, r#"{"prompt":[]}"#, "prompt"),
            (SimEndpoint::Completion, r#"{"prompt":"hi","n":0}"#, "n must"),
            (SimEndpoint::Completion, r#"{"prompt":"hi","n":4294967295}"#, "n must"),
            (SimEndpoint::Completion, r#"{"prompt":"hi","sim_fault":"x"}"#, "unknown fault"),
            (SimEndpoint::Embedding, r#"{"input":"hi","max_tokens":-1}"#, "-1"),
        ] {
            let message = parse(form, body).unwrap_err();
            assert!(message.contains(word), "{body}: {message}");
        }
    }
}
