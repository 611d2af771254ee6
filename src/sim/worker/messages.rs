//! Events and object of Anthropic's Messages API: text, thoughts before it, or one call of a tool.

use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};

use super::mailbox::SequenceCounts;
use super::output_text::{text, word};
use super::plan::{AnswerPlan, put};

/// What a real worker signs its thoughts with is opaque too.
const SIGNATURE: &str = "c2ltdWxhdGVk";
/// Start and end of a tool's input, as they stand inside a JSON string.
const INPUT_START: &str = "{\\\"words\\\":\\\"";
const INPUT_END: &str = "\\\"}";

/// A part of the answer, with the events that begin it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MessageBlock {
    Thinking,
    Text,
    Tool,
}

impl AnswerPlan {
    /// Returns the block that holds the token `index`, and the block's own index.
    fn block(&self, index: u32) -> (usize, MessageBlock) {
        let after = usize::from(self.thoughts > 0);
        match &self.tool {
            _ if index < self.thoughts => (0, MessageBlock::Thinking),
            Some(_) => (after, MessageBlock::Tool),
            None => (after, MessageBlock::Text),
        }
    }
}

pub(super) fn begin(answer: &AnswerPlan, out: &mut BytesMut) {
    let AnswerPlan { id, model, .. } = answer;
    event("message_start", out, |out| {
        put(
            out,
            format_args!(
                ",\"message\":{{\"id\":{id},\"type\":\"message\",\"role\":\"assistant\",\"model\":{model},\
                 \"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":"
            ),
        );
        usage(answer, 1, out);
        out.put_u8(b'}');
    });
    event("ping", out, |_| {});
}

pub(super) fn delta(answer: &AnswerPlan, index: u32, out: &mut BytesMut) {
    let (at, block) = answer.block(index);
    let first = index == 0 || index == answer.thoughts;
    if first {
        if index > 0 {
            stop_block(0, MessageBlock::Thinking, out);
        }
        event("content_block_start", out, |out| {
            put(out, format_args!(",\"index\":{at},\"content_block\":"));
            match (block, &answer.tool) {
                (MessageBlock::Thinking, _) => {
                    out.put_slice(b"{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}");
                }
                (MessageBlock::Tool, Some(name)) => put(
                    out,
                    format_args!(
                        "{{\"type\":\"tool_use\",\"id\":\"toolu_0\",\"name\":{name},\"input\":{{}}}}"
                    ),
                ),
                _ => out.put_slice(b"{\"type\":\"text\",\"text\":\"\"}"),
            }
        });
    }
    let word = word(index);
    let (kind, member) = match block {
        MessageBlock::Thinking => ("thinking_delta", "thinking"),
        MessageBlock::Text => ("text_delta", "text"),
        MessageBlock::Tool => ("input_json_delta", "partial_json"),
    };
    let before = if block == MessageBlock::Tool && first { INPUT_START } else { "" };
    block_delta(at, out, |out| {
        put(out, format_args!("\"type\":\"{kind}\",\"{member}\":\"{before}{word}\""));
    });
}

pub(super) fn end(answer: &AnswerPlan, counts: &SequenceCounts, out: &mut BytesMut) {
    let tokens = counts.first().copied().unwrap_or_default();
    if let Some(last) = tokens.checked_sub(1) {
        let (at, block) = answer.block(last);
        stop_block(at, block, out);
    }
    event("message_delta", out, |out| {
        put(
            out,
            format_args!(
                ",\"delta\":{{\"stop_reason\":\"{}\",\"stop_sequence\":null}}",
                stop(answer, tokens)
            ),
        );
        out.put_slice(b",\"usage\":");
        usage(answer, tokens, out);
    });
    event("message_stop", out, |_| {});
}

pub(super) fn error_event(out: &mut BytesMut) {
    event("error", out, |out| {
        out.put_slice(b",\"error\":{\"type\":\"api_error\",\"message\":\"a simulated fault\"}");
    });
}

/// Writes the whole message.
pub(super) fn whole(answer: &AnswerPlan, counts: &SequenceCounts, out: &mut BytesMut) {
    let AnswerPlan { id, model, thoughts, .. } = answer;
    let tokens = counts.first().copied().unwrap_or_default();
    let mut content = Vec::new();
    if *thoughts > 0 {
        let thinking = text(0..tokens.min(*thoughts));
        content.push(json!({ "type": "thinking", "thinking": thinking, "signature": SIGNATURE }));
    }
    if tokens > *thoughts {
        let words = text(*thoughts..tokens);
        content.push(
            match answer.tool.as_deref().and_then(|name| serde_json::from_str::<Value>(name).ok()) {
                Some(name) => {
                    json!({ "type": "tool_use", "id": "toolu_0", "name": name, "input": { "words": words } })
                }
                None => json!({ "type": "text", "text": words }),
            },
        );
    }
    let (content, stop) = (json!(content), stop(answer, tokens));
    put(
        out,
        format_args!(
            "{{\"id\":{id},\"type\":\"message\",\"role\":\"assistant\",\"model\":{model},\"content\":{content},\
             \"stop_reason\":\"{stop}\",\"stop_sequence\":null,\"usage\":"
        ),
    );
    usage(answer, tokens, out);
    out.put_u8(b'}');
}

fn stop(answer: &AnswerPlan, tokens: u32) -> &'static str {
    match &answer.tool {
        Some(_) if tokens > answer.thoughts => "tool_use",
        _ if answer.cut.first() == Some(&true) => "max_tokens",
        _ => "end_turn",
    }
}

fn stop_block(at: usize, block: MessageBlock, out: &mut BytesMut) {
    match block {
        MessageBlock::Thinking => block_delta(at, out, |out| {
            put(out, format_args!("\"type\":\"signature_delta\",\"signature\":\"{SIGNATURE}\""));
        }),
        MessageBlock::Tool => block_delta(at, out, |out| {
            put(out, format_args!("\"type\":\"input_json_delta\",\"partial_json\":\"{INPUT_END}\""));
        }),
        MessageBlock::Text => {}
    }
    event("content_block_stop", out, |out| put(out, format_args!(",\"index\":{at}")));
}

fn block_delta(at: usize, out: &mut BytesMut, delta: impl FnOnce(&mut BytesMut)) {
    event("content_block_delta", out, |out| {
        put(out, format_args!(",\"index\":{at},\"delta\":{{"));
        delta(out);
        out.put_u8(b'}');
    });
}

fn usage(answer: &AnswerPlan, output: u32, out: &mut BytesMut) {
    let cached = answer.cached.unwrap_or(answer.cached_tokens);
    let input = answer.prompt_tokens.saturating_sub(cached);
    put(
        out,
        format_args!(
            "{{\"input_tokens\":{input},\"cache_creation_input_tokens\":0,\
             \"cache_read_input_tokens\":{cached},\"output_tokens\":{output}}}"
        ),
    );
}

fn event(name: &str, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    put(out, format_args!("event: {name}\ndata: {{\"type\":\"{name}\""));
    body(out);
    out.put_slice(b"}\n\n");
}
