//! Writes answers from prepared pieces, without a JSON tree per token.

use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};

use super::ask::SimEndpoint;
use super::mailbox::SequenceCounts;
use super::plan::{AnswerPlan, put};
use super::{messages, output_text, responses};

/// Dimensions of an embedding.
const EMBEDDING_SIZE: u32 = 16;

impl AnswerPlan {
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

    pub(super) fn token(&mut self, choice: usize, index: u32, out: &mut BytesMut) {
        match self.form {
            SimEndpoint::Response => return responses::delta(self, index, out),
            SimEndpoint::Messages => return messages::delta(self, index, out),
            _ => {}
        }
        let (before, after): (&[u8], &[u8]) = match self.form {
            SimEndpoint::Chat => (b"\"delta\":{\"content\":\"", b"\"}"),
            _ => (b"\"text\":\"", b"\""),
        };
        self.chunk(choice, out, |out| {
            out.put_slice(before);
            out.put_slice(output_text::word(index).as_bytes());
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

    pub(super) fn whole(&self, counts: &SequenceCounts, out: &mut BytesMut) {
        match self.form {
            SimEndpoint::Response => return responses::whole(self, counts, out),
            SimEndpoint::Embedding => return self.embeddings(out),
            SimEndpoint::Messages => return messages::whole(self, counts, out),
            SimEndpoint::Rerank => return self.ranks(out),
            SimEndpoint::Chat | SimEndpoint::Completion => {}
        }
        put(out, format_args!("{},\"choices\":[", self.head));
        let (before, after): (&[u8], &[u8]) = match self.form {
            SimEndpoint::Chat => (b"\"message\":{\"role\":\"assistant\",\"content\":\"", b"\"}"),
            _ => (b"\"text\":\"", b"\""),
        };
        for (choice, count) in counts.iter().enumerate() {
            let comma = if choice == 0 { "" } else { "," };
            put(out, format_args!("{comma}{{\"index\":{choice},"));
            out.put_slice(before);
            out.put_slice(output_text::text(0..*count).as_bytes());
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
        let mut usage =
            json!({ "prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output });
        if let Some(cached) = self.cached {
            usage["prompt_tokens_details"] = json!({ "cached_tokens": cached });
        }
        put(out, format_args!("{usage}"));
    }

    fn embeddings(&self, out: &mut BytesMut) {
        let embedding: Vec<f64> = (1..=EMBEDDING_SIZE).map(|place| f64::from(place) / 100.0).collect();
        let one = |index| json!({ "object": "embedding", "index": index, "embedding": embedding });
        let data: Vec<Value> = (0..self.cut.len()).map(one).collect();
        let usage = json!({ "prompt_tokens": self.prompt_tokens, "total_tokens": self.prompt_tokens });
        put(out, format_args!("{},\"data\":{},\"usage\":{usage}}}", self.head, json!(data)));
    }

    /// Writes the documents in the order in which they came, each less relevant than the one before.
    fn ranks(&self, out: &mut BytesMut) {
        let one = |index| json!({ "index": index, "relevance_score": 1.0 / (index + 1) as f64 });
        let results: Vec<Value> = (0..self.cut.len()).map(one).collect();
        let usage = json!({ "total_tokens": self.prompt_tokens });
        let (id, model, results) = (&self.id, &self.model, json!(results));
        put(out, format_args!("{{\"id\":{id},\"model\":{model},\"results\":{results},\"usage\":{usage}}}"));
    }
}
