use super::*;
use crate::openai::body::parse;
use crate::request::Kind;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Follows a body in pieces of `length` bytes.
fn follow(shape: &Shape, body: &[u8], length: usize) -> Result<u64, BodyFieldError> {
    let mut follower = BodyFollower::new(shape);
    for chunk in body.chunks(length) {
        follower.feed(chunk)?;
        assert!(follower.kept.len() <= KEPT);
    }
    assert!(follower.is_over, "{}", String::from_utf8_lossy(body));
    Ok(follower.parts)
}

fn content() -> impl Strategy<Value = Value> {
    let data = "A".repeat(1200);
    let urls = prop::sample::select(vec![
        json!("https://example.org/cat.png"),
        json!("https://evil.test/cat.png"),
        json!(" file:///etc/passwd"),
        json!(format!("data:image/png;base64,{data}")),
        json!("auto"),
        json!("a text with a \"quote\", a \\ and \u{1f600}"),
        json!(data),
        json!(["A".repeat(76), "A".repeat(76), "A".repeat(8)].join("\r\n").repeat(9)),
        json!(vec!["A".repeat(76); 20].join("\n")),
    ]);
    let leaf = urls.prop_flat_map(|value| {
        prop::sample::select(vec![
            json!({"type": "image_url", "image_url": {"url": value, "detail": "low"}}),
            json!({"type": "image", "source": {"type": "url", "url": value}}),
            json!({"source": {"data": value, "media_type": "image/png", "type": "base64"}}),
            json!({"type": "tool_use", "input": {"url": value}, "id": "toolu_1"}),
            json!({"type": "text", "text": value}),
            json!({"type": "url", "data": "x", "url": value, "result": value}),
            json!({"type": "thinking", "thinking": "hm", "signature": value}),
            json!({"input_audio": [value, {"data": value}]}),
            json!({"images": [value], "thought_signature": value}),
            json!({"Image_URL": {"URL": value}, "type": "url", "Url": value}),
            json!({"reasoning_details": [{"type": "reasoning.encrypted", "data": value}]}),
            json!(value),
        ])
    });
    prop::collection::vec(leaf, 0..20).prop_map(Value::from)
}

proptest! {
    #[test]
    fn a_body_is_judged_alike_whether_whole_or_in_pieces(
        content in content(), length in 1..200_usize, kind in prop::sample::select(vec![Kind::Chat, Kind::Messages]),
        deny in any::<bool>(), pretty in any::<bool>(),
    ) {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": content}],
            "tools": [{"url": "file:///x"}], "metadata": {"image_url": "file:///x"}, "n": 2});
        let body = if pretty { serde_json::to_vec_pretty(&body) } else { serde_json::to_vec(&body) }.unwrap();
        let urls = if deny { MediaUrls::Domains(["example.org".into()].into()) } else { MediaUrls::Allow };
        let shape = Shape::of_kind(kind).with_media_urls(urls);
        let whole = parse(&shape, &body);
        let pieces = follow(&shape, &body, length);
        // Of several faults, each reports another first.
        prop_assert_eq!(whole.is_ok(), pieces.is_ok(), "{:?} {:?}", whole, pieces);
    }
}

#[test]
fn what_contradicts_the_beginning_cuts_the_rest() {
    let duplicate = |param: &'static str| Err(BodyFieldError::Duplicate { param: param.into() });
    let late = |param: &'static str| Err(BodyFieldError::Late { param: param.into() });
    for (rest, expected) in [
        (r#""max_tokens":9,"stream":true}"#, Ok(())),
        (r#""mod\u0065l":"b"}"#, duplicate("model")),
        (r#""messages":[]}"#, duplicate("messages")),
        (r#""tools":[],"tools":[]}"#, duplicate("tools")),
        (r#""n":1,"best_of" : null }"#, Ok(())),
        (r#""n":2}"#, late("n")),
        (r#""best_of":1.0,"stream":true}"#, late("best_of")),
        (r#""n":[1]}"#, late("n")),
        (r#""n_cmpl":2}"#, late("n_cmpl")),
        (r#""n_predict":9}"#, Ok(())),
        (r#""Stream":true}"#, Err(BodyFieldError::LetterCase { param: "Stream".into(), right: "stream" })),
        (r#""x":{"Stream":true}}"#, Ok(())),
        (r#""tools":[{"url":"a","url":"b"}]}"#, Ok(())),
        (r#""x":{"model":"b","n":5}}"#, Ok(())),
        (r#""x":[}"#, Err(BodyFieldError::Syntax { at: 35 })),
        (r#""x":1}{"#, Err(BodyFieldError::Syntax { at: 36 })),
    ] {
        for length in [1, 3, 100] {
            let mut follower = BodyFollower::new(&Shape::of_kind(Kind::Chat));
            follower.feed(br#"{"model":"a","messages":["x"],"#).unwrap();
            follower.mark_sent(StartNeeds::default());
            let fed = rest.as_bytes().chunks(length).try_for_each(|chunk| follower.feed(chunk));
            assert_eq!(fed, expected, "{rest}");
        }
    }
    let deep = format!("{{\"messages\":{}", "[".repeat(200));
    assert!(matches!(
        BodyFollower::new(&Shape::of_kind(Kind::Chat)).feed(deep.as_bytes()),
        Err(BodyFieldError::TooDeep { at: 138 })
    ));
}

#[test]
fn what_decides_the_cost_does_not_follow_it() {
    let late = |param: &'static str| Err(BodyFieldError::Late { param: param.into() });
    for (bound, before, after, expected) in [
        (true, "", r#""n_predict":9}"#, late("n_predict")),
        (true, "", r#""n_predict":null}"#, Ok(())),
        (false, "", r#""n_predict":9}"#, Ok(())),
        (true, r#""n_predict":"#, "9}", late("n_predict")),
        (true, r#""n_predict":9,"#, r#""x":1}"#, Ok(())),
        (false, r#""n":1"#, "28}", late("n")),
        (false, r#""n":2,"#, r#""x":1}"#, Ok(())),
    ] {
        let mut follower = BodyFollower::new(&Shape::of_kind(Kind::Chat));
        follower.feed(br#"{"model":"a","max_tokens":1,"messages":["x"],"#).unwrap();
        follower.feed(before.as_bytes()).unwrap();
        follower.mark_sent(StartNeeds { bound, ..StartNeeds::default() });
        assert_eq!(follower.feed(after.as_bytes()), expected, "{bound} {before} | {after}");
    }
}
