use super::*;
use http::HeaderValue;

const SECRET: &str = "sk-one";

fn callers(change: impl FnOnce(&mut CallerSettings)) -> KnownCallers {
    let mut settings = CallerSettings {
        forward_authorization: false,
        trusted_proxies: vec!["10.0.0.0/8".parse().expect("a network")],
        keys: vec![KeyOwner {
            id: "team-a".into(),
            sha256: Sha256::digest(SECRET).into(),
            rights: CallerRights { weight: 2, ..CallerRights::default() },
        }],
        ..CallerSettings::default()
    };
    change(&mut settings);
    KnownCallers::new(settings)
}

fn ask(
    callers: &KnownCallers,
    from: &str,
    headers: &[(&str, &str)],
) -> Result<(Caller, Forwarding), Refusal> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            name.parse::<HeaderName>().expect("a header name"),
            HeaderValue::from_str(value).expect("a header value"),
        );
    }
    let addr = (from.parse::<IpAddr>().expect("an address"), 1).into();
    callers.identify(&map, Peer { addr, tls: false })
}

fn id(answer: Result<(Caller, Forwarding), Refusal>) -> String {
    answer.map(|(caller, _)| caller.id.to_string()).unwrap_or_else(|refusal| refusal.reason.to_string())
}

#[test]
fn a_known_key_is_its_owner_and_never_goes_on() {
    let callers = callers(|_| {});
    for (name, value) in [("authorization", "Bearer sk-one"), ("x-api-key", SECRET)] {
        let (caller, forwarding) = ask(&callers, "192.0.2.1", &[(name, value)]).expect("known");
        assert_eq!((&*caller.id, caller.weight), ("key:team-a", 2));
        assert!(forwarding.strip.iter().any(|header| header == name));
    }
}

#[test]
fn no_line_or_field_with_a_known_key_goes_on() {
    let callers = callers(|settings| {
        settings.forward_authorization = true;
        settings.keys.push(KeyOwner {
            id: "team-b".into(),
            sha256: Sha256::digest("sk-b").into(),
            rights: CallerRights::default(),
        });
    });
    for (headers, strip) in [
        (
            &[("authorization", "Bearer sk-one"), ("x-api-key", "sk-b")][..],
            &["authorization", "x-api-key"][..],
        ),
        (&[("authorization", "Bearer other"), ("authorization", "Bearer sk-b")], &["authorization"]),
        (&[("x-api-key", "foreign"), ("x-api-key", "sk-b")], &["x-api-key"]),
        (&[("authorization", "Bearer other"), ("api-key", "sk-b")], &["api-key"]),
        (&[("authorization", "Token sk-b"), ("x-mine", "sk-one")], &["authorization", "x-mine"]),
        (&[("authorization", "Bearer other"), ("x-api-key", "foreign"), ("cookie", "a=b")], &[]),
    ] {
        let (_, forwarding) = ask(&callers, "192.0.2.1", headers).expect("anyone may call");
        let mut stripped: Vec<_> = forwarding.strip.iter().map(HeaderName::as_str).collect();
        stripped.sort_unstable();
        assert_eq!(stripped, strip, "{headers:?}");
    }
}

#[test]
fn without_forwarding_a_known_key_goes_on_in_no_other_field() {
    let (_, forwarding) =
        ask(&callers(|_| {}), "192.0.2.1", &[("api-key", SECRET)]).expect("anyone may call");
    assert!(forwarding.strip.iter().any(|header| header == "api-key"), "{forwarding:?}");
}

#[test]
fn invented_keys_share_their_address() {
    let callers = callers(|_| {});
    assert_eq!(id(ask(&callers, "192.0.2.1", &[("authorization", "Bearer sk-two")])), "ip:192.0.2.1");
    assert_eq!(id(ask(&callers, "2001:db8:1:2:3::4", &[])), "ip:2001:db8:1:2::/64");
    assert_eq!(id(ask(&callers, "::ffff:192.0.2.1", &[])), "ip:192.0.2.1");
}

#[test]
fn without_anonymous_callers_a_key_is_needed() {
    let callers = callers(|settings| settings.anonymous = false);
    assert_eq!(id(ask(&callers, "192.0.2.1", &[])), "unauthorized");
    let refusal = ask(&callers, "192.0.2.1", &[("x-api-key", "sk-two")]).expect_err("unknown");
    assert!(refusal.message.contains("x-api-key") && !refusal.message.contains("sk-two"), "{refusal}");
}

#[test]
fn an_empty_secret_is_no_key_even_if_its_digest_is_configured() {
    let callers = callers(|settings| {
        settings.anonymous = false;
        settings.keys[0].sha256 = Sha256::digest("").into();
    });
    for (name, value) in
        [("x-api-key", ""), ("authorization", ""), ("authorization", "Bearer"), ("authorization", "Bearer  ")]
    {
        let refusal = ask(&callers, "192.0.2.1", &[(name, value)]).expect_err("no key");
        assert_eq!(refusal.reason, Reason::Unauthorized);
        assert!(refusal.message.starts_with("No API key was given"), "{name}: {value:?}: {refusal}");
    }
}

#[test]
fn only_a_trusted_proxy_speaks_for_others() {
    let callers = callers(|settings| {
        settings.from =
            vec![IdentitySource::Header(HeaderName::from_static("x-user-id")), IdentitySource::Ip];
    });
    let forged = [("x-user-id", "root"), ("x-forwarded-for", "198.51.100.7")];
    assert_eq!(id(ask(&callers, "192.0.2.1", &forged)), "ip:192.0.2.1");
    assert_eq!(id(ask(&callers, "10.1.1.1", &forged)), "hdr:root");
    // The last hop that is not a trusted proxy; untrusted senders wrote the hops before it.
    let hops = [("x-forwarded-for", "203.0.113.9, 198.51.100.7"), ("x-forwarded-for", "10.2.2.2")];
    assert_eq!(id(ask(&callers, "10.1.1.1", &hops)), "ip:198.51.100.7");
}

#[test]
fn a_request_may_lower_its_class_but_not_raise_it() {
    let callers = callers(|_| {});
    let class = |name| {
        ask(&callers, "192.0.2.1", &[("x-api-key", SECRET), ("x-traffic-dam-class", name)])
            .map(|(caller, _)| caller.class)
            .map_err(|refusal| refusal.reason)
    };
    assert_eq!(class("batch"), Ok(Class::Batch));
    assert_eq!(class("critical"), Ok(Class::Interactive));
    assert_eq!(class("urgent"), Err(Reason::BadRequest));
}

#[test]
fn a_hop_counts_however_it_is_written_and_whatever_stands_before_it() {
    let callers = callers(|settings| settings.from = vec![IdentitySource::Ip]);
    for (lines, client) in [
        (&["198.51.100.7:4711"][..], "ip:198.51.100.7"),
        (&["[2001:db8:1:2::5]:443"], "ip:2001:db8:1:2::/64"),
        (&["[2001:db8:1:2::5]"], "ip:2001:db8:1:2::/64"),
        (&["2001:db8:1:2::5"], "ip:2001:db8:1:2::/64"),
        (&["\"[2001:db8:1:2::5]:443\""], "ip:2001:db8:1:2::/64"),
        (&["fe80::1%eth0"], "ip:fe80::/64"),
        (&["[::ffff:198.51.100.7]:80"], "ip:198.51.100.7"),
        (&["\u{ff}, 198.51.100.7"], "ip:198.51.100.7"),
        (&["\u{ff}", "198.51.100.7:1"], "ip:198.51.100.7"),
        (&["203.0.113.9, 198.51.100.7:80, 10.2.2.2:80"], "ip:198.51.100.7"),
        (&["198.51.100.7, , 10.2.2.2,"], "ip:198.51.100.7"),
        // These hops cannot be parsed: the client's address is the proxy's own.
        (&["198.51.100.7, unknown"], "ip:10.1.1.1"),
        (&["198.51.100.7:http"], "ip:10.1.1.1"),
        (&["[198.51.100.7"], "ip:10.1.1.1"),
        (&["2001:db8::5]:443"], "ip:10.1.1.1"),
    ] {
        let mut headers = HeaderMap::new();
        for line in lines {
            let bytes: Vec<u8> = line.chars().map(|letter| letter as u8).collect();
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(&bytes).expect("a header value"));
        }
        let addr = ([10, 1, 1, 1], 1).into();
        assert_eq!(id(callers.identify(&headers, Peer { addr, tls: false })), client, "{lines:?}");
    }
}

#[test]
fn a_token_is_known_by_an_object_in_its_head_however_it_is_written() {
    let token = |head: &str| format!("{}.e30.c2ln", LENIENT.encode(head));
    for head in
        ["{\"alg\":\"ES256\"}", "{ \"alg\" : \"ES256\" }", "{\n  \"a\": 1\n}", "{\r\n\t}", " {}", "\n{}"]
    {
        assert!(looks_like_a_token(token(head).as_bytes()), "{head}");
    }
    for secret in [
        token("[]"),
        token(""),
        token("x{"),
        "sk-a.b.c".into(),
        "eyJhIjoxfQ.e30.c2ln.x".into(),
        "eyJhIjoxfQ.e30".into(),
        "..".into(),
    ] {
        assert!(!looks_like_a_token(secret.as_bytes()), "{secret}");
    }
}
