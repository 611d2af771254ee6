use super::*;
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
