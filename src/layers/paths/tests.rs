use std::time::Duration;

use super::*;

fn reason(paths: &Paths, method: &Method, path: &str) -> Result<Kind, Reason> {
    paths.find(method, path).map(|matched| matched.kind).map_err(|refusal| refusal.reason)
}

#[test]
fn only_the_endpoints_pass_by_themselves() {
    let paths = Paths::new(&[], Vec::new(), None);
    assert_eq!(reason(&paths, &Method::POST, "/v1/chat/completions"), Ok(Kind::Chat));
    assert_eq!(reason(&paths, &Method::POST, "/v1/ch%61t/completions"), Ok(Kind::Chat));
    assert_eq!(reason(&paths, &Method::GET, "/v1/models"), Ok(Kind::Models));
    assert_eq!(reason(&paths, &Method::HEAD, "/v1/models"), Ok(Kind::Models));
    assert_eq!(reason(&paths, &Method::HEAD, "/v1/models/org%2Fmodel-1"), Ok(Kind::Models));
    assert_eq!(reason(&paths, &Method::GET, "/v1/models/org%2Fmodel-1"), Ok(Kind::Models));
    assert_eq!(reason(&paths, &Method::GET, "/v1/models/org/model-1"), Ok(Kind::Models));
    assert_eq!(reason(&paths, &Method::GET, "/v1/models/a%2f..%2fb"), Err(Reason::BadRequest));
    assert_eq!(reason(&paths, &Method::DELETE, "/v1/models/a%2fb"), Err(Reason::BadRequest));
    for path in ["/", "/pause", "/v1/chat/completions/", "/metrics"] {
        let refusal = paths.find(&Method::POST, path).expect_err(path);
        assert_eq!((refusal.reason, &refusal.allow), (Reason::NotFound, &None), "{path}");
        for listed in ["POST /v1/chat/completions", "POST /v1/embeddings", "GET /v1/models,", "GET /health"] {
            assert!(refusal.message.contains(listed), "{refusal}");
        }
    }
}

#[test]
fn optional_kinds_pass_when_they_are_named_and_routes_go_before_them() {
    let none = Paths::new(&[], Vec::new(), None);
    for path in ["/v1/messages", "/tokenize", "/rerank", "/v1/images/edits", "/v1/audio/speech"] {
        assert_eq!(reason(&none, &Method::POST, path), Err(Reason::NotFound), "{path}");
    }
    let route = RouteSettings {
        path: "/rerank".into(),
        shape: Shape::route(Kind::Embedding, None, None),
        retry: false,
        timeouts: RouteTimeouts::default(),
    };
    let some = Paths::new(&[route], vec!["/*".into()], None).with_kinds(&[
        OptionalKind::Messages,
        OptionalKind::Count,
        OptionalKind::Rerank,
    ]);
    for (path, kind) in [
        ("/v1/messages", Kind::Messages),
        ("/v1/messages/count_tokens", Kind::Count),
        ("/v1/rerank", Kind::Rerank),
        ("/rerank", Kind::Embedding),
        ("/v1/audio/speech", Kind::Path),
    ] {
        assert_eq!(reason(&some, &Method::POST, path), Ok(kind), "{path}");
    }
    let count = some.find(&Method::POST, "/tokenize").expect("it is served");
    let five_seconds = Some(Duration::from_secs(5));
    assert!(count.timeouts.is_some_and(|timeouts| timeouts.total == five_seconds) && count.retryable);
}

#[test]
fn a_path_shows_in_which_dialect_its_client_reads_errors() {
    let route = |path: &str, kind| RouteSettings {
        path: path.into(),
        shape: Shape::route(kind, None, None),
        retry: false,
        timeouts: RouteTimeouts::default(),
    };
    let plain = Paths::new(&[], Vec::new(), None);
    let counting = Paths::new(&[], Vec::new(), None).with_kinds(&[OptionalKind::Count]);
    let routed =
        Paths::new(&[route("/bot/*", Kind::Messages), route("/v1/messages", Kind::Chat)], Vec::new(), None);
    for (paths, path, dialect) in [
        (&plain, "/v1/messages", Dialect::Anthropic),
        (&plain, "/v1/%6dessages", Dialect::Anthropic),
        (&plain, "/v1/messages/batches", Dialect::Anthropic),
        (&counting, "/v1/messages/count_tokens", Dialect::Anthropic),
        (&counting, "/tokenize", Dialect::OpenAi),
        (&plain, "/v1/messages//", Dialect::Anthropic),
        (&plain, "/v1/messages2", Dialect::OpenAi),
        (&plain, "/v1/chat/completions", Dialect::OpenAi),
        (&plain, "/%ff", Dialect::OpenAi),
        (&routed, "/bot/7", Dialect::Anthropic),
        (&routed, "/v1/messages", Dialect::OpenAi),
        (&routed, "/v1/chat/completions", Dialect::OpenAi),
    ] {
        assert_eq!(paths.dialect(path), dialect, "{path}");
    }
}

#[test]
fn a_path_that_takes_other_methods_names_them() {
    let route = RouteSettings {
        path: "/v1/secret/chat".into(),
        shape: Shape::route(Kind::Chat, None, None),
        retry: false,
        timeouts: RouteTimeouts::default(),
    };
    let kinds = [OptionalKind::ResponsesById];
    let paths = Paths::new(&[route], Vec::new(), None).with_jobs().with_kinds(&kinds);
    for (method, path, allow) in [
        (Method::GET, "/v1/chat/completions", "POST"),
        (Method::POST, "/v1/models", "GET, HEAD"),
        (Method::POST, "/v1/models/x", "GET, HEAD"),
        (Method::HEAD, "/v1/chat/completions", "POST"),
        (Method::PUT, "/v1/jobs/1", "DELETE, GET"),
        (Method::GET, "/v1/secret/chat", "POST"),
        (Method::POST, "/health", "GET, HEAD"),
        (Method::GET, "/v1/responses/r/cancel", "POST"),
        (Method::PUT, "/v1/responses/r/cancel", "POST"),
        (Method::DELETE, "/v1/responses/r/input_items", "GET"),
        (Method::POST, "/v1/responses/r", "DELETE, GET"),
    ] {
        let refusal = paths.find(&method, path).expect_err(path);
        assert_eq!(refusal.reason, Reason::MethodNotAllowed, "{refusal}");
        assert_eq!(refusal.allow.as_deref(), Some(allow), "{refusal}");
        let in_words = allow.replace(", ", " and ");
        assert_eq!(refusal.message, format!("This path accepts {in_words} only."));
    }
    let unknown = paths.find(&Method::GET, "/").expect_err("not let through");
    assert!(!unknown.message.contains("secret"), "an operator's own paths are not told: {unknown}");
}

#[test]
fn paths_of_responses_pass_where_they_are_named() {
    let paths = Paths::new(&[], Vec::new(), None);
    assert_eq!(reason(&paths, &Method::GET, "/v1/responses/r"), Err(Reason::NotFound));
    let paths = paths.with_kinds(&[OptionalKind::ResponsesById]);
    for (method, path, label) in [
        (Method::GET, "/v1/responses/r", "/v1/responses/*"),
        (Method::DELETE, "/v1/responses/r", "/v1/responses/*"),
        (Method::POST, "/v1/responses/r/cancel", "/v1/responses/*/cancel"),
        (Method::GET, "/v1/responses/r/input_items", "/v1/responses/*/input_items"),
    ] {
        let matched = paths.find(&method, path).expect(path);
        assert_eq!((&*matched.label, matched.kind), (label, Kind::ResponseById));
    }
    assert_eq!(reason(&paths, &Method::POST, "/v1/responses"), Ok(Kind::Response));
    assert_eq!(reason(&paths, &Method::POST, "/v1/responses/r"), Err(Reason::MethodNotAllowed));
}

#[test]
fn a_route_may_be_a_pattern() {
    let route = RouteSettings {
        path: "/bots/*/chat".into(),
        shape: Shape::route(Kind::Chat, None, None),
        retry: false,
        timeouts: RouteTimeouts::default(),
    };
    let paths = Paths::new(&[route], Vec::new(), None);
    assert_eq!(reason(&paths, &Method::POST, "/bots/7/chat"), Ok(Kind::Chat));
    assert_eq!(reason(&paths, &Method::POST, "/bots/7/pause"), Err(Reason::NotFound));
}

#[test]
fn paths_with_two_readings_are_refused_even_where_everything_passes() {
    let paths = Paths::new(&[], vec!["/*".into()], None);
    for path in ["/anything/at/all", "/a;b=c/d", "/a..;b/c", "/...;/a"] {
        assert_eq!(reason(&paths, &Method::DELETE, path), Ok(Kind::Path), "{path}");
    }
    for path in [
        "/a/../b",
        "/a/%2e%2e/b",
        "/./a",
        "/a/..;/b",
        "/a/..;a=b/c",
        "/a/%2e%2e%3b/b",
        "/a/.;x",
        "/a/..;",
        "/a//b",
        "/a/;/b",
        "/a/%3bx/b",
        "/a%2Fb",
        "/a%5cb",
        "/a%00",
        "/a%zz",
        "/a%4",
        "/%ff",
        "/a\\b",
    ] {
        assert_eq!(reason(&paths, &Method::GET, path), Err(Reason::BadRequest), "{path}");
    }
}
