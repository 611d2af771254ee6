//! The values of valid files, and what is shown of them.

use std::time::Duration;

use traffic_dam::layers::cost::SessionSource;
use traffic_dam::layers::identify::IdentitySource;
use traffic_dam::layers::prefixes::PrefixShare;
use traffic_dam::limit::rule::{Algorithm, Mode, Per, Quota};
use traffic_dam::openai::body::{MediaUrls, Pointer, Shape};
use traffic_dam::openai::kinds::OptionalKind;
use traffic_dam::redis::jobs::JobLimits;
use traffic_dam::refusal::Unit;
use traffic_dam::request::{Class, Kind};
use traffic_dam::shed::prefix_key;
use traffic_dam::shed::settings::{LimitSource, PrefixSettings};

use super::{LEAST, faults, read, repository, settings};

#[test]
fn the_least_file_has_every_default() {
    let settings = settings(LEAST);
    assert_eq!(
        (settings.listen.to_string(), settings.admin.listen.to_string()),
        ("127.0.0.1:8080".into(), "127.0.0.1:8081".into())
    );
    assert_eq!(settings.admin.hosts, ["127.0.0.1", "localhost"]);
    assert!(settings.tls.is_none() && settings.admin.token.is_none() && settings.admin.read_token.is_none());
    assert_eq!(settings.callers.from, [IdentitySource::ApiKey, IdentitySource::Ip]);
    assert_eq!(settings.callers.key_headers, ["authorization", "x-api-key"]);
    assert!(settings.callers.forward_authorization && settings.callers.anonymous);
    assert!(settings.rules.is_empty() && settings.paths.is_empty() && settings.routes.is_empty());
    assert_eq!(
        (settings.gate.limit, settings.gate.gateways, settings.gate.queue_length),
        (LimitSource::Adaptive, 1, 256)
    );
    assert_eq!(settings.gate.queue_wait, Duration::from_millis(250));
    assert_eq!((settings.gate.queue_bytes, settings.gate.wait_no_worker), (64 << 20, Duration::ZERO));
    assert_eq!((settings.version_wait, settings.answer_headers.worker), (Duration::from_secs(10), false));
    assert_eq!(settings.job_limits, JobLimits::default());
    let [worker] = settings.workers.as_slice() else { panic!("{settings:?}") };
    assert_eq!(
        (&*worker.pool, &*worker.model, &*worker.colour, worker.slots),
        ("default", "*", "blue", Some(8))
    );
    assert_eq!(settings.sticky, SessionSource::Header("x-session-id".parse().unwrap()));
    assert_eq!(
        (settings.timeouts.connect, settings.timeouts.total),
        (Duration::from_secs(1), Duration::from_secs(600))
    );
    assert_eq!(
        (settings.bounds.body, settings.bounds.listener.headers, settings.bounds.listener.per_ip),
        (8 << 20, 32 << 10, 0)
    );
    assert_eq!(
        (settings.drain.delay, settings.drain.timeout),
        (Duration::from_secs(5), Duration::from_secs(60))
    );
    assert_eq!((settings.retry.max, settings.retry.budget, settings.log_sample), (1, 0.1, 1.0));
}

#[test]
fn the_full_example_comes_to_what_it_says() {
    let settings = settings(&repository("examples/full.yaml"));
    let [burst, minute, signup, whole] = settings.rules.as_slice() else { panic!("{settings:?}") };
    assert_eq!(burst.quota, Quota { limit: 10, period: Duration::from_secs(1), burst: 20 });
    assert_eq!(
        (minute.algorithm, minute.unit, minute.reserve_max),
        (Algorithm::SlidingWindow, Unit::Tokens, true)
    );
    assert_eq!(minute.quota, Quota { limit: 60_000, period: Duration::from_secs(60), burst: 60_000 });
    assert_eq!((&*signup.per, signup.unit), ([Per::Ip, Per::Route].as_slice(), Unit::Requests));
    assert_eq!(
        (whole.mode, whole.matches.class, whole.matches.model.as_deref()),
        (Mode::Observe, Some(Class::Batch), Some("gpt-*"))
    );
    assert_eq!(settings.gate.reserve, [0.0, 0.2, 0.1]);
    assert_eq!(settings.callers.from[1], IdentitySource::Header("x-user-id".parse().unwrap()));
    let rights: Vec<_> = settings.callers.keys.iter().map(|key| &key.rights).collect();
    assert_eq!((rights[0].class, rights[0].weight), (Some(Class::Critical), 2));
    assert_eq!(settings.workers[0].headers["authorization"], "Bearer s3cret-worker");
    assert!(settings.workers[0].headers["authorization"].is_sensitive());
    assert_eq!(settings.workers[1].url.path(), "/base");
    let provider = settings.workers[3].external.unwrap();
    let per_minute = |limit| Some(Quota { limit, period: Duration::from_secs(60), burst: limit });
    assert_eq!((provider.requests, provider.tokens), (per_minute(500), per_minute(200_000)));
    assert!(rights[0].external && !rights[1].external);
    assert!(settings.admin.token.unwrap().is(b"s3cret-admin"));
    let route = &settings.routes[0];
    let pointer = |text| Some(Pointer::parse(text).unwrap());
    let shape = Shape::route(Kind::Chat, pointer("/messages"), pointer("/limit"));
    assert_eq!((&route.shape, route.retry), (&shape.with_session(pointer("/session_id")), true));
    assert_eq!(
        (route.timeouts.connect, route.timeouts.total),
        (Some(Duration::from_millis(500)), Some(Duration::from_secs(300)))
    );
    assert_eq!(settings.bounds.listener.per_ip, 100);
    assert_eq!((settings.kinds.len(), settings.kinds[2]), (6, OptionalKind::Rerank));
    assert_eq!(settings.media_urls, MediaUrls::Domains(["images.example.com".into()].into()));
    assert_eq!((settings.bytes_per_token, settings.bounds.held), (400, 64 << 10));
    assert_eq!(settings.models[0].image_tokens, Some(1024));
    assert_eq!(settings.gate.prefix.map(|prefix| prefix.capacity), Some(Some(131_072)));
    assert_eq!(settings.prefix.key, Some(prefix_key("s3cret-prefix")));
    let [tokenizer, alias, shares] = settings.models.as_slice() else { panic!("{:?}", settings.models) };
    assert!(tokenizer.tokenizer.is_some() && tokenizer.names.serve.is_empty());
    assert_eq!((&*alias.names.serve[0].model, alias.tokenizer.is_none()), ("qwen3-14b", true));
    let weights: Vec<_> = shares.names.serve.iter().map(|share| (&*share.model, share.weight)).collect();
    assert_eq!(weights, [("qwen3-14b", 9), ("qwen3-32b", 1)]);
    let [fallback] = shares.names.fallback.as_slice() else { panic!("{shares:?}") };
    assert_eq!((&*fallback.model, fallback.on.len(), fallback.share), ("remote-mini", 3, 0.2));
    let models = rights[0].models.as_ref().unwrap();
    assert!(models.allows(Some("qwen3-14b")) && !models.allows(Some("remote-mini")));
    assert!(rights[1].models.is_none());
    let shown = rights[0].answer_headers.unwrap();
    assert!(shown.model && !shown.worker && settings.answer_headers.worker);
}

#[test]
fn prefixes_are_used_unless_switched_off_and_hashed_with_the_most_specific_key() {
    let plain = settings(LEAST);
    assert_eq!((plain.gate.prefix, plain.prefix.key), (Some(PrefixSettings { capacity: None }), None));
    assert_eq!(plain.prefix.share, PrefixShare::Team);
    let off = settings(&format!("{LEAST}concurrency: {{ prefix: off }}"));
    assert_eq!(off.gate.prefix, None);
    let queue = settings("workers: { mode: queue }");
    assert_eq!(queue.gate.prefix, None, "nobody chooses who takes from a queue");
    let signed = settings(&format!("{LEAST}redis: {{ hmac_key: a }}\nprefix: {{ share: all }}"));
    assert_eq!((signed.prefix.key, signed.prefix.share), (Some(prefix_key("a")), PrefixShare::All));
    let turned = settings(&format!("{LEAST}redis: {{ hmac_key: a b }}"));
    assert_eq!(turned.prefix.key, Some(prefix_key("a")), "the key that signs");
    let own = settings(&format!("{LEAST}redis: {{ hmac_key: a }}\nprefix: {{ key: b, share: caller }}"));
    assert_eq!((own.prefix.key, own.prefix.share), (Some(prefix_key("b")), PrefixShare::Caller));
    assert!(!format!("{own:?}").contains("key: Some([") && !own.effective().contains("key: b"));
}

#[test]
fn several_gateways_without_a_common_key_for_prefixes_are_warned_of() {
    let warned = |more: &str| {
        let two = "workers: { static: [{ id: a, url: \"http://a\" }, { id: b, url: \"http://b\" }] }\n";
        let warnings = settings(&format!("{two}{more}")).warnings();
        warnings.into_iter().map(|warning| warning.field).collect::<Vec<_>>()
    };
    assert_eq!(warned("gateways: 2"), ["prefix.key"]);
    for more in ["", "gateways: 2\nprefix: { key: a }", "gateways: 2\nconcurrency: { prefix: off }"] {
        assert_eq!(warned(more), [""; 0], "{more}");
    }
    assert!(settings(&format!("{LEAST}gateways: 2")).warnings().is_empty(), "one worker");
}

#[test]
fn defaults_follow_the_settings_that_they_depend_on() {
    let settings = settings(&format!(
        "{LEAST}admin: {{ listen: \"[::1]:9\", token: t }}\nconcurrency: {{ ttft_slo: 2s, limit: \"${{NUMBER}}\" }}\n\
         callers: {{ default_class: batch, keys: [{{ id: a, sha256: \"{}\" }}] }}\n\
         routes: [{{ path: /a, kind: embedding, timeouts: {{ idle: 3s }} }}]\n",
        "0f".repeat(32)
    ));
    assert_eq!(settings.admin.hosts, ["::1", "localhost"]);
    assert_eq!(settings.admin.read_token, settings.admin.token);
    assert_eq!(
        (settings.gate.queue_wait, settings.gate.limit),
        (Duration::from_millis(500), LimitSource::Fixed(12))
    );
    assert_eq!(settings.callers.keys[0].rights.class, Some(Class::Batch));
    assert!(!settings.callers.forward_authorization);
    assert_eq!(settings.kinds, [OptionalKind::Messages, OptionalKind::Count]);
    let timeouts = settings.routes[0].timeouts;
    assert_eq!(
        (timeouts.idle, timeouts.total),
        (Some(Duration::from_secs(3)), Some(Duration::from_secs(600)))
    );
}

#[test]
fn a_variable_is_text_where_text_is_asked_for() {
    let settings = settings(
        "admin: { token: \"${NULL}\" }\nworkers: { static: [{ id: \"${NUMBER}\", url: \"http://h:80${NUMBER}\", slots: \"${NUMBER}\" }] }",
    );
    let worker = &settings.workers[0];
    assert_eq!((&*worker.id, worker.slots, worker.url.port_u16()), ("12", Some(12), Some(8012)));
    assert!(settings.admin.token.is_some_and(|token| token.is(b"null")));
}

#[test]
fn the_effective_settings_have_the_same_effect() {
    let rich = format!(
        "{LEAST}{}",
        "limits: [{ name: a, algorithm: token_bucket, per: [ip, route], rate: 1/m, burst: 3, match: { path: \"/*\" } }]\n\
         callers: { from: [{ header: x-a }], trusted_proxies: [\"::1\"], anonymous: allow }\n\
         paths: [\"/a$${b\", \"/true\"]\nroutes: [{ path: /c, kind: response }]\ncors: { origins: [\"*\"] }\n"
    );
    for text in [LEAST, &rich, "workers: { static: [], sticky: { body: /a~1b } }"] {
        let first = settings(text);
        let again =
            read(&first.effective()).unwrap_or_else(|faults| panic!("{faults}\n{}", first.effective()));
        // The listing has every section, and `redis` too, which only a warning asks about.
        let first_again = format!("{first:?}").replace("redis_in_file: false", "redis_in_file: true");
        assert_eq!(first_again, format!("{again:?}"), "{}", first.effective());
    }
}

#[test]
fn the_effective_settings_show_every_key() {
    let text = settings(LEAST).effective();
    for line in [
        "listen: \"127.0.0.1:8080\"",
        "# tls: not set",
        "  # token: not set",
        "  hosts: [127.0.0.1, localhost]",
        "limits: []",
        "    wait: 250ms",
        "    - id: w1",
        "      headers: {}",
        "  body: 8MiB",
        "  sample: 1.0",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
    }
}

#[test]
fn no_secret_is_ever_shown() {
    let text = repository("examples/full.yaml");
    let settings = settings(&text);
    let shown = format!("{}\n{settings:?}\n{settings:#?}", settings.effective());
    assert_eq!(settings.effective().matches("<redacted>").count(), 11, "{}", settings.effective());
    for secret in ["s3cret", "2c26b46b", "fcde2b2e", "Bearer"] {
        assert!(!shown.contains(secret), "{secret} in\n{shown}");
    }
    // Secrets in the right place in wrong files, in the wrong place, in URLs and in variables.
    for misplaced in [
        "redis: { url: \"redis://u:s3cret@h:99999\" }",
        "redis: { url: \"http://u:s3cret@h\" }",
        "redis: { url: \"redis://h\", hmac_key: \"s3cret\\u0001\" }",
        "admin: { token: [s3cret] }",
        "admin: s3cret",
        "admin: { token: \"s3cret\\u0001\" }",
        "admin: { tokn: s3cret }",
        "callers: { keys: [s3cret] }",
        "callers: { keys: [{ id: a, sha256: s3cret }] }",
        "listen: http://user:s3cret@host",
        "listen: http://host/?key=s3cret",
        "cors: { origins: [\"https://user:s3cret@host\"] }",
        "listen: \"${WORKER_KEY}\"",
        "gateways: \"${WORKER_KEY}\"",
        "tls: { cert: \"${WORKER_KEY}\", key: 1 }",
        "workers: { static: [{ id: a, url: \"http://u:s3cret@h\", slots: 1, headers: { a: \"s3cret\\n\", b: [s3cret] } }] }",
    ] {
        let faults =
            faults(&format!("{}{misplaced}", if misplaced.starts_with("workers") { "" } else { LEAST }));
        assert!(!format!("{faults} {faults:?}").contains("s3cret"), "{faults}");
    }
}

fn warned(text: &str) -> Vec<String> {
    let least = if text.ends_with("# b") { LEAST.replace("slots: 8", "model: b") } else { LEAST.to_owned() };
    let warnings = read(&format!("{least}{text}")).unwrap().warnings();
    warnings.into_iter().map(|warning| warning.to_string()).collect()
}

#[test]
fn settings_that_are_probably_not_meant_are_warned_of() {
    let key =
        "keys: [{ id: a, sha256: \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\" }]";
    let tokens =
        |more: &str| format!("limits: [{{ name: t, per: caller, unit: tokens, {more} }}]", more = more);
    let window = "algorithm: sliding_window, window: 1m, limit";
    // The only worker of `LEAST` serves everything: here one serves `b`.
    let served = |more: &str| format!("models: [{{ model: a, {more} }}, {{ model: alias, serve: b }}]\n# b");
    for (text, field) in [
        ("concurrency: { ttft_slo: 1s, queue: { wait: 1s } }".to_owned(), "concurrency.queue.wait: `1s`"),
        (
            format!("callers: {{ anonymous: allow, {key} }}"),
            "callers.anonymous: `allow` together with `callers.keys`",
        ),
        (tokens(&format!("{window}: 256")), "limits[0].limit: `256` tokens are not enough"),
        (
            tokens("algorithm: token_bucket, rate: 1000/m, burst: 100"),
            "limits[0].burst: `100` tokens are not enough",
        ),
        ("redis: { url: \"redis://h\" }".to_owned(), "redis: is set but not used"),
        ("redis: { url: \"redis://127.0.0.1:6379\" }".to_owned(), "redis: is set but not used"),
        ("redis: {}".to_owned(), "redis: is set but not used"),
        ("redis: { hmac_key: k }\nprefix: { key: p }".to_owned(), "redis: is set but not used"),
        (tokens(&format!("{window}: 257")) + "\ngateways: 3", "state: `memory` counts"),
        (
            served("serve: [{ model: x }, { model: b }]"),
            "models[0].serve[0].model: no worker of `workers.static` serves `x`",
        ),
        (served("serve: x"), "models[0].serve: no worker"),
        (served("serve: b, fallback: [{ model: x }]"), "models[0].fallback[0].model: no worker"),
    ] {
        let warned = warned(&text);
        assert!(warned.len() == 1 && warned[0].starts_with(field), "{text}: {warned:?}");
        assert!(!warned[0].contains("too large"), "such a request is served: {warned:?}");
    }
    for text in [
        String::new(),
        "concurrency: { ttft_slo: 1s, queue: { wait: 999ms } }".to_owned(),
        format!("callers: {{ anonymous: refuse, {key} }}"),
        "callers: { anonymous: allow }".to_owned(),
        tokens(&format!("{window}: 257")),
        tokens(&format!("{window}: 100, reserve: max")),
        "redis: { url: \"redis://h\" }\nstate: redis".to_owned(),
        tokens(&format!("{window}: 257")) + "\ngateways: 3\nstate: redis",
        "gateways: 3".to_owned(),
        "redis: { hmac_key: k }".to_owned(),
        served("serve: b, fallback: [{ model: alias }]"),
        "models: [{ model: a, serve: x, fallback: [{ model: y }] }]".to_owned(),
    ] {
        assert_eq!(warned(&text), [""; 0], "{text}");
    }
}
