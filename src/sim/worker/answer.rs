//! Writes answers from prepared pieces, without a JSON tree per token.

use bytes::{BufMut, BytesMut};

use super::ask::{SimEndpoint, WorkerRequest};
use super::mailbox::SequenceCounts;
use super::{messages, output_text, responses};

/// Dimensions of an embedding.
const EMBEDDING_SIZE: u32 = 16;

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
    include_usage: bool,
    /// For each sequence, `true` if its token limit ended it.
    pub(super) cut: Vec<bool>,
    /// Start of each chunk, up to its choices.
    head: String,
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
            thoughts: if ask.thinks { messages::THOUGHTS } else { 0 },
            tool: ask.tool.as_deref().map(quoted),
            include_usage: ask.include_usage,
            cut: cut.to_vec(),
            head,
            events: 0,
        }
    }

    /// Writes the events before the first token.
    pub(super) fn begin(&mut self, out: &mut BytesMut) {
        match self.form {
            SimEndpoint::Chat => (0..self.cut.len()).for_each(|choice| {
                self.chunk(choice, out, |out| {
                    out.put_slice(b"\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
                    b"null"
                });
            }),
            SimEndpoint::Response => responses::begin(self, out),
            SimEndpoint::Messages => messages::begin(self, out),
            SimEndpoint::Completion | SimEndpoint::Embedding | SimEndpoint::Rerank => {}
        }
    }

    /// Writes one token of a choice.
    pub(super) fn token(&mut self, choice: usize, index: u32, out: &mut BytesMut) {
        let word = output_text::word(index).as_bytes();
        match self.form {
            SimEndpoint::Response => return responses::delta(self, word, out),
            SimEndpoint::Messages => return messages::delta(self, index, out),
            _ => {}
        }
        let (before, after): (&[u8], &[u8]) = match self.form {
            SimEndpoint::Chat => (b"\"delta\":{\"content\":\"", b"\"}"),
            _ => (b"\"text\":\"", b"\""),
        };
        self.chunk(choice, out, |out| {
            out.put_slice(before);
            out.put_slice(word);
            out.put_slice(after);
            b"null"
        });
    }

    /// Writes the finish reason of each choice, the usage, and the end mark.
    pub(super) fn end(&mut self, counts: &SequenceCounts, out: &mut BytesMut) {
        match self.form {
            SimEndpoint::Response => return responses::end(self, counts, out),
            SimEndpoint::Messages => return messages::end(self, counts, out),
            _ => {}
        }
        for choice in 0..self.cut.len() {
            self.chunk(choice, out, |out| {
                out.put_slice(if self.form == SimEndpoint::Chat {
                    b"\"delta\":{}"
                } else {
                    b"\"text\":\"\""
                });
                self.finish_reason(choice)
            });
        }
        if self.include_usage {
            put(out, format_args!("data: {},\"choices\":[],\"usage\":", self.head));
            self.usage(counts, out);
            out.put_slice(b"}\n\n");
        }
        out.put_slice(b"data: [DONE]\n\n");
    }

    /// Writes an error event, and the end mark if there is one.
    pub(super) fn error_event(&self, out: &mut BytesMut) {
        if self.form == SimEndpoint::Messages {
            return messages::error_event(out);
        }
        out.put_slice(
            b"data: {\"error\":{\"message\":\"a simulated fault\",\"type\":\"server_error\",\"param\":null,\"code\":500}}\n\n\
              data: [DONE]\n\n",
        );
    }

    /// Writes the whole answer in one piece.
    pub(super) fn whole(&self, counts: &SequenceCounts, out: &mut BytesMut) {
        match self.form {
            SimEndpoint::Response => return responses::whole(self, counts, "completed", out),
            SimEndpoint::Embedding => return self.embeddings(out),
            SimEndpoint::Messages => return messages::whole(self, counts, out),
            SimEndpoint::Rerank => return self.ranks(out),
            SimEndpoint::Chat | SimEndpoint::Completion => {}
        }
        put(out, format_args!("{},\"choices\":[", self.head));
        for (choice, count) in counts.iter().enumerate() {
            let comma = if choice == 0 { "" } else { "," };
            put(out, format_args!("{comma}{{\"index\":{choice},"));
            let (before, after): (&[u8], &[u8]) = match self.form {
                SimEndpoint::Chat => (b"\"message\":{\"role\":\"assistant\",\"content\":\"", b"\"}"),
                _ => (b"\"text\":\"", b"\""),
            };
            out.put_slice(before);
            output_text::put_text(*count, out);
            out.put_slice(after);
            out.put_slice(b",\"logprobs\":null,\"finish_reason\":");
            out.put_slice(self.finish_reason(choice));
            out.put_u8(b'}');
        }
        out.put_slice(b"],\"usage\":");
        self.usage(counts, out);
        out.put_u8(b'}');
    }

    /// Writes one event. `body` writes the choice's delta and returns its finish reason.
    fn chunk(&self, choice: usize, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut) -> &'static [u8]) {
        out.reserve(self.head.len() + 192);
        out.put_slice(b"data: ");
        out.put_slice(self.head.as_bytes());
        out.put_slice(b",\"choices\":[{\"index\":");
        put(out, format_args!("{choice}"));
        out.put_u8(b',');
        let reason = body(out);
        out.put_slice(b",\"logprobs\":null,\"finish_reason\":");
        out.put_slice(reason);
        out.put_slice(if self.include_usage { b"}],\"usage\":null}\n\n" } else { b"}]}\n\n" });
    }

    fn finish_reason(&self, choice: usize) -> &'static [u8] {
        if self.cut.get(choice) == Some(&true) { b"\"length\"" } else { b"\"stop\"" }
    }

    fn usage(&self, counts: &SequenceCounts, out: &mut BytesMut) {
        let prompt = self.prompt_tokens;
        let output: u64 = counts.iter().copied().map(u64::from).sum();
        put(
            out,
            format_args!(
                "{{\"prompt_tokens\":{prompt},\"completion_tokens\":{output},\"total_tokens\":{}",
                prompt + output
            ),
        );
        if let Some(cached) = self.cached {
            put(out, format_args!(",\"prompt_tokens_details\":{{\"cached_tokens\":{cached}}}"));
        }
        out.put_u8(b'}');
    }

    fn embeddings(&self, out: &mut BytesMut) {
        put(out, format_args!("{},\"data\":[", self.head));
        for index in 0..self.cut.len() {
            let comma = if index == 0 { "" } else { "," };
            put(out, format_args!("{comma}{{\"object\":\"embedding\",\"index\":{index},\"embedding\":["));
            for place in 0..EMBEDDING_SIZE {
                let comma = if place == 0 { "" } else { "," };
                put(out, format_args!("{comma}0.{}", 1 + place));
            }
            out.put_slice(b"]}");
        }
        let prompt = self.prompt_tokens;
        put(out, format_args!("],\"usage\":{{\"prompt_tokens\":{prompt},\"total_tokens\":{prompt}}}}}"));
    }

    /// Writes the documents in the order in which they came, each less relevant than the one before.
    fn ranks(&self, out: &mut BytesMut) {
        put(out, format_args!("{{\"id\":{},\"model\":{},\"results\":[", self.id, self.model));
        for index in 0..self.cut.len() {
            let comma = if index == 0 { "" } else { "," };
            let score = 1.0 / (index + 1) as f64;
            put(out, format_args!("{comma}{{\"index\":{index},\"relevance_score\":{score:.4}}}"));
        }
        put(out, format_args!("],\"usage\":{{\"total_tokens\":{}}}}}", self.prompt_tokens));
    }
}
