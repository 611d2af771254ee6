//! Events and object of the Responses API, as far as a text answer needs them.

use bytes::BytesMut;
use serde_json::{Value, json};

use super::mailbox::SequenceCounts;
use super::output_text::{text, word};
use super::plan::{AnswerPlan, put};

/// The only item of every answer.
const ITEM: &str = "\"item_id\":\"msg_0\",\"output_index\":0,\"content_index\":0";

pub(super) fn begin(answer: &mut AnswerPlan, out: &mut BytesMut) {
    let response = object(answer, &SequenceCounts::new(), "in_progress");
    for name in ["response.created", "response.in_progress"] {
        event(answer, name, out, format_args!("\"response\":{response}"));
    }
    let added = format_args!("\"output_index\":0,\"item\":{}", item(None));
    event(answer, "response.output_item.added", out, added);
    event(answer, "response.content_part.added", out, format_args!("{ITEM},\"part\":{}", part(0)));
}

pub(super) fn delta(answer: &mut AnswerPlan, index: u32, out: &mut BytesMut) {
    let members = format_args!("{ITEM},\"delta\":\"{}\",\"logprobs\":[]", word(index));
    event(answer, "response.output_text.delta", out, members);
}

pub(super) fn end(answer: &mut AnswerPlan, counts: &SequenceCounts, out: &mut BytesMut) {
    let tokens = counts.first().copied().unwrap_or_default();
    let done = format_args!("{ITEM},\"text\":\"{}\",\"logprobs\":[]", text(0..tokens));
    event(answer, "response.output_text.done", out, done);
    event(answer, "response.content_part.done", out, format_args!("{ITEM},\"part\":{}", part(tokens)));
    let done = format_args!("\"output_index\":0,\"item\":{}", item(Some(tokens)));
    event(answer, "response.output_item.done", out, done);
    let response = object(answer, counts, "completed");
    event(answer, "response.completed", out, format_args!("\"response\":{response}"));
}

pub(super) fn whole(answer: &AnswerPlan, counts: &SequenceCounts, out: &mut BytesMut) {
    put(out, format_args!("{}", object(answer, counts, "completed")));
}

/// Returns the response object. Empty counts: there is no output yet.
fn object(answer: &AnswerPlan, counts: &SequenceCounts, status: &str) -> String {
    let AnswerPlan { id, model, created, prompt_tokens: prompt, .. } = answer;
    let tokens = counts.first().copied();
    let output: Vec<Value> = tokens.map(|tokens| item(Some(tokens))).into_iter().collect();
    let usage = tokens.map(|tokens| {
        json!({
            "input_tokens": prompt,
            "input_tokens_details": { "cached_tokens": answer.cached.unwrap_or(0) },
            "output_tokens": tokens,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": prompt + u64::from(tokens),
        })
    });
    format!(
        "{{\"id\":{id},\"object\":\"response\",\"created_at\":{created},\"status\":\"{status}\",\"model\":{model},\
         \"error\":null,\"incomplete_details\":null,\"instructions\":null,\"metadata\":{{}},\
         \"parallel_tool_calls\":true,\"tool_choice\":\"auto\",\"tools\":[],\"output\":{},\"usage\":{}}}",
        json!(output),
        json!(usage)
    )
}

fn event(answer: &mut AnswerPlan, name: &str, out: &mut BytesMut, members: std::fmt::Arguments<'_>) {
    let number = answer.events;
    answer.events += 1;
    put(
        out,
        format_args!(
            "event: {name}\ndata: {{\"type\":\"{name}\",\"sequence_number\":{number},{members}}}\n\n"
        ),
    );
}

/// Returns the message: complete with `tokens` tokens, or still empty for `None`.
fn item(tokens: Option<u32>) -> Value {
    let status = if tokens.is_some() { "completed" } else { "in_progress" };
    let content: Vec<Value> = tokens.map(part).into_iter().collect();
    json!({ "id": "msg_0", "type": "message", "role": "assistant", "status": status, "content": content })
}

fn part(tokens: u32) -> Value {
    json!({ "type": "output_text", "annotations": [], "logprobs": [], "text": text(0..tokens) })
}
