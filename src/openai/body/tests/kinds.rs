//! The members that count as the prompt, kind by kind.

use super::*;

fn length(texts: &[&str]) -> u64 {
    texts.concat().len() as u64
}

#[test]
fn a_message_costs_its_system_prompt_its_blocks_and_its_tools() {
    let tools = json!([{"name": "now", "input_schema": {"type": "object"}}]);
    let body = json!({
        "model": "claude", "max_tokens": 100, "stream": true, "temperature": 1, "thinking": {"type": "enabled"},
        "metadata": {"user_id": "not counted"}, "stop_sequences": ["nor this"], "tool_choice": {"type": "auto"},
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "What time is it?"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "A clock.", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3h"},
                {"type": "tool_use", "id": "toolu_01A09q90qw90lq917835lq9", "name": "now", "input": {"zone": "UTC"}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_01A09q90qw90lq917835lq9", "content": [
                    {"type": "text", "text": "noon"}]}]},
        ],
        "tools": tools,
    });
    let read = facts(Kind::Messages, &body);
    let text = ["Be brief.", "What time is it?", "A clock.", "now", r#"{"zone":"UTC"}"#, "noon"];
    assert_eq!(read.prompt_bytes, length(&text) + tools.to_string().len() as u64);
    assert_eq!((read.model.as_deref(), read.max_tokens, read.sequences), (Some("claude"), Some(100), 1));
    assert!(read.stream && !read.store && !read.lacks_usage(), "its streams report usage unasked");
    assert_eq!(facts(Kind::Messages, &json!({"system": "four"})).prompt_bytes, 4);

    for (wrong, param) in [
        (r#"{"messages":"Hi"}"#, "messages"),
        (r#"{"system":7}"#, "system"),
        (r#"{"max_tokens":"many"}"#, "max_tokens"),
        (r#"{"system":"a","system":"b"}"#, "system"),
    ] {
        let fault = parse(&Shape::of_kind(Kind::Messages), wrong.as_bytes()).unwrap_err();
        assert_eq!(fault.param().map(AsRef::as_ref), Some(param), "{wrong}");
    }
}

#[test]
fn counting_costs_nothing_and_finds_the_model() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "four"}], "system": "five5",
                      "prompt": "x", "tokens": [1, 2]});
    let read = facts(Kind::Count, &body);
    assert_eq!((read.model.as_deref(), read.prompt_bytes, read.prompt_tokens), (Some("m"), 0, 0));
}

#[test]
fn each_document_is_a_sequence() {
    for (body, bytes, sequences) in [
        (json!({"query": "four", "documents": ["one", {"text": "two"}], "top_n": 1}), 10, 2),
        (json!({"text_1": "four", "text_2": ["a", "b", "c"]}), 7, 3),
        (json!({"queries": ["four"], "documents": "one"}), 7, 1),
        (json!({"query": "four", "texts": ["one", "two"]}), 10, 2),
        (json!({"input": ["four", "one"]}), 7, 2),
        (json!({"messages": [{"role": "user", "content": "four"}]}), 4, 1),
    ] {
        let read = facts(Kind::Rerank, &body);
        assert_eq!((read.prompt_bytes, read.sequences), (bytes, sequences), "{body}");
    }
}

#[test]
fn text_that_only_some_engines_read_costs_as_much() {
    for (kind, body) in [
        (Kind::Embedding, json!({"content": "four"})),
        (Kind::Embedding, json!({"content": ["fo", "ur"]})),
        (Kind::Response, json!({"previous_input_messages": [{"role": "user", "content": "four"}]})),
        (Kind::Response, json!({"chat_template": "four"})),
    ] {
        assert_eq!(facts(kind, &body).prompt_bytes, 4, "{body}");
    }
    assert!(facts(Kind::Response, &json!({"chat_template_kwargs": {"a": "four"}})).prompt_bytes > 4);
}

#[test]
fn pictures_and_speech_cost_their_text() {
    assert_eq!(facts(Kind::Images, &json!({"prompt": "a cat", "n": 4, "size": "1024x1024"})).prompt_bytes, 5);
    let speech = facts(Kind::Audio, &json!({"input": "Hello", "voice": "alloy", "instructions": "slowly"}));
    assert_eq!((speech.prompt_bytes, speech.sequences), (11, 1));
}
