mod kinds;
mod members;

use bytes::Bytes;
use proptest::prelude::*;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::*;
use crate::refusal::{Reason, Refusal};

fn facts(kind: Kind, body: &Value) -> Facts {
    parse(&Shape::of_kind(kind), body.to_string().as_bytes()).unwrap()
}

fn fault(body: &str) -> BodyFieldError {
    parse(&Shape::of_kind(Kind::Chat), body.as_bytes()).unwrap_err()
}

/// Returns `true` if another parser reads it as JSON: grammar and UTF-8, whatever the values.
fn is_json(body: &[u8]) -> bool {
    std::str::from_utf8(body).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

fn pointer(text: &str) -> Option<Pointer> {
    Some(Pointer::parse(text).unwrap())
}

/// Returns the body that a worker gets, with usage requested.
fn with_usage(body: &str) -> Option<Value> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let facts = parse(&Shape::of_kind(Kind::Chat), &body).unwrap();
    let pieces = spliced(&body, &facts, true, ModelText::Unchanged).pieces;
    assert_eq!(facts.lacks_usage(), pieces.len() == 3);
    facts.lacks_usage().then(|| serde_json::from_slice(&pieces.concat()).unwrap())
}

#[test]
fn the_name_of_the_model_is_replaced_and_nothing_else() {
    let models = |kind, body: &str, usage| {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let facts = parse(&Shape::of_kind(kind), &body).unwrap();
        [ModelText::Apart, ModelText::Named("a \"b\"")].map(|model| {
            let SplicedBody { mut pieces, model } = spliced(&body, &facts, usage, model);
            let text = String::from_utf8(pieces.concat()).unwrap();
            if let Some(piece) = model.and_then(|index| pieces.get_mut(index)) {
                *piece = Bytes::from_static(b"7");
            }
            (text, String::from_utf8(pieces.concat()).unwrap())
        })
    };
    let body = r#"{ "x":{"model":"in"}, "model" : "qw\u0065n" ,"messages":[]}"#;
    let [apart, named] = models(Kind::Chat, body, false);
    assert_eq!(apart.0, body);
    assert_eq!(named.0, r#"{ "x":{"model":"in"}, "model" : "a \"b\"" ,"messages":[]}"#);
    for again in [apart.1, named.1] {
        assert_eq!(again, r#"{ "x":{"model":"in"}, "model" : 7 ,"messages":[]}"#);
    }
    for body in [r#"{"model":"m","stream":true}"#, r#"{"stream_options":{},"stream":true,"model":"m"}"#] {
        let [_, named] = models(Kind::Chat, body, true);
        let sent: Value = serde_json::from_str(&named.0).unwrap();
        assert_eq!(
            (&sent["model"], &sent["stream_options"]["include_usage"]),
            (&json!("a \"b\""), &json!(true))
        );
        assert_eq!(serde_json::from_str::<Value>(&named.1).unwrap()["model"], 7);
    }
    for body in ["{}", r#"{"model":null}"#, r#"{"model":""}"#] {
        let texts = models(Kind::Response, body, false);
        assert!(texts.iter().all(|(text, again)| (&**text, &**again) == (body, body)), "{texts:?}");
    }
}

#[test]
fn an_earlier_response_is_named_by_responses_only() {
    let body = json!({"model": "m", "input": "Hi", "previous_response_id": "resp_1"});
    assert_eq!(facts(Kind::Response, &body).previous.as_deref(), Some("resp_1"));
    assert_eq!(facts(Kind::Chat, &json!({"previous_response_id": 7})).previous, None);
    for none in [json!(null), json!("")] {
        assert_eq!(facts(Kind::Response, &json!({"previous_response_id": none})).previous, None);
    }
}

#[test]
fn a_chat_body_is_read_whole() {
    let body = json!({
        "model": "qwen3-14b", "stream": true, "n": 2, "max_tokens": 100, "max_completion_tokens": 300,
        "messages": [{"role": "system", "content": "Be brief."},
                     {"role": "user", "content": [{"type": "text", "text": "zwölf\n"}]}],
        "tools": [{"type": "function", "function": {"name": "now"}}],
        "temperature": 0.7, "stream_options": {"include_usage": true},
    });
    let read = facts(Kind::Chat, &body);
    let text = "Be brief.zwölf\n".len() + body["tools"].to_string().len();
    assert_eq!(
        (read.model.as_deref(), read.prompt_bytes, read.prompt_tokens),
        (Some("qwen3-14b"), text as u64, 0)
    );
    assert_eq!((read.prompts, read.sequences, read.max_tokens), (1, 2, Some(300)));
    assert_eq!((read.stream, read.include_usage, read.lacks_usage(), read.store), (true, true, false, false));
}

#[test]
fn sequences_are_prompts_times_the_greater_of_n_and_best_of() {
    let completion = json!({"prompt": ["a", "bc", [1, 2]], "n": 2, "best_of": 5, "max_tokens": 7});
    let read = facts(Kind::Completion, &completion);
    assert_eq!((read.prompts, read.sequences, read.prompt_bytes, read.prompt_tokens), (3, 15, 3, 2));
    let embedding = facts(Kind::Embedding, &json!({"input": ["a", "b"], "n": 9}));
    assert_eq!((embedding.prompts, embedding.sequences), (2, 2));
    assert_eq!(facts(Kind::Chat, &json!({"n": null})).sequences, 1);
}

#[test]
fn a_response_counts_input_instructions_and_tools_and_is_stored_unless_it_says_no() {
    let body = json!({"input": [{"role": "user", "content": [{"type": "input_text", "text": "four"}]}],
                      "instructions": "five5", "max_output_tokens": 9, "tools": null, "stream": true});
    let read = facts(Kind::Response, &body);
    assert_eq!(
        (read.prompt_bytes, read.max_tokens, read.store, read.lacks_usage()),
        (9, Some(9), true, false)
    );
    assert!(!facts(Kind::Response, &json!({"store": false})).store);
}

#[test]
fn a_routes_own_body_is_read_by_its_pointers() {
    let shape =
        Shape::route(Kind::Chat, pointer("/chat/turns"), pointer("/limit")).with_session(pointer("/chat/id"));
    let body = json!({"chat": {"id": 77, "turns": [{"role": "user", "content": "four"}]}, "limit": 12,
                      "messages": ["not counted"], "max_tokens": 99, "n": "many", "stream": true});
    let read = parse(&shape, body.to_string().as_bytes()).unwrap();
    assert_eq!((read.prompt_bytes, read.max_tokens, read.session.as_deref()), (4, Some(12), Some("77")));
    assert_eq!((read.sequences, read.stream, read.lacks_usage()), (1, true, false));

    let wrong = parse(&shape, br#"{"limit":"much"}"#).unwrap_err();
    assert_eq!(wrong, BodyFieldError::WrongType { param: "/limit".into(), expected: "a whole number" });
    let twice = parse(&shape, br#"{"limit":1,"limit":2}"#).unwrap_err();
    assert_eq!(twice, BodyFieldError::Duplicate { param: "/limit".into() });
}

#[test]
fn a_session_stands_where_the_pointer_says_in_an_openai_body_too() {
    let shape = Shape::of_kind(Kind::Chat).with_session(pointer("/metadata/session"));
    let read =
        parse(&shape, br#"{"metadata":{"session":"s\u00e9"},"messages":[{"content":"abc"}]}"#).unwrap();
    assert_eq!((read.session.as_deref(), read.prompt_bytes), (Some("sé"), 3));
    assert_eq!(parse(&shape, br#"{"metadata":{"session":true}}"#).unwrap().session, None);
    let long = format!(r#"{{"metadata":{{"session":"{}"}}}}"#, "x".repeat(1025));
    assert!(matches!(parse(&shape, long.as_bytes()), Err(BodyFieldError::TooLong { .. })));
}

#[test]
fn usage_is_asked_for_wherever_it_is_not_yet() {
    let asked = |body: &str| with_usage(body).map(|body| body["stream_options"].clone());
    let yes = json!({"include_usage": true});
    assert_eq!(asked(r#" { "stream" : true }"#), Some(yes.clone()));
    assert_eq!(asked(r#"{"stream":true,"stream_options":null,"n":1}"#), Some(yes.clone()));
    assert_eq!(asked(r#"{"stream_options": { },"stream":true}"#), Some(yes.clone()));
    assert_eq!(asked(r#"{"stream":true,"stream_options":{"include_usage":false}}"#), Some(yes.clone()));
    assert_eq!(asked(r#"{"stream":true,"stream_options":{"include_usage" : null}}"#), Some(yes));
    assert_eq!(
        asked(r#"{"stream":true,"stream_options":{"x":{"include_usage":true}}}"#),
        Some(json!({"include_usage": true, "x": {"include_usage": true}}))
    );
    assert_eq!(asked(r#"{"stream":true,"stream_options":{"include\u005fusage":true}}"#), None);
    assert_eq!(asked(r#"{"stream":false}"#), None);
}

#[test]
fn what_decides_may_stand_there_only_once() {
    for name in [
        "model",
        "max_tokens",
        "n",
        "stream",
        "best_of",
        "max_completion_tokens",
        "max_output_tokens",
        "stream_options",
        "messages",
        "store",
    ] {
        let twice = fault(&format!(r#"{{"{name}":null,"x":1,"{name}":null}}"#));
        assert_eq!(twice.param().map(AsRef::as_ref), Some(name));
        assert!(matches!(twice, BodyFieldError::Duplicate { .. }), "{twice}");
    }
    assert!(matches!(fault(r#"{"n":1,"\u006e":1}"#), BodyFieldError::Duplicate { .. }));
    assert!(parse(&Shape::of_kind(Kind::Chat), br#"{"seed":1,"seed":2}"#).is_ok());
}

#[test]
fn wrong_types_and_bounds_name_the_member() {
    for (body, message) in [
        (r#"{"n":0}"#, "'n' must be from 1 to 128."),
        (r#"{"n":-1}"#, "'n' must be from 1 to 128."),
        (r#"{"n":1e1}"#, "'n' must be a whole number."),
        (r#"{"best_of":1000000}"#, "'best_of' must be from 1 to 128."),
        (r#"{"max_tokens":-5}"#, "'max_tokens' must be from 0 to 4294967295."),
        (r#"{"max_tokens":99999999999999999999}"#, "'max_tokens' must be from 0 to 4294967295."),
        (r#"{"max_completion_tokens":"9"}"#, "'max_completion_tokens' must be a whole number."),
        (r#"{"stream":"yes"}"#, "'stream' must be a boolean."),
        (r#"{"model":["a"]}"#, "'model' must be a string."),
        (r#"{"model":"\ud800"}"#, "'model' must be a string of Unicode text."),
        (r#"{"messages":"hi"}"#, "'messages' must be an array."),
        (r#"{"stream_options":[]}"#, "'stream_options' must be an object."),
        (r#"{"stream_options":{"include_usage":1}}"#, "'stream_options.include_usage' must be a boolean."),
    ] {
        assert_eq!(fault(body).to_string(), message, "{body}");
    }
    let many = format!(r#"{{"prompt":[{}""]}}"#, r#""","#.repeat(65_536));
    let fault = parse(&Shape::of_kind(Kind::Completion), many.as_bytes()).unwrap_err();
    assert_eq!(fault.to_string(), "'prompt' must have at most 65536 prompts.");
}

#[test]
fn a_broken_body_is_refused_without_quoting_it() {
    for (body, message) in [
        (
            &b"{\"messages\":[{\"content\":\"secret\"}"[..],
            "The request body is not valid JSON: it ends too early.",
        ),
        (b"", "The request body is not valid JSON: it ends too early."),
        (b"{\"a\":secret}", "The request body is not valid JSON at byte 5."),
        (b"{} {}", "The request body is not valid JSON at byte 3."),
        (b"[\"secret\"]", "The request body must be a JSON object."),
        (b"{\"a\":\"\xff\"}", "The request body is not valid UTF-8 at byte 6."),
        (b" \xef\xbb\xbf{}", "The request body must be a JSON object; found a byte order mark at byte 1."),
        (
            b"\xff\xfe{\0}\0",
            "The request body must be UTF-8; its byte order mark is that of UTF-16 or UTF-32.",
        ),
    ] {
        let refusal = Refusal::from(parse(&Shape::of_kind(Kind::Chat), body).unwrap_err());
        assert_eq!((refusal.reason, refusal.message.as_ref()), (Reason::BadRequest, message));
    }
    let deep = format!(r#"{{"x":{}"#, "[".repeat(100_000));
    assert_eq!(fault(&deep).to_string(), "The request body is nested too deeply at byte 131.");
    assert_eq!(Refusal::from(fault(r#"{"n":0}"#)).param.as_deref(), Some("n"));
}

/// A member that the gateway reads, with a valid or invalid value, or any other member.
fn any_member() -> impl Strategy<Value = (String, Value)> {
    let text = || "[a-z\"\\\\é\n ]{0,12}";
    let content = prop_oneof![
        text().prop_map(Value::from),
        prop::collection::vec(text().prop_map(|text| json!({"type": "text", "text": text})), 0..3)
            .prop_map(Value::from),
    ];
    let message = content.prop_map(|content| json!({"role": "user", "content": content}));
    prop_oneof![
        text().prop_map(|model| ("model".into(), model.into())),
        prop::collection::vec(message, 0..4).prop_map(|messages| ("messages".into(), messages.into())),
        prop_oneof![Just("max_tokens"), Just("max_completion_tokens"), Just("n"), Just("best_of")]
            .prop_flat_map(|name| (Just(name.to_owned()), (1_u64..128).prop_map(Value::from))),
        prop_oneof![Just("stream"), Just("store")]
            .prop_flat_map(|name| (Just(name.to_owned()), any::<bool>().prop_map(Value::from))),
        prop_oneof![Just(json!(null)), Just(json!({})), Just(json!({"include_usage": false, "y": [1]}))]
            .prop_map(|options| ("stream_options".into(), options)),
        ("[x-z]{1,3}", text()).prop_map(|(name, value)| (name, json!({ "messages": [value, 1.5, null] }))),
    ]
}

fn text_of(messages: &Value) -> usize {
    let of = |content: &Value| match content {
        Value::String(text) => text.len(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).map(str::len).sum(),
        _ => 0,
    };
    messages.as_array().into_iter().flatten().map(|message| of(&message["content"])).sum()
}

proptest! {
    #[test]
    fn agrees_with_a_plain_reading(
        members in prop::collection::vec(any_member(), 0..9),
        pretty in any::<bool>(),
    ) {
        let body: serde_json::Map<String, Value> = members.into_iter().collect();
        let body = Value::Object(body);
        let text = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) }.unwrap();
        let text = Bytes::from(text);
        let read = parse(&Shape::of_kind(Kind::Chat), &text).unwrap();
        prop_assert_eq!(read.model.as_deref(), body["model"].as_str().filter(|model| !model.is_empty()));
        prop_assert_eq!(read.prompt_bytes, text_of(&body["messages"]) as u64);
        prop_assert_eq!(read.max_tokens, body["max_tokens"].as_u64().max(body["max_completion_tokens"].as_u64()));
        let sequences = body["n"].as_u64().max(body["best_of"].as_u64()).unwrap_or(1);
        prop_assert_eq!(u64::from(read.sequences), sequences);
        prop_assert_eq!(read.stream, body["stream"] == json!(true));
        prop_assert_eq!(read.store, body["store"] == json!(true));

        let sent: Value = serde_json::from_slice(&spliced(&text, &read, true, ModelText::Unchanged).pieces.concat()).unwrap();
        let mut expected = body;
        if read.stream {
            match &mut expected["stream_options"] {
                Value::Object(options) => { options.insert("include_usage".into(), true.into()); }
                other => *other = json!({"include_usage": true}),
            }
        }
        prop_assert_eq!(sent, expected);
    }

    #[test]
    fn never_panics(mut body in prop::collection::vec(any::<u8>(), 0..200), kind in 0..4_usize, braced in any::<bool>()) {
        if braced {
            body.insert(0, b'{');
        }
        let kind = [Kind::Chat, Kind::Completion, Kind::Response, Kind::Embedding][kind];
        let shape = Shape::route(kind, pointer("/a"), pointer("/b/0")).with_session(pointer("/c"));
        if parse(&shape, &body).is_ok() {
            prop_assert!(is_json(&body));
        }
    }

    #[test]
    fn a_damaged_body_is_read_as_json_or_refused(at in any::<prop::sample::Index>(), byte in any::<u8>(), kind in 0..4_usize) {
        let mut body = br#"{"model":"m","prompt":["a",[1,2]],"input":"x","messages":[{"content":"\u00e9"}],"n":2,"max_tokens":-0,"stream":true}"#.to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        let kind = [Kind::Chat, Kind::Completion, Kind::Response, Kind::Embedding][kind];
        if parse(&Shape::of_kind(kind), &body).is_ok() {
            prop_assert!(is_json(&body));
        }
    }
}
