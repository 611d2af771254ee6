use super::*;

/// Content deltas, error, done.
fn read(data: &str) -> (u64, bool, bool) {
    let event = StreamEvent::read(data.as_bytes()).unwrap();
    (event.deltas, event.error.is_some(), event.done)
}

#[test]
fn content_is_what_a_reader_would_see() {
    for (delta, deltas) in [
        (r#"{"role":"assistant","content":""}"#, 0),
        (r#"{"role":"assistant","content":null,"tool_calls":[]}"#, 0),
        ("{}", 0),
        (r#"{"content":"Hi"}"#, 1),
        (r#"{"content":"","reasoning_content":"hm"}"#, 1),
        (r#"{"reasoning":"hm","content":"Hi"}"#, 1),
        (r#"{"refusal":"no"}"#, 1),
        (r#"{"tool_calls":[{"index":0,"function":{"name":"now","arguments":""}}]}"#, 1),
        // Other members that a worker adds.
        (r#"{"reasoning_details":[{"type":"reasoning.text","text":"so"}]}"#, 1),
        (r#"{"audio":{"id":"a"}}"#, 1),
        (r#"{"future":7}"#, 1),
        (r#"{"future":{ },"other":[ ],"third":"","fourth":null}"#, 0),
        (r#"{"role":"assistant","type":"delta","index":3}"#, 0),
        (r#"{"content":" "}"#, 1),
    ] {
        let chunk = format!(
            r#"{{"object":"chat.completion.chunk","choices":[{{"index":0,"delta":{delta}}}],"usage":null}}"#
        );
        assert_eq!(read(&chunk), (deltas, false, false), "{delta}");
    }
    assert_eq!(
        read(r#"{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}},{"delta":{}}]}"#).0,
        2
    );
    assert_eq!(read(r#"{"choices":[{"text":" word","index":0}]}"#).0, 1);
    assert_eq!(read(r#"{"choices":[{"text":"","finish_reason":"stop"}]}"#).0, 0);
    assert_eq!(read(r#"{"choices":[],"prompt_filter_results":[{}]}"#).0, 0);
}

#[test]
fn a_response_has_content_in_its_deltas_only() {
    assert_eq!(read(r#"{"type":"response.created","response":{"usage":null}}"#), (0, false, false));
    assert_eq!(read(r#"{"delta":"Hi","type":"response.output_text.delta"}"#), (1, false, false));
    assert_eq!(read(r#"{"delta":"","type":"response.output_text.delta"}"#), (0, false, false));
    assert_eq!(read(r#"{"type":"response.output_text.done","text":"Hi"}"#), (0, false, false));
    assert_eq!(read(r#"{"type":"response.failed","response":{"error":{}}}"#), (0, true, true));
    assert_eq!(read(r#"{"type":"response.in_progress","response":{"error":null}}"#), (0, false, false));
    assert_eq!(
        read(r#"{"type":"response.image_generation_call.partial_image","partial_image_b64":"A"}"#),
        (1, false, false)
    );
    let completed = br#"{"type":"response.completed","response":{"output":[{"usage":1}],"usage":{"input_tokens":3,"output_tokens":5,"total_tokens":8}}}"#;
    let event = StreamEvent::read(completed).unwrap();
    assert_eq!((event.usage, event.done), (Some(Usage { prompt: 3, output: 5, ..Usage::default() }), true));
}

#[test]
fn a_message_has_content_in_its_blocks() {
    for (event, told) in [
        (
            r#"{"type":"message_start","message":{"role":"assistant","content":[],"error":null}}"#,
            (0, false, false),
        ),
        (r#"{"type":"ping"}"#, (0, false, false)),
        (
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
            (0, false, false),
        ),
        (
            r#"{"type":"content_block_start","content_block":{"type":"thinking","thinking":""}}"#,
            (0, false, false),
        ),
        (
            r#"{"type":"content_block_start","content_block":{"type":"tool_use","name":"now"}}"#,
            (1, false, false),
        ),
        (r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":""}}"#, (0, false, false)),
        (
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#,
            (1, false, false),
        ),
        (
            r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"so"}}"#,
            (1, false, false),
        ),
        (r#"{"type":"content_block_stop","index":0}"#, (0, false, false)),
        (r#"{"type":"message_stop"}"#, (0, false, true)),
        (r#"{"type":"error","error":{"type":"overloaded_error"}}"#, (0, true, false)),
    ] {
        assert_eq!(read(event), told, "{event}");
    }
    let end = br#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":57}}"#;
    let end = StreamEvent::read(end).unwrap();
    assert_eq!(
        (end.deltas, end.finished, end.usage),
        (0, 1, Some(Usage { prompt: 0, output: 57, ..Usage::default() }))
    );
    let start = br#"{"type":"message_start","message":{"usage":{"input_tokens":9,"cache_read_input_tokens":30,"cache_creation_input_tokens":4,"output_tokens":1}}}"#;
    assert_eq!(
        StreamEvent::read(start).unwrap().usage,
        Some(Usage { prompt: 43, output: 1, cached: Some(30) })
    );
}

#[test]
fn an_error_is_the_clients_when_it_says_so() {
    for (event, blame) in [
        (r#"{"error":{"message":"too long","code":400}}"#, Some(Blame::Client)),
        (r#"{"error":{"message":"too long","type":"invalid_request_error"}}"#, Some(Blame::Client)),
        (r#"{"error":{"code":"404"}}"#, Some(Blame::Client)),
        (r#"{"object":"error","message":"too long","code":400}"#, Some(Blame::Client)),
        (r#"{"error":{"code":429}}"#, Some(Blame::Worker)),
        (r#"{"error":{"type":"invalid_request_error","code":500}}"#, Some(Blame::Worker)),
        (r#"{"error":"out of memory"}"#, Some(Blame::Worker)),
        (r#"{"error":{}}"#, Some(Blame::Worker)),
        (r#"{"error":{},"choices":[]}"#, None),
        (r#"{"error":null,"choices":[]}"#, None),
        (r#"{"error":"","choices":[]}"#, None),
        (r#"{"error":false,"choices":[],"code":400}"#, None),
    ] {
        assert_eq!(StreamEvent::read(event.as_bytes()).unwrap().error, blame, "{event}");
    }
}

#[test]
fn usage_errors_and_the_end_are_no_content() {
    let usage =
        StreamEvent::read(br#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#).unwrap();
    assert_eq!((usage.deltas, usage.usage), (0, Some(Usage { prompt: 7, output: 2, ..Usage::default() })));
    for elsewhere in [
        r#"{"choices":[{"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":7,"completion_tokens":2}}]}"#,
        r#"{"choices":[{"delta":{}}],"x_groq":{"id":"a","usage":{"prompt_tokens":7,"completion_tokens":2}}}"#,
    ] {
        let event = StreamEvent::read(elsewhere.as_bytes()).unwrap();
        assert_eq!((event.deltas, event.usage), (0, usage.usage), "{elsewhere}");
    }
    assert_eq!(read(r#"{"error":{"message":"out of memory"}}"#), (0, true, false));
    assert_eq!(read(r#"{"object":"error","message":"out of memory"}"#), (0, true, false));
    assert_eq!(read(r#"{"type":"error","code":"x"}"#), (0, true, false));
    assert_eq!(read(" [DONE]"), (0, false, true));
    assert_eq!(read(" "), (0, false, false));
    assert_eq!(read("{}"), (0, false, false));
}

#[test]
fn data_of_other_streams_is_content() {
    for data in ["Hello", r#"{"token":"Hi"}"#, r#"{"type":"progress","delta":{}}"#, "{nonsense}", "[1]", "tr"]
    {
        assert_eq!(read(data), (1, false, false), "{data}");
    }
    assert_eq!(StreamEvent::read(br#"{"choices":["#), None);
}
