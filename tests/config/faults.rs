//! Each kind of error, reported at its line and field.

use std::net::SocketAddr;
use std::path::Path;

use traffic_dam::config::{LoadContext, Overrides, from_str, load};

use super::{LEAST, faults, read};

/// Expects exactly one error in `LEAST` plus `text`, at this line of `text` and this column.
#[track_caller]
fn only(text: &str, line: usize, column: usize, field: &str, words: &str) {
    let faults = faults(&format!("{LEAST}{text}"));
    let [fault] = faults.list.as_slice() else { panic!("{faults}") };
    let position = fault.position.unwrap();
    assert_eq!((position.line - 1, position.column), (line, column), "{faults}");
    assert_eq!(fault.field, field, "{faults}");
    assert!(faults.to_string().contains(words), "{faults}");
}

#[test]
fn keys() {
    only("lisen: 127.0.0.1:80", 1, 1, "lisen", "unknown key; did you mean `listen`?");
    only("tasks: { url: x }", 1, 1, "tasks", "unknown key; allowed are `listen`, `tls`");
    only("log: { level: debug }", 1, 8, "log.level", "unknown key; only `sample` is allowed");
    only("admin:\n  token: a\n  Hosts: [a]", 3, 3, "admin.Hosts", "did you mean `hosts`?");
    only("concurrency: { knee: 8 }", 1, 16, "concurrency.knee", "unknown key");
    only("gateways: 1\ngateways: 2", 2, 1, "gateways", "`gateways` is already set on line 2");
    only(
        "dams: 1\ngateways: 2",
        1,
        1,
        "dams",
        "is the former name of `gateways`, which is set too: remove one",
    );
    only("dams: none", 1, 7, "gateways", "must be a whole number");
    only("tls: { cert: a.pem }", 1, 6, "tls.key", "is missing; must be the path of a file");
    only(
        "limits:\n  - { algorithm: token_bucket, per: all, rate: 1/s, burst: 1 }",
        2,
        5,
        "limits[0].name",
        "is missing",
    );
}

#[test]
fn kinds() {
    only("kinds: [messages, rerank, messages]", 1, 27, "kinds[2]", "must differ from `kinds[0]`");
    only("kinds: [embedding]", 1, 9, "kinds[0]", "`messages`");
    only(
        "media: { urls: some }",
        1,
        16,
        "media.urls",
        "`allow` or `deny`, or a list, each element a host name",
    );
    only("media: { urls: [\"https://a\"] }", 1, 17, "media.urls[0]", "a host name or an IP address");
    only("media: { bytes_per_token: 0 }", 1, 27, "media.bytes_per_token", "from 1");
    only("bounds: { held: 0 }", 1, 17, "bounds.held", "at least one byte");
    let queue = faults("workers: { mode: queue }\nkinds: [responses_by_id]").to_string();
    assert!(queue.contains("kinds[0]: needs `workers.mode: http`"), "{queue}");
    // A route may take the path of a kind that can be switched off, but no other.
    read(&format!(
        "{LEAST}routes: [{{ path: /v1/messages, kind: chat }}, {{ path: /v1/score, kind: embedding }}]"
    ))
    .unwrap();
}

#[test]
fn tokens() {
    let jwt = |more: &str| format!("callers: {{ jwt: {{ audience: a, issuer: i, {more} }} }}");
    for (text, field, words) in [
        (jwt("jwks: http://id.example/keys"), "jwks", "must be an `https://` URL without user"),
        (jwt("jwks: https://user@id.example/keys"), "jwks", "must be an `https://` URL without user"),
        (jwt("jwks: https://h, refresh: 500ms"), "refresh", "must be at least `1s`"),
        (jwt("jwks: https://h, algorithms: [RS256, HS256]"), "algorithms[1]", "must be `RS256`"),
        (jwt("jwks: https://h, algorithms: [ES256, ES256]"), "algorithms[1]", "must differ"),
        (jwt("jwks: https://h, algorithms: []"), "algorithms", "must not be empty"),
        ("callers: { jwt: { jwks: https://h, issuer: i } }".to_owned(), "audience", "is missing"),
    ] {
        let faults = faults(&format!("{LEAST}{text}"));
        let [fault] = faults.list.as_slice() else { panic!("{faults}") };
        assert_eq!(fault.field, format!("callers.jwt.{field}"), "{faults}");
        assert!(faults.to_string().contains(words), "{faults}");
    }
    let from = "callers: { from: [ip], jwt: { jwks: https://h, audience: a, issuer: i } }";
    only(from, 1, 18, "callers.from", "must contain `api_key`, because tokens");
}

#[test]
fn models() {
    let model = "{ model: \"qwen*\", tokenizer: qwen.json }";
    only("models: [{ model: \"qwen*\", image_tokens: 0 }]", 1, 42, "models[0].image_tokens", "from 1");
    only(
        &format!("models: [{model}, {model}]"),
        1,
        61,
        "models[1].model",
        "must differ from `models[0].model`",
    );
    let entry = |more: &str| format!("models: [{{ model: a, {more} }}]");
    for (text, field, words) in [
        (entry("serve: \"qwen*\""), "[0].serve", "must be the name of one model, without `*`"),
        (entry("serve: []"), "[0].serve", "must not be empty"),
        (entry("serve: [{ weight: 2 }]"), "[0].serve[0].model", "is missing"),
        (entry("serve: [{ model: b, weight: 0 }]"), "[0].serve[0].weight", "from 1 to 1000"),
        (entry("serve: [{ model: b }, { model: b }]"), "[0].serve[1].model", "must differ"),
        (entry("fallback: [{ model: b }, { model: b }]"), "[0].fallback[1].model", "must differ"),
        (entry("fallback: [{ model: b, on: [] }]"), "[0].fallback[0].on", "must not be empty"),
        (entry("fallback: [{ model: b, on: [slow] }]"), "[0].fallback[0].on[0]", "must be `overloaded`"),
        (entry("fallback: [{ model: b, on: [failed, failed] }]"), "[0].fallback[0].on[1]", "must differ"),
        (entry("fallback: [{ model: b, share: 2 }]"), "[0].fallback[0].share", "from 0 to 1"),
        (
            entry("fallback: [{ model: a }]"),
            "[0].fallback[0].model",
            "leads back to where it came from (a → a)",
        ),
        (
            "models: [{ model: a, fallback: [{ model: b }] }, { model: \"b*\", fallback: [{ model: a }] }]"
                .into(),
            "[1].fallback[0].model",
            "leads back to where it came from (a → b* → a)",
        ),
    ] {
        let faults = faults(&format!("{LEAST}{text}"));
        let [fault] = faults.list.as_slice() else { panic!("{faults}") };
        assert_eq!(fault.field, format!("models{field}"), "{faults}");
        assert!(faults.to_string().contains(words), "{faults}");
    }
}

#[test]
fn external_workers() {
    let with = |worker: &str, more: &str| {
        format!(
            "workers: {{ static: [{{ id: own, url: \"http://h:1\", pool: own, model: own }}, {{ id: api, \
             url: \"https://api.example/v1\", pool: paid, model: \"paid-*\", {worker} }}] }}\n{more}"
        )
    };
    let rule = |more: &str| {
        format!("limits: [{{ name: a, algorithm: token_bucket, per: caller, rate: 1/s, burst: 1, {more} }}]")
    };
    let unbounded = "an external worker may cost money, and nothing limits its pool `paid`";
    for (worker, more, field, words) in [
        ("external: true", String::new(), "", unbounded),
        ("external: true", rule("mode: observe"), "", unbounded),
        ("external: true", rule("match: { model: own }"), "", unbounded),
        ("external: true", rule("match: { class: batch }"), "", unbounded),
        ("external: true", rule("match: { caller: a }"), "", unbounded),
        ("provider: {}", String::new(), ".provider", "must have `requests` or `tokens`, such as `500/m`"),
        ("provider: { requests: many }", String::new(), ".provider.requests", "must be a whole number per s"),
        ("http2: always", String::new(), ".http2", "must be `auto`, `off` or `prior_knowledge`"),
    ] {
        let faults = faults(&with(worker, &more));
        let [fault] = faults.list.as_slice() else { panic!("{faults}") };
        assert_eq!(fault.field, format!("workers.static[1]{field}"), "{faults}");
        assert!(faults.to_string().contains(words), "{faults}");
    }
    for (worker, more) in [
        ("external: true", rule("unit: tokens")),
        ("external: true", rule("match: { model: \"paid-*\" }")),
        ("external: true", rule("match: { model: \"*\" }")),
        ("external: true, provider: { tokens: 9/m }", String::new()),
        ("provider: { requests: 9/d }", String::new()),
        ("external: false", String::new()),
    ] {
        let settings = super::settings(&with(worker, &more));
        assert_eq!(settings.workers[1].external.is_some(), worker != "external: false", "{worker}");
        assert_eq!(settings.workers[1].url, "https://api.example/", "the path of a request begins with /v1");
        assert_eq!(settings.workers[0].external, None);
    }
}

#[test]
fn own_limits() {
    let hex = "00".repeat(32);
    let with = |limits: &str| {
        format!(
            "{LEAST}limits:
  - {{ name: each, algorithm: token_bucket, per: caller, rate: 1/s, burst: 1 }}
  - {{ name: all, algorithm: token_bucket, per: all, rate: 1/s, burst: 1 }}
callers: {{ keys: [{{ id: a, sha256: \"{hex}\", limits: {{ {limits} }} }}] }}"
        )
    };
    for (limits, field, words) in [
        ("none: { burst: 2 }", "none", "no rule of this name in `limits`"),
        ("all: { burst: 2 }", "all", "does not count per caller"),
        ("each: { limit: 2 }", "each", "the rule is a token bucket"),
        ("each: { rate: fast }", "each.rate", "must be a whole number per s"),
        ("each: { size: 2 }", "each.size", "unknown key"),
    ] {
        let faults = faults(&with(limits));
        let [fault] = faults.list.as_slice() else { panic!("{faults}") };
        assert_eq!(fault.field, format!("callers.keys[0].limits.{field}"), "{faults}");
        assert!(faults.to_string().contains(words), "{faults}");
    }
    let settings = super::settings(&with("each: { rate: 600/m, burst: 9 }"));
    let own = settings.callers.keys[0].rights.limits.clone().unwrap();
    let each = own.get("each").unwrap();
    assert_eq!((each.rate, each.burst), (Some((600, std::time::Duration::from_secs(60))), Some(9)));
}

#[test]
fn redis_and_discovery_by_it() {
    let with = |workers: &str, redis: &str| format!("workers: {{ {workers} }}\n{redis}\n");
    let redis = "redis: { url: \"redis://h\" }";
    for (text, field, words) in [
        (with("discovery: redis", redis), "workers.allow", "networks and hosts where workers may be"),
        (with("discovery: redis, allow: [10.*]", redis), "workers.allow[0]", "must be a network such as"),
        (with("static: []", "redis: { url: \"http://h\" }"), "redis.url", "must be a `redis://`"),
        (
            with("static: []", "redis: { url: \"redis://h\", prefix: \"{a}\" }"),
            "redis.prefix",
            "must be 1 to 64",
        ),
        (with("static: []", "redis: { hmac_key: a b c d e }"), "redis.hmac_key", "has 5 keys"),
    ] {
        let faults = faults(&text);
        let [fault] = faults.list.as_slice() else { panic!("{faults}") };
        assert_eq!(fault.field, field, "{faults}");
        assert!(faults.to_string().contains(words), "{faults}");
    }
    let settings = super::settings(&with("discovery: redis, allow: [\"gpu-*\", \"::1\"]", redis));
    let discovery = settings.discovery.unwrap();
    assert_eq!((&*discovery.redis.prefix, &*settings.registry.channel), ("dam", "dam:health"));
    assert!(
        settings.workers.is_empty() && settings.registry.key.is_none() && settings.registry.allow.len() == 2
    );
}

#[test]
fn names_that_are_workers() {
    let entry = "{ name: a.example, port: 8000 }";
    let with = |more: &str| format!("workers: {{ allow: [10.0.0.0/8], {more} }}\n");
    let dns = |entries: &str| with(&format!("discovery: dns, dns: [ {entries} ]"));
    for (text, field, words) in [
        (with("discovery: dns"), "workers.dns", "needs at least one entry"),
        (with(&format!("static: [], dns: [ {entry} ]")), "workers.dns", "only with `discovery: dns`"),
        (with(&format!("discovery: [none, dns], dns: [ {entry} ]")), "workers.discovery", "`none` together"),
        (
            with(&format!("mode: queue, discovery: [dns, redis], dns: [ {entry} ]")),
            "workers.discovery",
            "send heartbeats",
        ),
        (
            format!("workers: {{ discovery: dns, dns: [ {entry} ] }}\n"),
            "workers.allow",
            "where workers may be",
        ),
        (dns(&format!("{entry}, {entry}")), "workers.dns[1].name", "must differ from"),
        (dns("{ name: \"a b\" }"), "workers.dns[0].name", "must be a host name"),
        (dns("{ name: a, port: 0 }"), "workers.dns[0].port", "from 1 to 65535"),
        (dns("{ name: a, refresh: 0s }"), "workers.dns[0].refresh", "greater than zero"),
        (dns("{ name: a, family: ipv5 }"), "workers.dns[0].family", "ipv4"),
        (dns("{ name: a, model: x }, { name: b, model: y }"), "workers.dns[1].model", "must be `x`"),
        (
            with("discovery: dns, dns: [ { name: a, model: x } ], static: [ { id: w, url: \"http://h\" } ]"),
            "workers.dns[0].model",
            "must be `*`, like `workers.static[0]`",
        ),
        (with("static: [], scrape: { path: metrics }"), "workers.scrape.path", "begins with `/`"),
        (with("static: [], scrape: { interval: 0s }"), "workers.scrape.interval", "greater than zero"),
        (
            with("static: [], timeouts: { connection_age: 0s }"),
            "workers.timeouts.connection_age",
            "greater than",
        ),
    ] {
        let faults = faults(&text);
        let [fault] = faults.list.as_slice() else { panic!("{text}{faults}") };
        assert_eq!(fault.field, field, "{faults}");
        assert!(faults.to_string().contains(words), "{faults}");
    }
    let more = "{ name: b.example, model: \"qwen*\", pool: p, https: true, refresh: 20s }";
    let settings = super::settings(&dns(&format!("{entry}, {{ name: a.example, port: 8001 }}, {more}")));
    assert!(settings.discovery.is_none() && settings.workers_may_join());
    let targets = &settings.registry.targets;
    let names: Vec<_> = targets.iter().map(|target| &*target.id.name).collect();
    assert_eq!(names, ["a.example:8000", "a.example:8001", "b.example"]);
    assert_eq!((targets[0].model.as_deref(), targets[2].model.as_deref()), (None, Some("qwen*")));
    assert_eq!([0, 2].map(|at| targets[at].silence.as_secs()), [15, 60]);
    assert_eq!(settings.registry.empty_grace.as_secs(), 30);
}

#[test]
fn endpoints_that_are_workers() {
    let with = |more: &str| format!("workers: {{ allow: [10.0.0.0/8], {more} }}\n");
    let found = |entries: &str| with(&format!("discovery: kubernetes, kubernetes: [ {entries} ]"));
    for (text, field, words) in [
        (with("discovery: kubernetes"), "workers.kubernetes", "needs at least one entry"),
        (with("static: [], kubernetes: [ { service: a } ]"), "workers.kubernetes", "`discovery: kubernetes`"),
        (found("{ namespace: llm }"), "workers.kubernetes[0]", "exactly one of `service`, `selector`"),
        (found("{ service: a, inference_pool: b }"), "workers.kubernetes[0]", "exactly one of"),
        (found("{ service: A }"), "workers.kubernetes[0].service", "lower-case letters"),
        (found("{ service: a, namespace: a_b }"), "workers.kubernetes[0].namespace", "lower-case letters"),
        (found("{ service: a, port: 0 }"), "workers.kubernetes[0].port", "from 1 to 65535"),
        (found("{ service: a, port: \"a b\" }"), "workers.kubernetes[0].port", "or the name of a port"),
        (found("{ selector: \"app=a\" }"), "workers.kubernetes[0].port", "is missing; give the number"),
        (found("{ selector: \"app=a\", port: http }"), "workers.kubernetes[0].port", "must be a number"),
        (
            found("{ selector: \"app in (a\", port: 1 }"),
            "workers.kubernetes[0].selector",
            "such as `app=vllm`",
        ),
        (found("{ inference_pool: a, port: http }"), "workers.kubernetes[0].port", "must be a number"),
        (found("{ inference_pool: a, any_target: true }"), "workers.kubernetes[0].any_target", "only with"),
        (found("{ service: a, pool: [a, b] }"), "workers.kubernetes[0].pool", "only with `labels: true`"),
        (
            found("{ service: a, colour: [a, a], labels: true }"),
            "workers.kubernetes[0].colour[1]",
            "must differ",
        ),
        (found("{ service: a }, { service: a }"), "workers.kubernetes[1].service", "must differ from"),
        (
            found("{ service: a, model: x }, { service: b, model: y }"),
            "workers.kubernetes[1].model",
            "be `x`",
        ),
    ] {
        let faults = faults(&text);
        let [fault] = faults.list.as_slice() else { panic!("{text}{faults}") };
        assert_eq!(fault.field, field, "{faults}");
        assert!(faults.to_string().contains(words), "{text}{faults}");
    }
    let service =
        "{ namespace: llm, service: a, port: http, labels: true, pool: [p, q], model: [x, \"y*\"] }";
    let more =
        "{ service: a, port: 1 }, { service: a, port: 2 }, { selector: \"app=a,b in (c, d)\", port: 1 }";
    let settings = super::settings(&found(&format!("{service}, {more}, {{ inference_pool: a }}")));
    let targets = &settings.registry.targets;
    let names: Vec<_> = targets.iter().map(|target| &*target.id.name).collect();
    assert_eq!(names, ["llm/a", "a:1", "a:2", "pods/app=a,b in (c, d)", "inferencepools/a"]);
    assert_eq!((&*targets[0].pool, targets[0].model.as_deref()), ("p", Some("x")));
    assert!(settings.workers_may_join() && settings.discovery.is_none());
    let both = with("discovery: [dns, kubernetes], dns: [ { name: a } ], kubernetes: [ { service: a } ]");
    assert_eq!(super::settings(&both).registry.targets.len(), 2);
}

#[test]
fn types_and_words() {
    only("gateways: none", 1, 11, "gateways", "must be a whole number from 1 to 1000; found \"none\"");
    only("gateways: 0", 1, 11, "gateways", "from 1 to 1000; found 0");
    only("gateways: 1.5", 1, 11, "gateways", "must be a whole number from 1 to 1000; found 1.5");
    only("gateways: 99999999999999999999", 1, 11, "gateways", "from 1 to 1000; found 99999999999999999999");
    only(
        "gateways:",
        1,
        9,
        "gateways",
        "has no value: set it to a whole number from 1 to 1000, or remove the key",
    );
    only("admin: yes", 1, 8, "admin", "must be a mapping with some of the keys `listen`");
    only("limits: { a: 1 }", 1, 9, "limits", "found a mapping");
    only("cors: { origins: [1] }", 1, 19, "cors.origins[0]", "or `*`; found 1");
    only(
        "bounds: { body: true }",
        1,
        17,
        "bounds.body",
        "or a whole number from 0 to 1099511627776; found true",
    );
    only("redis: { url: 8000 }", 1, 15, "redis.url", "; found 8000");
    only("log: { sample: 1.1 }", 1, 16, "log.sample", "must be a number from 0 to 1; found 1.1");
    only(
        "callers: { anonymous: alow }",
        1,
        23,
        "callers.anonymous",
        "must be `allow` or `refuse`; did you mean `allow`?",
    );
    only(
        "callers: { forward_authorization: yes }",
        1,
        35,
        "callers.forward_authorization",
        "must be `true` or `false`",
    );
    only("callers: { from: [] }", 1, 18, "callers.from", "must not be empty");
    only("callers: { from: [{ headr: x }] }", 1, 21, "callers.from[0].headr", "did you mean `header`?");
    only(
        "callers: { from: [key] }",
        1,
        19,
        "callers.from[0]",
        "must be `api_key` or `ip`, or a mapping with the key `header`",
    );
    let many = format!("paths: [{}]", "/a, ".repeat(65));
    only(&many, 1, 8, "paths", "has 65 elements; at most 64 are allowed");
}

#[test]
fn who_takes_from_a_queue_is_not_configured() {
    let text = "workers: { mode: queue, static: [{ id: w1, url: \"http://127.0.0.1:8000\", slots: 1 }] }";
    let faults = faults(text);
    let [fault] = faults.list.as_slice() else { panic!("{faults}") };
    assert_eq!(fault.field, "workers.static", "{faults}");
    assert!(faults.to_string().contains("must not be set with `mode: queue`"), "{faults}");
}

#[test]
fn only_calls_over_http_by_callers_that_the_gateway_knows_overflow() {
    let overflow = "concurrency: { overflow: jobs }";
    for (text, words) in [
        (
            format!("workers: {{ mode: queue }}\ncallers: {{ forward_authorization: false }}\n{overflow}"),
            "applies only to `workers.mode: http`",
        ),
        (format!("workers: {{ static: [] }}\n{overflow}"), "needs `callers.forward_authorization: false`"),
    ] {
        let faults = faults(&text);
        let [fault] = faults.list.as_slice() else { panic!("{faults}") };
        assert_eq!(fault.field, "concurrency.overflow", "{faults}");
        assert!(faults.to_string().contains(words), "{faults}");
    }
}

#[test]
fn texts() {
    for (text, column, field, words) in [
        ("listen: localhost", 9, "listen", "an IP address and a port, such as"),
        ("drain: { delay: 5 }", 17, "drain.delay", "did you mean `5s`?; found 5"),
        ("drain: { delay: 5 s }", 17, "drain.delay", "a whole number of ms, s, m, h or d"),
        ("bounds: { body: 8MB }", 17, "bounds.body", "a whole number of B, KiB, MiB or GiB"),
        ("admin: { hosts: [\"a:80\"] }", 18, "admin.hosts[0]", "without a port"),
        (
            "callers: { trusted_proxies: [10.0.0.0/40] }",
            30,
            "callers.trusted_proxies[0]",
            "a network such as",
        ),
        ("callers: { key_header: \"x y\" }", 24, "callers.key_header", "the name of an HTTP header"),
        ("paths: [v1]", 9, "paths[0]", "a path that begins with `/`"),
        ("cors: { origins: [chat.example] }", 19, "cors.origins[0]", "an origin such as"),
        ("routes: [{ path: /a, kind: chat, prompt: a }]", 42, "routes[0].prompt", "a JSON pointer such as"),
        (
            "routes: [{ path: /a, kind: chat, timeouts: { idle: x } }]",
            52,
            "routes[0].timeouts.idle",
            "such as `500ms`",
        ),
    ] {
        only(text, 1, column, field, words);
    }
}

#[test]
fn variables() {
    only("listen: ${NONE}", 1, 9, "listen", "the variable `NONE` is not set");
    only("admin:\n  token: ${EMPTY}", 2, 10, "admin.token", "the variable `EMPTY` is empty");
    only("admin: { token: \"\" }", 1, 17, "admin.token", "a secret of at least one character");
    only("listen: ${", 1, 9, "listen", "written `${NAME}`");
    only(
        "gateways: ${WORKER_KEY}",
        1,
        11,
        "gateways",
        "must be a whole number from 1 to 1000; found \"${WORKER_KEY}\"",
    );
}

fn limit(rest: &str) -> String {
    format!("limits:\n  - {{ name: a, per: caller, {rest} }}\n")
}

#[test]
fn rules() {
    for (rest, field, words) in [
        ("algorithm: token_bucket, burst: 1", "rate", "a token bucket needs a rate"),
        ("algorithm: token_bucket, rate: 1/s", "burst", "needs a number of at least 1"),
        ("algorithm: token_bucket, rate: 1/s, burst: 0", "burst", "must be a whole number from 1"),
        (
            "algorithm: token_bucket, rate: ten, burst: 1",
            "rate",
            "at most 1000000000 per second; found \"ten\"",
        ),
        (
            "algorithm: token_bucket, rate: 1/s, burst: 1, window: 1m",
            "window",
            "applies only to sliding windows",
        ),
        ("algorithm: token_bucket, rate: 1/d, burst: 367", "burst", "more than a year to fill"),
        ("algorithm: sliding_window, window: 1m", "limit", "is missing"),
        ("algorithm: sliding_window, limit: 1", "window", "is missing"),
        ("algorithm: sliding_window, limit: 1, window: 0s", "window", "greater than zero"),
        (
            "algorithm: sliding_window, limit: 1, window: 1s, rate: 1/s",
            "rate",
            "applies only to token buckets",
        ),
        ("algorithm: sliding_log, limit: 10001, window: 1s", "limit", "use `sliding_window`; found 10001"),
        (
            "algorithm: leaky, limit: 1, window: 1s",
            "algorithm",
            "must be `token_bucket`, `sliding_window` or `sliding_log`",
        ),
        ("algorithm: sliding_log, limit: 1, window: 1s, reserve: max", "reserve", "`unit` is `tokens`"),
        (
            "algorithm: sliding_log, limit: 1, window: 1s, match: { path: v1 }",
            "match.path",
            "matches no path: must be a path that begins with `/`",
        ),
        (
            "algorithm: sliding_log, limit: 1, window: 1s, match: { path: \"/v1/%41\" }",
            "match.path",
            "without `//`, `.`, `..`, `?`, `#` or `%`",
        ),
        (
            "algorithm: sliding_log, limit: 1, window: 1s, match: { path: \"*//a\" }",
            "match.path",
            "matches no path",
        ),
        (
            "algorithm: sliding_log, limit: 1, window: 1s, match: { class: low }",
            "match.class",
            "must be `batch`",
        ),
    ] {
        let faults = faults(&format!("{LEAST}{}", limit(rest)));
        let [fault] = faults.list.as_slice() else { panic!("{faults}") };
        assert_eq!(fault.field, format!("limits[0].{field}"), "{faults}");
        assert!(faults.to_string().contains(words), "{faults}");
        assert_eq!(fault.position.unwrap().line, 3, "{faults}");
    }
    let sound = "algorithm: sliding_window, limit: 1, window: 1s";
    only(
        &format!("{}  - {{ name: a, per: all, {sound} }}", limit(sound)),
        3,
        13,
        "limits[1].name",
        "must differ from `limits[0].name`",
    );
    let per = |per: &str| format!("limits:\n  - {{ name: a, per: {per}, {sound} }}");
    only(&per("[all, caller]"), 2, 21, "limits[0].per", "it cannot be combined");
    only(&per("[ip, ip]"), 2, 26, "limits[0].per[1]", "is a duplicate");
    only(&per("[]"), 2, 21, "limits[0].per", "must not be empty");
    only(
        &per("user"),
        2,
        21,
        "limits[0].per",
        "`route`, `team` or `all`, or a list of these; found \"user\"",
    );
}

#[test]
fn callers() {
    let key = |id: &str, digit: &str| format!("{{ id: {id}, sha256: \"{}\" }}", digit.repeat(64));
    let keys = |list: &str| format!("callers:\n  keys:\n    - {list}");
    only(&keys("{ id: a, sha256: hunter2 }"), 3, 24, "callers.keys[0].sha256", "64 hexadecimal digits");
    let of_nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    only(
        &keys(&format!("{{ id: a, sha256: {of_nothing} }}")),
        3,
        24,
        "callers.keys[0].sha256",
        "is the SHA-256 of an empty text",
    );
    only(
        &format!("{}\n    - {}", keys(&key("a", "1")), key("a", "2")),
        4,
        13,
        "callers.keys[1].id",
        "must differ from `callers.keys[0].id`",
    );
    only(
        &format!("{}\n    - {}", keys(&key("a", "a")), key("b", "A")),
        4,
        24,
        "callers.keys[1].sha256",
        "must differ",
    );
    only(&format!("{}\n  from: [ip]", keys(&key("a", "1"))), 4, 9, "callers.from", "must contain `api_key`");
    only("callers: { from: [{ header: x-user }] }", 1, 10, "callers.trusted_proxies", "name them here");
    only("callers: { from: [ip, ip] }", 1, 23, "callers.from[1]", "is a duplicate");
    only("callers: { anonymous: refuse }", 1, 23, "callers.anonymous", "would refuse everyone");
    only("callers: { key_header: [x-a, X-A] }", 1, 30, "callers.key_header[1]", "must differ");
}

#[test]
fn the_admin_port_is_never_open_off_loopback() {
    only(
        "admin: { listen: \"0.0.0.0:8081\" }",
        1,
        8,
        "admin.token",
        "is required, because `admin.listen` (0.0.0.0:8081)",
    );
    only("admin: { listen: \"[::]:8081\" }", 1, 8, "admin.token", "is required");
    for open in ["127.0.0.9:8081", "[::1]:8081", "[::ffff:127.0.0.1]:8081"] {
        assert!(read(&format!("{LEAST}admin: {{ listen: \"{open}\" }}")).is_ok(), "{open}");
    }
    assert!(read(&format!("{LEAST}admin: {{ listen: \"0.0.0.0:8081\", token: x }}")).is_ok());
    let listen: SocketAddr = "0.0.0.0:9".parse().unwrap();
    let overrides = Overrides { admin_listen: Some(listen), listen: None };
    let surroundings = LoadContext { variable: &|_| None, obstacle: &|_| None, overrides };
    let faults = from_str(LEAST, Path::new("f"), surroundings).unwrap_err();
    assert_eq!(faults.list[0].field, "admin.token", "{faults}");
}

#[test]
fn listeners_have_their_own_addresses() {
    only("admin:\n  listen: 127.0.0.1:8080", 2, 11, "admin.listen", "must be another address than `listen`");
    only("listen: 0.0.0.0:8081", 1, 9, "listen", "must be another address");
    assert!(read(&format!("{LEAST}listen: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}")).is_ok());
}

#[test]
fn workers() {
    let workers = |list: &str| format!("workers:\n  static:\n    - {}\n", list.replace('|', "\n    - "));
    let w = |id: &str, rest: &str| format!("{{ id: {id}, url: \"http://{id}:80\", slots: 1{rest} }}");
    for (text, line, field, words) in [
        ("gateways: 1".to_owned(), 1, "workers.static", "is missing; name at least one worker"),
        (
            format!("{}\nconcurrency: {{ limit: slots }}", workers("{ id: a, url: \"http://a\" }")),
            3,
            "workers.static[0].slots",
            "decodes at once",
        ),
        (
            workers("{ id: a, url: \"a:80\", slots: 1 }"),
            3,
            "workers.static[0].url",
            "an `http://` or `https://` URL",
        ),
        (workers("{ id: a, url: \"http://a:80\", slots: 0 }"), 3, "workers.static[0].slots", "from 1 to"),
        (
            workers(&format!("{}|{}", w("a", ""), w("a", ", pool: b, model: b"))),
            4,
            "workers.static[1].id",
            "must differ",
        ),
        (
            workers(&format!("{}|{{ id: b, url: \"http://a:80/\", slots: 1 }}", w("a", ""))),
            4,
            "workers.static[1].url",
            "must differ",
        ),
        (
            workers(&format!("{}|{}", w("a", ""), w("b", ", model: m"))),
            4,
            "workers.static[1].model",
            "must be `*`, like `workers.static[0]` in the same pool `default`",
        ),
        (
            workers(&format!("{}|{}", w("a", ""), w("b", ", pool: p"))),
            4,
            "workers.static[1].pool",
            "must be `default`",
        ),
        (
            workers(&w("a", ", headers: { \"x y\": a }")),
            3,
            "workers.static[0].headers.\"x y\"",
            "not the name of",
        ),
        (workers(&w("a", ", headers: { X-A: a, x-a: b }")), 3, "workers.static[0].headers.x-a", "set twice"),
        (
            workers(&w("a", ", headers: { Transfer-Encoding: a }")),
            3,
            "workers.static[0].headers.Transfer-Encoding",
            "belongs to the connection",
        ),
        (workers(&w("a", ", headers: { x: ä }")), 3, "workers.static[0].headers.x", "visible ASCII"),
        (
            workers(&w("a", "")) + "  active_colour: green",
            4,
            "workers.active_colour",
            "no worker of the pool `default`",
        ),
        (
            workers(&w("a", "")) + "  sticky: { header: a, cookie: b }",
            4,
            "workers.sticky",
            "exactly one of the keys `header`, `cookie` or `body`",
        ),
        (
            workers(&w("a", "")) + "  sticky: { coockie: b }",
            4,
            "workers.sticky.coockie",
            "did you mean `cookie`?",
        ),
        (workers(&w("a", "")) + "  timeouts: { idle: 0s }", 4, "workers.timeouts.idle", "greater than zero"),
        (workers(&w("a", "")) + "  retry: { max: 11 }", 4, "workers.retry.max", "from 0 to 10"),
    ] {
        let faults = faults(&text);
        let [fault] = faults.list.as_slice() else { panic!("{faults}") };
        assert_eq!((fault.field.as_str(), fault.position.unwrap().line), (field, line), "{faults}");
        assert!(faults.to_string().contains(words), "{faults}");
    }
    assert!(read("workers: { static: [] }").is_ok());
    let fixed = "concurrency: { limit: 4 }\nworkers: { static: [{ id: a, url: \"http://a\" }] }";
    assert!(read(fixed).is_ok());
}

#[test]
fn jobs() {
    for (text, field, words) in [
        ("jobs: { per_caller: 5000 }", "jobs.per_caller", "must not exceed `waiting` (4096)"),
        ("jobs: { answers: 25h }", "jobs.answers", "must not be longer than `keep`"),
        ("jobs: { ttl: 0s }", "jobs.ttl", "greater than zero"),
        ("jobs: { attempts: 0 }", "jobs.attempts", "from 1 to 100"),
        ("jobs: { not_before: body }", "jobs.not_before", "`header`"),
        (
            "concurrency: { queue: { version_wait: 0s } }",
            "concurrency.queue.version_wait",
            "greater than zero",
        ),
    ] {
        let faults = faults(&format!("{LEAST}{text}"));
        let [fault] = faults.list.as_slice() else { panic!("{faults}") };
        assert_eq!(fault.field, field, "{faults}");
        assert!(faults.to_string().contains(words), "{faults}");
    }
}

#[test]
fn traffic() {
    let route = |path: &str, kind: &str| format!("routes:\n  - {{ path: {path}, kind: {kind} }}");
    only(
        &format!("{}\n  - {{ path: /a/b, kind: chat }}", route("\"/a/*\"", "chat")),
        3,
        13,
        "routes[1].path",
        "match `routes[0]` too",
    );
    only(
        &route("/v1/models", "chat"),
        2,
        13,
        "routes[0].path",
        "matches `/v1/models`, which has another kind",
    );
    only(&route("\"/v1/*\"", "chat"), 2, 13, "routes[0].path", "`/v1/completions`, which has another kind");
    assert!(read(&format!("{LEAST}{}", route("/v1/responses", "response"))).is_ok());
    only(
        "routes: [{ path: /a, kind: chat, timeouts: { total: 0s } }]",
        1,
        53,
        "routes[0].timeouts.total",
        "greater than zero",
    );
    only("paths: [/a, /a]", 1, 13, "paths[1]", "must differ from `paths[0]`");
    only("cors: { origins: [\"*\", \"https://a\"] }", 1, 18, "cors.origins", "it cannot be combined");
    only("bounds: { body: 1GiB }", 1, 17, "bounds.body", "must not exceed `bounds.buffered` (256MiB)");
    only("bounds: { body: 0 }", 1, 17, "bounds.body", "at least one byte; found 0");
    let own = "must not exceed `bounds.buffered` (256MiB)";
    only("bounds: { bodies: { chat: 1GiB } }", 1, 27, "bounds.bodies.chat", own);
    only("bounds: { bodies: { audio: 0 } }", 1, 28, "bounds.bodies.audio", "at least one byte; found 0");
    only("bounds: { headers: 4KiB }", 1, 20, "bounds.headers", "from `8KiB` to `1MiB`");
    only("bounds: { header_read: 0s }", 1, 24, "bounds.header_read", "greater than zero");
    only("concurrency: { ttft_slo: 0s }", 1, 26, "concurrency.ttft_slo", "greater than zero");
    only(
        "concurrency: { reserve: { critical: 0.5, interactive: 0.5 } }",
        1,
        25,
        "concurrency.reserve",
        "less than 1",
    );
    only(
        "concurrency: { reserve: { batch: 0.5 } }",
        1,
        27,
        "concurrency.reserve.batch",
        "allowed are `critical` or `interactive`",
    );
}

#[test]
fn every_fault_is_reported_at_once_and_nothing_that_only_follows_from_one() {
    let text = "\
listen: nowhere
admin: { listen: \"0.0.0.0:8081\", token: ${NONE} }
limits:
  - { name: a, algorithm: token_bucket, per: all, rate: ten, burst: 0 }
  - { name: b, algorithm: token_bucket, per: all, rate: 1/s }
  - { name: b, algorithm: sliding_window, per: [all, ip], limit: 1, window: 0s }
concurrency: { law: envoy, ttft_slo: 0s }
workers:
  static:
    - { id: w1, url: \"http://a\", slot: 3 }
    - { id: w1, url: \"http://b\" }
    - { url: nothing }
  active_colour: green
callers: { from: [api_key, header], trusted_proxies: [10.0.0.0/99] }
bounds: { body: 1GiB, buffered: 1XB }
";
    // A variable in a flow mapping must be quoted: first the syntax error; once mended, the rest.
    assert!(faults(text).to_string().contains("dam.yaml:2:"));
    let faults = faults(&text.replace("${NONE}", "\"${NONE}\""));
    let found: Vec<(usize, &str)> =
        faults.list.iter().map(|fault| (fault.position.unwrap().line, fault.field.as_str())).collect();
    let expected = [
        (1, "listen"),
        (2, "admin.token"),
        (4, "limits[0].rate"),
        (4, "limits[0].burst"),
        (5, "limits[1].burst"),
        (6, "limits[2].name"),
        (6, "limits[2].per"),
        (6, "limits[2].window"),
        (7, "concurrency.law"),
        (7, "concurrency.ttft_slo"),
        (10, "workers.static[0].slot"),
        (11, "workers.static[1].id"),
        (12, "workers.static[2].id"),
        (12, "workers.static[2].url"),
        (14, "callers.from[1]"),
        (14, "callers.trusted_proxies[0]"),
        (15, "bounds.buffered"),
    ];
    assert_eq!(found, expected, "{faults}");
}

#[test]
fn files_are_opened_from_the_directory_of_the_settings() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dam.yaml");
    std::fs::write(directory.path().join("cert.pem"), "").unwrap();
    std::fs::write(&path, format!("{LEAST}tls:\n  cert: cert.pem\n  key: key.pem\n")).unwrap();
    let faults = load(&path, Overrides::default()).unwrap_err();
    assert_eq!(faults.list.len(), 1, "{faults}");
    assert!(faults.to_string().contains("dam.yaml:4:8: tls.key: must be a readable file"), "{faults}");
    std::fs::write(directory.path().join("key.pem"), "").unwrap();
    let settings = load(&path, Overrides::default()).unwrap();
    assert_eq!(settings.tls.unwrap().cert, directory.path().join("cert.pem"));
}

#[test]
fn files_that_are_no_settings_are_faults_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dam.yaml");
    let fault = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        load(&path, Overrides::default()).unwrap_err().to_string()
    };
    assert!(fault(b"listen: a\nadmin: \xff").contains("dam.yaml:2:8: the file is not valid UTF-8"));
    assert!(fault(&vec![b'#'; (1 << 20) + 1]).contains("larger than 1048576 bytes"));
    assert!(fault(b"").contains("workers.static: is missing"));
    assert!(fault(b"just words").contains("dam.yaml:1:1: must be a mapping"));
    let missing = load(Path::new("/nonexistent/dam.yaml"), Overrides::default()).unwrap_err();
    assert!(missing.to_string().starts_with("/nonexistent/dam.yaml: the file cannot be read: "));
}

#[test]
fn what_lacks_a_unit_or_a_port_is_told_what_would_be_right() {
    for (text, field, words) in [
        (
            "drain: { delay: 5 }",
            "drain.delay",
            "such as `500ms` or `10m`, at most a year; did you mean `5s`?; found 5",
        ),
        ("drain: { delay: 1.5s }", "drain.delay", "did you mean `1500ms`?"),
        ("drain: { delay: 5 sec }", "drain.delay", "did you mean `5s`?"),
        ("bounds: { body: 8MB }", "bounds.body", "did you mean `8MiB`?"),
        ("listen: 8080", "listen", "did you mean `127.0.0.1:8080`?"),
        ("listen: \":8080\"", "listen", "did you mean `0.0.0.0:8080`?"),
        ("listen: 10.0.0.1", "listen", "did you mean `10.0.0.1:8080`?"),
        ("listen: localhost:8080", "listen", "did you mean `127.0.0.1:8080`?"),
    ] {
        let faults = faults(&format!("{LEAST}{text}"));
        let [fault] = faults.list.as_slice() else { panic!("{faults}") };
        assert_eq!(fault.field, field, "{faults}");
        assert!(faults.to_string().contains(words), "{faults}");
    }
    // The value of a variable is never shown.
    let hidden = faults(&format!("{LEAST}drain: {{ delay: \"${{NUMBER}}\" }}")).to_string();
    assert!(!hidden.contains("did you mean"), "{hidden}");
}
