//! Where a worker's redirects lead.
//!
//! Frameworks make them of the host that they are asked by, which is the worker's own address: nothing that a client could
//! or should reach.

use http::header::{CONTENT_LOCATION, HeaderMap, HeaderValue, LOCATION};

/// Has redirects of a worker to itself lead to where its client asked: by a path, without the worker's own address and
/// the `prefix` of its URL.
pub(crate) fn relocate(headers: &mut HeaderMap, authority: &HeaderValue, prefix: &str) {
    let Ok(authority) = authority.to_str() else { return };
    for name in [LOCATION, CONTENT_LOCATION] {
        let told = headers.get(&name).and_then(|value| value.to_str().ok());
        let path = told.and_then(|told| own_path(told, authority, prefix));
        if let Some(path) = path.and_then(|path| HeaderValue::try_from(path).ok()) {
            headers.insert(name, path);
        }
    }
}

/// The path that a reference leads to, if it is on the worker's own address.
fn own_path(reference: &str, authority: &str, prefix: &str) -> Option<String> {
    let after = |scheme: &str| {
        let (start, rest) = reference.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let target = match after("http://").or_else(|| after("https://")).or_else(|| after("//")) {
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
    // Two slashes at the beginning would name a host.
    Some(format!("/{}", below.unwrap_or(target).trim_start_matches(['/', '\\'])))
}

/// Whether two authorities are the same, a port that goes without saying left out.
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
}
