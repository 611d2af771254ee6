//! Events and object of the Responses API, as far as a text answer needs them.

use bytes::{BufMut, BytesMut};

use super::answer::{AnswerPlan, put};
use super::mailbox::SequenceCounts;
use super::output_text;

/// The only item of every answer.
const ITEM: &str = "\"item_id\":\"msg_0\",\"output_index\":0,\"content_index\":0";

pub(super) fn begin(answer: &mut AnswerPlan, out: &mut BytesMut) {
    for name in ["response.created", "response.in_progress"] {
        event(answer, name, out, |answer, out| {
            out.put_slice(b"\"response\":");
            whole(answer, &SequenceCounts::new(), "in_progress", out);
        });
    }
    event(answer, "response.output_item.added", out, |_, out| {
        out.put_slice(b"\"output_index\":0,\"item\":");
        item(None, out);
    });
    event(answer, "response.content_part.added", out, |_, out| {
        put(out, format_args!("{ITEM},\"part\":"));
        part(0, out);
    });
}

pub(super) fn delta(answer: &mut AnswerPlan, word: &[u8], out: &mut BytesMut) {
    event(answer, "response.output_text.delta", out, |_, out| {
        put(out, format_args!("{ITEM},\"delta\":\""));
        out.put_slice(word);
        out.put_slice(b"\",\"logprobs\":[]");
    });
}

pub(super) fn end(answer: &mut AnswerPlan, counts: &SequenceCounts, out: &mut BytesMut) {
    let tokens = counts.first().copied().unwrap_or_default();
    event(answer, "response.output_text.done", out, |_, out| {
        put(out, format_args!("{ITEM},\"text\":\""));
        output_text::put_text(tokens, out);
        out.put_slice(b"\",\"logprobs\":[]");
    });
    event(answer, "response.content_part.done", out, |_, out| {
        put(out, format_args!("{ITEM},\"part\":"));
        part(tokens, out);
    });
    event(answer, "response.output_item.done", out, |_, out| {
        out.put_slice(b"\"output_index\":0,\"item\":");
        item(Some(tokens), out);
    });
    event(answer, "response.completed", out, |answer, out| {
        out.put_slice(b"\"response\":");
        whole(answer, counts, "completed", out);
    });
}

/// Writes the response object. Empty counts: there is no output yet.
pub(super) fn whole(answer: &AnswerPlan, counts: &SequenceCounts, status: &str, out: &mut BytesMut) {
    let AnswerPlan { id, model, created, prompt_tokens: prompt, .. } = answer;
    let cached = answer.cached.unwrap_or(0);
    put(
        out,
        format_args!(
            "{{\"id\":{id},\"object\":\"response\",\"created_at\":{created},\"status\":\"{status}\",\
             \"model\":{model},\"error\":null,\"incomplete_details\":null,\"instructions\":null,\
             \"metadata\":{{}},\"parallel_tool_calls\":true,\"tool_choice\":\"auto\",\"tools\":[],\"output\":["
        ),
    );
    let Some(&tokens) = counts.first() else {
        return out.put_slice(b"],\"usage\":null}");
    };
    item(Some(tokens), out);
    put(
        out,
        format_args!(
            "],\"usage\":{{\"input_tokens\":{prompt},\"input_tokens_details\":{{\"cached_tokens\":{cached}}},\
             \"output_tokens\":{tokens},\"output_tokens_details\":{{\"reasoning_tokens\":0}},\
             \"total_tokens\":{}}}}}",
            prompt + u64::from(tokens)
        ),
    );
}

fn event(
    answer: &mut AnswerPlan,
    name: &str,
    out: &mut BytesMut,
    body: impl FnOnce(&AnswerPlan, &mut BytesMut),
) {
    let number = answer.events;
    answer.events += 1;
    put(out, format_args!("event: {name}\ndata: {{\"type\":\"{name}\",\"sequence_number\":{number},"));
    body(answer, out);
    out.put_slice(b"}\n\n");
}

/// Writes the message: complete with `tokens` tokens, or still empty for `None`.
fn item(tokens: Option<u32>, out: &mut BytesMut) {
    let status = if tokens.is_some() { "completed" } else { "in_progress" };
    put(
        out,
        format_args!(
            "{{\"id\":\"msg_0\",\"type\":\"message\",\"role\":\"assistant\",\"status\":\"{status}\",\"content\":["
        ),
    );
    if let Some(tokens) = tokens {
        part(tokens, out);
    }
    out.put_slice(b"]}");
}

fn part(tokens: u32, out: &mut BytesMut) {
    out.put_slice(b"{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"");
    output_text::put_text(tokens, out);
    out.put_slice(b"\"}");
}
