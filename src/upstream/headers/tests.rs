use super::*;

fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
    let pairs = fields.iter().map(|(name, value)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header value"))
    });
    let mut map = HeaderMap::new();
    pairs.for_each(|(name, value)| {
        map.append(name, value);
    });
    map
}

fn names(map: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
fn an_answer_says_at_most_one_length_and_none_that_was_not_used() {
    for (fields, length) in [
        (&[("content-length", "10")][..], Some("10")),
        (&[("content-length", "10, 10")], Some("10")),
        (&[("content-length", "10"), ("content-length", "10")], Some("10")),
        (&[("content-length", "5"), ("transfer-encoding", "chunked")], None),
        (&[("transfer-encoding", "chunked"), ("content-length", "5"), ("content-length", "5")], None),
        (&[], None),
    ] {
        let mut headers = map(fields);
        answer(&mut headers, &HeaderValue::from_static("id"));
        let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
        assert_eq!(lengths, length.into_iter().collect::<Vec<_>>(), "{fields:?}");
    }
}

#[test]
fn names_of_the_inside_are_told_only_where_they_may_be() {
    let told = |model, worker| {
        let mut headers = map(&[("x-traffic-dam-model", "forged"), ("x-traffic-dam-worker", "forged")]);
        answer(&mut headers, &HeaderValue::from_static("id"));
        AnswerNames::of(AnswerHeaders { model, worker }, Some("qwen3"), "w1").add_to(&mut headers);
        let value = |name| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        (value(MODEL), value(WORKER))
    };
    assert_eq!(told(false, false), (None, None));
    assert_eq!(told(true, false), (Some("qwen3".to_owned()), None));
    assert_eq!(told(false, true), (None, Some("w1".to_owned())));
    let odd = AnswerNames::of(AnswerHeaders { model: true, worker: true }, Some("a\nb"), "w1");
    assert!(odd.model.is_none() && odd.worker.is_some());
}

#[test]
fn a_transfer_coding_beside_chunked_is_seen() {
    for (fields, coded) in [
        (&[][..], false),
        (&[("transfer-encoding", "Chunked")], false),
        (&[("transfer-encoding", "gzip, chunked")], true),
        (&[("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")], true),
        (&[("transfer-encoding", "identity")], false),
    ] {
        assert_eq!(is_coded(&map(fields)), coded, "{fields:?}");
    }
}

#[test]
fn a_worker_opens_nothing_to_pages_of_other_origins() {
    let mut headers = map(&[
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "*"),
        ("vary", "origin"),
    ]);
    answer(&mut headers, &HeaderValue::from_static("id"));
    assert_eq!(names(&headers), ["vary", "x-request-id"]);
    let mut after = map(&[("access-control-allow-origin", "*"), ("x-sum", "1")]);
    trailers(&mut after);
    assert_eq!(names(&after), ["x-sum"]);
}

#[test]
fn what_may_not_stand_in_the_head_does_not_come_after_the_body() {
    let mut fields = map(&[
        ("x-sum", "1"),
        ("x-forwarded-for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("x_real_ip", "6.6.6.6"),
        ("x-traffic-dam-class", "critical"),
        ("connection", "x"),
        ("upgrade", "websocket"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("content-length", "3"),
        ("content-encoding", "gzip"),
        ("host", "h"),
        ("authorization", "Bearer a"),
        ("x-key", "a"),
        ("cookie", "a=b"),
        ("expect", "100-continue"),
        ("proxy-authorization", "a"),
        ("x-http-method-override", "DELETE"),
    ]);
    request_trailers(&mut fields, &[HeaderName::from_static("x-key")]);
    assert_eq!(names(&fields), ["x-sum"]);
}
