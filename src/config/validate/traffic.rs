//! What passes, and how much of it.

use std::sync::Arc;

use http::HeaderValue;

use super::Distinct;
use super::workers::positive;
use crate::config::file::{self, Cors, File};
use crate::config::place::{At, Report};
use crate::config::settings::{Bounds, Route, Timeouts};
use crate::config::syntax::{Millis, Size, Text};
use crate::request::Kind;

pub(super) fn paths(file: &File, root: &At<'_>, report: &mut Report) -> Vec<Arc<str>> {
    let mut patterns = Distinct::new();
    for (index, pattern) in file.paths.iter().enumerate() {
        patterns.add(pattern.0.clone(), &root.key("paths").index(index), report);
    }
    file.paths.iter().map(|pattern| pattern.0.0.clone()).collect()
}

/// The OpenAI endpoints: a route may set their timeouts, but not make them something else.
const ENDPOINTS: [(&str, Option<Kind>); 5] = [
    ("/v1/chat/completions", Some(Kind::Chat)),
    ("/v1/completions", Some(Kind::Completion)),
    ("/v1/responses", Some(Kind::Response)),
    ("/v1/embeddings", Some(Kind::Embedding)),
    ("/v1/models", None),
];

pub(super) fn routes(file: &File, root: &At<'_>, report: &mut Report) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::with_capacity(file.routes.len());
    for (index, route) in file.routes.iter().enumerate() {
        let at = root.key("routes").index(index);
        let path: &str = &route.path.0.0;
        let kind = Kind::from(route.kind);
        if let Some(earlier) = routes.iter().position(|earlier| overlap(&earlier.path, path)) {
            let earlier = root.key("routes").index(earlier).field().to_owned();
            let problem = format!("some paths match `{earlier}` too: no two routes may match the same path");
            report.fault(&at.key("path"), problem);
        }
        if let Some((endpoint, _)) =
            ENDPOINTS.iter().find(|(endpoint, own)| *own != Some(kind) && overlap(endpoint, path))
        {
            report.fault(&at.key("path"), format!("matches `{endpoint}`, which is a call of another kind"));
        }
        routes.push(Route {
            path: route.path.0.0.clone(),
            kind,
            prompt: route.prompt.as_ref().map(|pointer| pointer.0.0.clone()),
            session: route.session.as_ref().map(|pointer| pointer.0.0.clone()),
            max_tokens: route.max_tokens.as_ref().map(|pointer| pointer.0.0.clone()),
            retry: route.retry,
            timeouts: timeouts(&route.timeouts, &file.workers.timeouts, &at.key("timeouts"), report),
        });
    }
    routes
}

fn timeouts(
    own: &file::RouteTimeouts,
    general: &file::Timeouts,
    at: &At<'_>,
    report: &mut Report,
) -> Timeouts {
    let mut of = |key: &str, own: &Option<Text<Millis>>, general: &Text<Millis>| match own {
        // A general timeout that is wrong is reported where it stands.
        Some(own) if own != general => positive(own.0, &at.key(key), report),
        _ => general.0.get(),
    };
    Timeouts {
        connect: of("connect", &own.connect, &general.connect),
        first_token: of("first_token", &own.first_token, &general.first_token),
        idle: of("idle", &own.idle, &general.idle),
        total: of("total", &own.total, &general.total),
    }
}

/// Whether a text exists that both patterns match; `*` stands for any run of characters.
///
/// Walks both patterns at once: `reached[j]` says whether the first `i` bytes of `a` and the first `j` of `b` can
/// match the same text. Time is the product of the lengths, at most 2¹⁶ steps.
fn overlap(a: &str, b: &str) -> bool {
    let step = |above: Option<&[bool]>, x: Option<u8>| {
        let mut row: Vec<bool> = Vec::with_capacity(b.len() + 1);
        for (j, y) in std::iter::once(None).chain(b.bytes().map(Some)).enumerate() {
            let at = |row: &[bool], index: usize| row.get(index).copied().unwrap_or(false);
            let up = above.is_some_and(|above| at(above, j));
            let left = j > 0 && at(&row, j - 1);
            let across = j > 0 && above.is_some_and(|above| at(above, j - 1));
            let start = x.is_none() && y.is_none();
            // A star takes what the other pattern has, or nothing; two equal bytes go together.
            let by_star = (x == Some(b'*') || y == Some(b'*')) && (up || left);
            row.push(start || by_star || (x.is_some() && x == y && across));
        }
        row
    };
    let first = step(None, None);
    let last = a.bytes().fold(first, |above, x| step(Some(&above), Some(x)));
    last.last().copied().unwrap_or(false)
}

/// What hyper needs to read a head of HTTP/1 at all, in bytes.
const LEAST_HEADERS: u64 = 8 << 10;
const MOST_HEADERS: u64 = 1 << 20;

pub(super) fn bounds(bounds: &file::Bounds, at: &At<'_>, report: &mut Report) -> Bounds {
    for (key, size) in [("body", bounds.body), ("buffered", bounds.buffered)] {
        if size.get() == 0 {
            report.fault(&at.key(key), "must be at least one byte");
        }
    }
    if bounds.body > bounds.buffered && report.is_known(&at.key("buffered")) {
        let problem =
            format!("must not exceed `bounds.buffered` ({}), or the largest never fits", bounds.buffered);
        report.fault(&at.key("body"), problem);
    }
    if !(LEAST_HEADERS..=MOST_HEADERS).contains(&bounds.headers.get()) {
        report.fault(&at.key("headers"), "must be from `8KiB` to `1MiB`");
    }
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let length = |size: Size| count(size.get());
    Bounds {
        body: bounds.body.get(),
        buffered: bounds.buffered.get(),
        body_read: positive(bounds.body_read.0, &at.key("body_read"), report),
        client_stall: positive(bounds.client_stall.0, &at.key("client_stall"), report),
        headers: length(bounds.headers),
        header_read: positive(bounds.header_read.0, &at.key("header_read"), report),
        connections: count(bounds.connections),
        per_ip: (bounds.per_ip > 0).then(|| count(bounds.per_ip)),
        h2_streams: bounds.h2_streams,
    }
}

pub(super) fn origins(cors: &Cors, at: &At<'_>, report: &mut Report) -> Vec<HeaderValue> {
    let at = at.key("origins");
    let mut origins = Distinct::new();
    for (index, origin) in cors.origins.iter().enumerate() {
        origins.add(origin.0.clone(), &at.index(index), report);
    }
    if cors.origins.len() > 1 && cors.origins.iter().any(|origin| origin.0.0 == "*") {
        report.fault(&at, "`*` is all origins: it stands alone");
    }
    cors.origins.iter().filter_map(|origin| HeaderValue::from_str(&origin.0.0).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::overlap;
    use proptest::prelude::*;

    fn matches(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, rest) => rest.is_none(),
            (Some((b'*', rest)), None) => matches(rest, text),
            (Some((b'*', rest)), Some((_, tail))) => matches(rest, text) || matches(pattern, tail),
            (Some((x, rest)), Some((y, tail))) => x == y && matches(rest, tail),
            (Some(_), None) => false,
        }
    }

    #[test]
    fn overlaps() {
        for (a, b, both) in [
            ("/a", "/a", true),
            ("/a", "/b", false),
            ("/a/*", "/a/b", true),
            ("/a/*/c", "/a/b/*", true),
            ("/a/*", "/b/*", false),
            ("/*x", "/*y", false),
            ("/*x*", "/*y*", true),
            ("*", "", true),
        ] {
            assert_eq!((overlap(a, b), overlap(b, a)), (both, both), "{a} {b}");
        }
    }

    proptest! {
        #[test]
        fn an_overlap_is_a_text_that_both_match(a in "[ab*]{0,4}", b in "[ab*]{0,4}") {
            // Patterns this short have a common text of at most the sum of their lengths, if they have one.
            let texts = (0..=8).flat_map(|length| (0..1_u32 << length).map(move |bits| {
                (0..length).map(|bit| if bits >> bit & 1 == 0 { b'a' } else { b'b' }).collect::<Vec<_>>()
            }));
            let common = texts.into_iter().any(|text| matches(a.as_bytes(), &text) && matches(b.as_bytes(), &text));
            prop_assert_eq!(overlap(&a, &b), common, "{} {}", a, b);
        }
    }
}
