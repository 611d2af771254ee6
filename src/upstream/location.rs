//! Rewriting of a worker's redirects.
//!
//! Frameworks build redirects from the host they are asked by. That is the worker's own address,
//! which clients neither can nor should reach.

use http::header::{CONTENT_LOCATION, Entry, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, REFRESH};

/// Rewrites URLs of the worker itself to paths at the gateway, without the worker's own address and
/// the `prefix` of its URL.
pub(crate) fn relocate(headers: &mut HeaderMap, authority: &HeaderValue, prefix: &str) {
    // Nearly no response has one of these fields.
    let concerned = |name: &HeaderName| [LOCATION, CONTENT_LOCATION, REFRESH, LINK].contains(name);
    let Ok(authority) = authority.to_str() else { return };
    if !headers.keys().any(concerned) {
        return;
    }
    let path = |reference: &str| own_path(reference, authority, prefix);
    for name in [LOCATION, CONTENT_LOCATION] {
        rewrite(headers, name, path);
    }
    rewrite(headers, REFRESH, |value| refresh(value, path));
    rewrite(headers, LINK, |value| links(value, path));
}

/// Replaces each line of the field `name` by what `change` returns, if anything.
fn rewrite(headers: &mut HeaderMap, name: HeaderName, change: impl Fn(&str) -> Option<String>) {
    let Entry::Occupied(mut lines) = headers.entry(name) else { return };
    for line in lines.iter_mut() {
        let changed = line.to_str().ok().and_then(&change);
        if let Some(changed) = changed.and_then(|changed| HeaderValue::try_from(changed).ok()) {
            *line = changed;
        }
    }
}

/// Rewrites `Refresh`, a redirect after some seconds: `3; url=http://10.0.0.5:8000/a`.
fn refresh(value: &str, path: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (before, reference) = value.split_once('=')?;
    Some(format!("{before}={}", path(reference.trim().trim_matches(['"', '\'']))?))
}

/// Rewrites `WorkerConnection`, such as to a next page: `<http://10.0.0.5:8000/a?page=2>; rel="next", <…>`.
fn links(value: &str, path: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (mut text, mut rest, mut changed) = (String::with_capacity(value.len()), value, false);
    while let Some((before, (reference, behind))) =
        rest.split_once('<').and_then(|(before, after)| Some((before, after.split_once('>')?)))
    {
        let own = path(reference);
        changed |= own.is_some();
        for part in [before, "<", own.as_deref().unwrap_or(reference), ">"] {
            text.push_str(part);
        }
        rest = behind;
    }
    changed.then(|| text + rest)
}

/// Returns the path of a reference that is on the worker's own address.
fn own_path(reference: &str, authority: &str, prefix: &str) -> Option<String> {
    let after = |scheme: &str| {
        let (start, rest) = reference.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let schemes = ["http://", "https://", "ws://", "wss://", "//"];
    let target = match schemes.into_iter().find_map(after) {
        Some(rest) => {
            let (host, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            if !is_same_host(host, authority) {
                return None;
            }
            target
        }
        None if reference.starts_with('/') && !prefix.is_empty() => reference,
        None => return None,
    };
    let below =
        target.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
    // Two leading slashes would name a host.
    Some(format!("/{}", below.unwrap_or(target).trim_start_matches(['/', '\\'])))
}

/// Returns `true` if two authorities are equal, default ports ignored.
fn is_same_host(one: &str, other: &str) -> bool {
    let bare = |text: &str| {
        let port = text.strip_suffix(":80").or_else(|| text.strip_suffix(":443"));
        port.unwrap_or(text).to_ascii_lowercase()
    };
    bare(one) == bare(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_to_the_worker_itself_is_one_to_where_the_client_asked() {
        let host = "10.0.0.5:8000";
        for (told, prefix, path) in [
            ("http://10.0.0.5:8000/api/items/?a=b", "", Some("/api/items/?a=b")),
            ("HTTPS://10.0.0.5:8000/a", "", Some("/a")),
            ("//10.0.0.5:8000/a", "", Some("/a")),
            ("ws://10.0.0.5:8000/a", "", Some("/a")),
            ("http://u:p@10.0.0.5:8000", "", Some("/")),
            ("http://10.0.0.5:8000?a", "", Some("/?a")),
            ("http://10.0.0.5:8000/base/a", "/base", Some("/a")),
            ("http://10.0.0.5:8000/based", "/base", Some("/based")),
            ("/base/a", "/base", Some("/a")),
            ("http://10.0.0.5:8000//evil.example/", "", Some("/evil.example/")),
            ("/a", "", None),
            ("a/b", "/base", None),
            ("http://elsewhere.example/a", "", None),
            ("http://10.0.0.5:8001/a", "", None),
        ] {
            assert_eq!(own_path(told, host, prefix).as_deref(), path, "{told} {prefix}");
        }
        assert_eq!(own_path("http://W.example:80/a", "w.example", "").as_deref(), Some("/a"));
    }

    #[test]
    fn every_field_that_leads_somewhere_leads_past_the_worker() {
        for (name, told, right) in [
            (LOCATION, "http://10.0.0.5:8000/a", "/a"),
            (CONTENT_LOCATION, "http://10.0.0.5:8000/a", "/a"),
            (REFRESH, "3; url=http://10.0.0.5:8000/a?b=c", "3; url=/a?b=c"),
            (REFRESH, "0;URL='http://10.0.0.5:8000/a'", "0;URL=/a"),
            (REFRESH, "5", "5"),
            (REFRESH, "5; url=https://elsewhere.example/", "5; url=https://elsewhere.example/"),
            (
                LINK,
                "<http://10.0.0.5:8000/a?p=2>; rel=\"next\", <https://elsewhere.example/>; rel=help, </b>",
                "</a?p=2>; rel=\"next\", <https://elsewhere.example/>; rel=help, </b>",
            ),
            (LINK, "<http://10.0.0.5:8000/a", "<http://10.0.0.5:8000/a"),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(name.clone(), HeaderValue::from_static("https://first.example"));
            headers.append(name.clone(), HeaderValue::from_static(told));
            relocate(&mut headers, &HeaderValue::from_static("10.0.0.5:8000"), "");
            let lines: Vec<_> = headers.get_all(&name).iter().collect();
            assert_eq!(lines, ["https://first.example", right], "{name}");
        }
    }
}
