use super::*;
use crate::openai::body::follow::BodyFollower;
use crate::openai::body::{Facts, Shape, parse};
use crate::request::Kind;
use serde_json::{Value, json};

fn read(kind: Kind, content: &Value, urls: &MediaUrls) -> Result<Facts, BodyFieldError> {
    let body = json!({"messages": [{"role": "user", "content": content}]}).to_string();
    parse(&Shape::of_kind(kind).with_media_urls(urls.clone()), body.as_bytes())
}

#[test]
fn pictures_and_sound_are_counted_in_both_apis() {
    let data = "A".repeat(4000);
    let url = format!("data:image/png;base64,{data}");
    for (kind, content) in [
        (
            Kind::Chat,
            json!([{"type": "image_url", "image_url": {"url": url, "detail": "low"}},
                   {"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}},
                   {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]),
        ),
        (
            Kind::Messages,
            json!([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
                   {"type": "image", "source": {"type": "url", "url": "https://example.org/cat.png"}},
                   {"type": "audio", "source": {"data": data, "media_type": "audio/wav", "type": "base64"}}]),
        ),
    ] {
        let read = read(kind, &content, &MediaUrls::Allow).unwrap();
        assert_eq!((read.pictures, read.sound_bytes, read.prompt_bytes), (2, 3000, 0), "{content}");
    }
    let text = read(Kind::Chat, &json!(format!("{url} {data}")), &MediaUrls::Allow).unwrap();
    assert_eq!((text.pictures, text.prompt_bytes), (0, (url.len() + 1 + data.len()) as u64));
}

#[test]
fn a_request_has_few_media() {
    let picture = json!({"type": "image_url", "image_url": {"url": "https://example.org/cat.png"}});
    assert!(read(Kind::Chat, &json!(vec![&picture; 16]), &MediaUrls::Allow).is_ok());
    let thought =
        json!({"type": "thinking", "thinking": "hm", "signature": "EqQBCgIYAhIM1gbcDa9GJwZA2b3h+/=="});
    assert!(read(Kind::Messages, &json!(vec![&thought; 17]), &MediaUrls::Allow).is_ok());
    let fault = read(Kind::Chat, &json!(vec![&picture; 17]), &MediaUrls::Allow).unwrap_err();
    assert_eq!(fault.to_string(), "'messages' must have at most 16 media parts.");
}

#[test]
fn only_allowed_urls_pass_and_files_never() {
    let some = MediaUrls::Domains(["example.org".into(), "127.0.0.1".into()].into());
    let found = |url: &str, urls: &MediaUrls| {
        read(Kind::Chat, &json!([{"type": "image_url", "image_url": {"url": url}}]), urls).map(drop)
    };
    let denied = Err(BodyFieldError::MediaUrl);
    for (url, by_some, by_none) in [
        ("https://example.org/cat.png", Ok(()), denied.clone()),
        ("HTTP://CDN.Example.ORG.:8443?x", Ok(()), denied.clone()),
        ("https://127.0.0.1/", Ok(()), denied.clone()),
        ("https://badexample.org/", denied.clone(), denied.clone()),
        ("https://example.org@evil.test/", denied.clone(), denied.clone()),
        ("https://evil.test\\@example.org/", denied.clone(), denied.clone()),
        (" https://evil.test/", denied.clone(), denied.clone()),
        ("https:/evil.test/", denied.clone(), denied.clone()),
        ("ftp://example.org/", denied.clone(), denied.clone()),
        ("data:image/png;base64,iVBORw0KGgo=", Ok(()), Ok(())),
        ("a cat: a picture", Ok(()), Ok(())),
    ] {
        assert_eq!(found(url, &some), by_some, "{url}");
        assert_eq!(found(url, &MediaUrls::Deny), by_none, "{url}");
        assert_eq!(found(url, &MediaUrls::Allow), Ok(()), "{url}");
    }
    for url in ["file:///etc/passwd", "FILE:/etc/passwd", " file:x"] {
        assert_eq!(found(url, &MediaUrls::Allow), Err(BodyFieldError::FileUrl), "{url}");
    }
}

/// Returns pictures, bytes of sound, and bytes of text.
fn cost(kind: Kind, body: &Value) -> (u64, u64, u64) {
    let read = parse(&Shape::of_kind(kind), body.to_string().as_bytes()).unwrap();
    (read.pictures, read.sound_bytes, read.prompt_bytes)
}

fn wrapped(data: &str, line_end: &str) -> String {
    let lines: Vec<_> = data.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
    lines.join(line_end)
}

#[test]
fn base64_is_known_however_it_is_written() {
    let data = "Ab+/".repeat(1000) + "Ag==";
    let user = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
    for url in [
        format!("data:image/png;base64,{}", wrapped(&data, "\n")),
        format!("data:image/png;base64,{}\r\n", wrapped(&data, "\r\n")),
        format!("data:image/png;BASE64,{data}"),
        format!("data:image/png;base64, {data}"),
        format!("DATA:image/svg+xml;charset=utf-8;Base64,{data}\n"),
        wrapped(&data, "\n"),
    ] {
        let body = user(json!({"type": "image_url", "image_url": {"url": url}}));
        assert_eq!(cost(Kind::Chat, &body), (1, 0, 0), "{url:.60}");
    }
    let sound =
        user(json!({"type": "input_audio", "input_audio": {"data": wrapped(&data, "\n"), "format": "wav"}}));
    assert_eq!(cost(Kind::Chat, &sound), (0, 3003, 0));

    let line = |length: usize| "a".repeat(length) + "\n";
    for text in [
        "lorem\n".repeat(100),
        line(76) + &line(72) + &line(76),
        line(76) + &line(80),
        line(77).repeat(3),
        line(76) + "=\n" + &line(76),
        format!("data:image/png;base64,  {data}"),
        format!("data:image/png;base64x,{data}"),
    ] {
        let body = user(json!({"type": "image_url", "image_url": {"url": text}}));
        assert_eq!(cost(Kind::Chat, &body), (0, 0, text.len() as u64), "{text:.60}");
    }
}

/// The places of media and of opaque data that differ from those of the OpenAI API.
fn places(value: &str) -> Vec<(Kind, Value, u64)> {
    let said = |member: Value| {
        let mut message = json!({"role": "assistant", "content": ""});
        message.as_object_mut().unwrap().extend(member.as_object().unwrap().clone());
        json!({ "messages": [message] })
    };
    vec![
        (Kind::Chat, said(json!({"images": [value]})), 1),
        (Kind::Completion, json!({"prompt": [{"prompt_string": "", "multimodal_data": [value]}]}), 1),
        (
            Kind::Chat,
            said(json!({"reasoning_details": [{"data": value, "type": "reasoning.encrypted", "id": "x"}]})),
            0,
        ),
        (
            Kind::Chat,
            said(json!({"tool_calls": [{"extra_content": {"google": {"thought_signature": value}}}]})),
            0,
        ),
        (
            Kind::Messages,
            json!({"messages": [{"role": "assistant", "content": [{"type": "text", "text": "", "citations":
                [{"type": "web_search_result_location", "encrypted_index": value}]}]}]}),
            0,
        ),
    ]
}

#[test]
fn media_and_opaque_data_of_other_apis_are_no_text_and_hide_none() {
    let data = "Ab+/".repeat(1000);
    for (kind, body, pictures) in places(&data) {
        assert_eq!(cost(kind, &body), (pictures, 0, 0), "{body:.120}");
    }
    let text = "lorem ipsum ".repeat(100);
    for (kind, body, _) in places(&text) {
        assert_eq!(cost(kind, &body), (0, 0, text.len() as u64), "{body:.120}");
    }
    let plain = json!({"messages": [{"role": "user", "reasoning_details": [{"type": "reasoning.text", "data": data}]}]});
    assert_eq!(cost(Kind::Chat, &plain).2, data.len() as u64);
}

#[test]
fn a_picture_that_a_tool_works_on_is_no_definition() {
    let tools = |url: &str| {
        json!([{"type": "image_generation", "input_image_mask": {"image_url": url}, "size": "auto"},
               {"type": "function", "name": "f", "parameters": {"image_url": "data:image/png;base64,iVBORw0KGgo="}}])
    };
    let url = format!("data:image/png;base64,{}", "Ab+/".repeat(1000));
    let body = json!({"input": "", "tools": tools(&url)});
    let definitions = tools("").to_string().len() as u64 - 2;
    assert_eq!(cost(Kind::Response, &body), (1, 0, definitions));
    let text = "lorem ipsum ".repeat(100);
    let body = json!({"input": "", "tools": tools(&text)});
    assert_eq!(cost(Kind::Response, &body), (0, 0, definitions + 2 + text.len() as u64));
    let file = json!({"input": "", "tools": tools("file:///etc/passwd")}).to_string();
    assert_eq!(parse(&Shape::of_kind(Kind::Response), file.as_bytes()), Err(BodyFieldError::FileUrl));
}

#[test]
fn the_rules_for_urls_hold_in_any_letter_case() {
    for part in [
        json!({"Image_URL": {"URL": "https://evil.test/"}}),
        json!({"IMAGE_URL": "https://evil.test/"}),
        json!({"type": "image", "source": {"type": "url", "Url": "https://evil.test/"}}),
    ] {
        assert_eq!(
            read(Kind::Chat, &json!([part]), &MediaUrls::Deny),
            Err(BodyFieldError::MediaUrl),
            "{part}"
        );
    }
}

#[test]
fn no_second_member_hides_an_url() {
    for source in [
        json!({"type": "url", "data": "x", "url": "file:///etc/passwd"}),
        json!({"result": "https://example.org/", "url": "file:///etc/passwd", "type": "url"}),
    ] {
        let content = json!([{"type": "image", "source": source}]);
        assert_eq!(
            read(Kind::Messages, &content, &MediaUrls::Allow),
            Err(BodyFieldError::FileUrl),
            "{source}"
        );
    }
    let twice = r#"{"messages":[{"source":{"url":"file:///etc/passwd","url":"https://a/","type":"url"}}]}"#;
    let shape = Shape::of_kind(Kind::Messages);
    let fault = BodyFieldError::Duplicate { param: "url".into() };
    assert_eq!(parse(&shape, twice.as_bytes()), Err(fault.clone()));
    assert_eq!(BodyFollower::new(&shape).feed(twice.as_bytes()), Err(fault));
}
