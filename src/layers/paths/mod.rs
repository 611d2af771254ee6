//! The paths that the gateway lets through, and the kind of call of each.
//!
//! The list is closed: an engine's `/pause` or `/update_weights` must never become public because
//! the gateway forwards unknown paths. Matching is on the decoded path. A path that a worker could
//! read differently (dot segments, an escaped slash, empty segments) is refused.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderName, Method};
use percent_encoding::percent_decode_str;

use crate::glob::Glob;
use crate::openai::body::{MediaUrls, Pointer, Shape};
use crate::openai::dialect::Dialect;
use crate::openai::kinds::{self, KindRow, OptionalKind};
use crate::refusal::{Reason, Refusal};
use crate::request::{Kind, RouteTimeouts};

/// A chatbot API's own endpoint, treated as one of the kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSettings {
    /// The path, decoded, or a pattern for paths: `*` stands for any run of characters.
    pub path: Arc<str>,
    /// Where the body has the fields that the cost depends on.
    pub shape: Shape,
    /// `true` if a request that a worker may have begun can be sent again.
    pub retry: bool,
    /// Timeouts that differ from the general ones.
    pub timeouts: RouteTimeouts,
}

/// Pattern and metric label of the paths of jobs.
pub(super) const JOBS: &str = "/v1/jobs/*";

/// Path prefix of a response; its id follows.
pub(super) const RESPONSE: &str = "/v1/responses/";

/// Path of the health check, which the gateway answers unless the settings let it through to workers.
pub(super) const HEALTH: &str = "/health";

/// Path of the list of models.
pub(super) const MODELS: &str = "/v1/models";
/// Path prefix of a single model; its name follows.
pub(crate) const MODEL: &str = "/v1/models/";

/// Field by which a client of Anthropic's API is known on a path that both APIs have.
pub(super) const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// Returns `true` for the path of the list of models, or of one model.
pub(super) fn is_of_models(raw_path: &str) -> bool {
    raw_path == MODELS || raw_path.starts_with(MODEL)
}

/// The result of matching a request's method and path.
#[derive(Clone, Debug)]
pub(crate) struct Matched {
    /// Metric label and key of `per: route`: an endpoint's path, or the configured pattern.
    pub label: Arc<str>,
    /// The decoded path; `None` if the path was sent without escapes.
    pub decoded: Option<Arc<str>>,
    /// The kind of call.
    pub kind: Kind,
    /// Where the body has the fields that the cost depends on; `None` if the body is not read.
    pub shape: Option<Arc<Shape>>,
    /// `true` if a request that a worker may have begun can be sent again.
    pub retryable: bool,
    /// Timeouts of the route, if they differ from the general ones.
    pub timeouts: Option<RouteTimeouts>,
    /// In whose words the client is told of quotas and errors.
    pub dialect: Dialect,
}

/// The paths that are let through.
#[derive(Debug)]
pub(crate) struct Paths {
    endpoints: Vec<(Method, Glob, Matched)>,
    patterns: Vec<Glob>,
    /// Where bodies of the kinds' own endpoints name their session.
    session: Option<Pointer>,
    /// `true` if a route's path may be in another dialect than its look says.
    routes_have_dialects: bool,
}

impl Paths {
    /// Lets through the endpoints of the kinds that are always served, a chatbot's own `routes`, and
    /// `patterns` of other paths (`*` is any run of characters). `session` is where the bodies of
    /// the kinds' own endpoints name their session.
    #[must_use]
    pub(crate) fn new(routes: &[RouteSettings], patterns: Vec<Arc<str>>, session: Option<&Pointer>) -> Self {
        let mut paths = Self {
            endpoints: Vec::new(),
            patterns: patterns.into_iter().map(Glob::new).collect(),
            session: session.cloned(),
            routes_have_dialects: routes.iter().any(|route| dialect_of(&route.shape) != Dialect::OpenAi),
        };
        for route in routes {
            let matched = Matched {
                label: Arc::clone(&route.path),
                decoded: None,
                kind: route.shape.kind(),
                shape: Some(Arc::new(route.shape.clone())),
                retryable: route.retry,
                timeouts: Some(route.timeouts),
                dialect: dialect_of(&route.shape),
            };
            paths.add(Method::POST, matched);
        }
        paths.add_kinds(|row| row.optional.is_none());
        paths
    }

    /// Adds the endpoints of kinds that are served only by request. Routes go before them.
    #[must_use]
    pub(crate) fn with_kinds(mut self, kinds: &[OptionalKind]) -> Self {
        self.add_kinds(|row| row.optional.is_some_and(|kind| kinds.contains(&kind)));
        self
    }

    /// Sets which URLs of media may be passed on, for all endpoints so far.
    #[must_use]
    pub(crate) fn with_media_urls(mut self, urls: &MediaUrls) -> Self {
        for (.., matched) in &mut self.endpoints {
            let shape = matched.shape.take().map(Arc::unwrap_or_clone);
            matched.shape = shape.map(|shape| Arc::new(shape.with_media_urls(urls.clone())));
        }
        self
    }

    fn add_kinds(&mut self, serves: impl Fn(&KindRow) -> bool) {
        for row in kinds::TABLE.iter().filter(|row| serves(row)) {
            for (method, path) in row.endpoints {
                let reads = row.names_model();
                let matched = Matched {
                    label: (*path).into(),
                    decoded: None,
                    kind: row.kind,
                    shape: reads
                        .then(|| Arc::new(Shape::of_kind(row.kind).with_session(self.session.clone()))),
                    // A call that the worker stores has a side effect; `request_cost` resets this.
                    retryable: reads,
                    timeouts: row.beside.map(|bounds| RouteTimeouts {
                        total: Some(bounds.total),
                        ..RouteTimeouts::default()
                    }),
                    dialect: if row.dialect == Dialect::OpenAi { Dialect::at(path) } else { row.dialect },
                };
                self.add(method.clone(), matched);
            }
        }
    }

    fn add(&mut self, method: Method, matched: Matched) {
        self.endpoints.push((method, Glob::new(Arc::clone(&matched.label)), matched));
    }

    /// Adds the paths of asynchronous jobs.
    #[must_use]
    pub(crate) fn with_jobs(mut self) -> Self {
        let matched = Matched {
            label: JOBS.into(),
            decoded: None,
            kind: Kind::Path,
            shape: None,
            retryable: false,
            timeouts: None,
            dialect: Dialect::OpenAi,
        };
        for method in [Method::GET, Method::DELETE] {
            self.add(method, matched.clone());
        }
        self
    }

    /// Returns the dialect of refusals on a path as sent. It is known before the path is matched, as
    /// refusals are: a Messages client must be able to read that its key is wrong.
    #[must_use]
    pub(crate) fn dialect(&self, raw_path: &str) -> Dialect {
        let path = match raw_path.contains('%') {
            true => percent_decode_str(raw_path).decode_utf8().unwrap_or(Cow::Borrowed(raw_path)),
            false => Cow::Borrowed(raw_path),
        };
        let by_look = Dialect::at(&path);
        if by_look == Dialect::OpenAi && !self.routes_have_dialects {
            return by_look;
        }
        let matched = self.endpoints.iter().find(|(_, glob, _)| glob.matches(&path));
        matched.map_or(by_look, |(.., matched)| matched.dialect)
    }

    /// Matches a request.
    ///
    /// # Errors
    /// `bad_request` for an ambiguous path, `not_found` for one that is not let through,
    /// `method_not_allowed` for one that is let through for other methods only.
    pub(crate) fn find(&self, method: &Method, raw_path: &str) -> Result<Matched, Refusal> {
        // Model names have slashes, which clients escape. The gateway answers these itself, so no
        // worker can read the path differently.
        let names_model = matches!(*method, Method::GET | Method::HEAD) && raw_path.starts_with(MODEL);
        let path = decoded(raw_path, names_model)?;
        let decoded = || match &path {
            Cow::Owned(path) => Some(path.as_str().into()),
            Cow::Borrowed(_) => None,
        };
        let mut others: Vec<&str> = Vec::new();
        let mut closer: Option<&Matched> = None;
        for (of, glob, matched) in &self.endpoints {
            // A kind lists its closer patterns first: `/v1/responses/*` is not meant for `r/cancel`.
            let is_less_close =
                |closer: &Matched| closer.kind == matched.kind && closer.label != matched.label;
            if glob.matches(&path) && !closer.is_some_and(is_less_close) {
                // The gateway answers these itself, and its server drops the body of an answer to HEAD.
                let has_head = of == Method::GET && matched.kind == Kind::Models;
                if of == method || (has_head && method == Method::HEAD) {
                    return Ok(Matched { decoded: decoded(), ..matched.clone() });
                }
                others.push(of.as_str());
                others.extend(has_head.then_some("HEAD"));
                closer = Some(matched);
            }
        }
        if let Some(pattern) = self.patterns.iter().find(|pattern| pattern.matches(&path)) {
            return Ok(Matched {
                label: Arc::clone(pattern.text()),
                decoded: decoded(),
                kind: Kind::Path,
                shape: None,
                retryable: method.is_idempotent(),
                timeouts: None,
                dialect: Dialect::at(&path),
            });
        }
        // The layer `health` has answered these two; it compares the path as it was sent.
        if raw_path == HEALTH {
            others.extend(["GET", "HEAD"]);
        }
        if others.is_empty() {
            return Err(Refusal::new(Reason::NotFound, self.not_found()));
        }
        others.sort_unstable();
        others.dedup();
        let allow = others.join(", ");
        let in_words = match others.split_last() {
            Some((last, rest @ [_, ..])) => format!("{} and {last}", rest.join(", ")),
            _ => allow.clone(),
        };
        let message = format!("This path accepts {in_words} only.");
        Err(Refusal::new(Reason::MethodNotAllowed, message).with_allow(allow))
    }

    /// Builds the message that names the kinds' own endpoints. It does not reveal configured paths.
    fn not_found(&self) -> String {
        let known = || kinds::TABLE.iter().flat_map(|row| row.endpoints);
        let mut names: Vec<String> = vec![format!("GET {HEALTH}")];
        for (method, _, Matched { label, .. }) in &self.endpoints {
            let name = format!("{method} {label}");
            let is_own = **label == *JOBS || known().any(|(of, path)| of == method && **label == **path);
            if is_own && !names.contains(&name) {
                names.push(name);
            }
        }
        format!(
            "This path is not served. Served paths: {}. The settings `kinds`, `paths` and `routes` can add others.",
            names.join(", ")
        )
    }
}

fn dialect_of(shape: &Shape) -> Dialect {
    kinds::row(shape.kind()).dialect
}

/// Returns `true` for `.` and `..`, with parameters too: some servers in Java remove a segment's `;…`
/// before they resolve dot segments.
pub(crate) fn is_dot_segment(segment: &str) -> bool {
    matches!(segment.split(';').next(), Some("." | ".."))
}

/// Decodes the escapes of a path, and refuses an ambiguous path. With `slashes`, an escaped slash
/// is allowed, as a part of a name.
fn decoded(raw: &str, slashes: bool) -> Result<Cow<'_, str>, Refusal> {
    // Nearly all paths: nothing in them could be read in two ways.
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-');
    if raw.bytes().all(letters) && !raw.contains("//") {
        return Ok(Cow::Borrowed(raw));
    }
    let refuse = |what: &'static str| Err(Refusal::new(Reason::BadRequest, what).with_param("path"));
    let bytes = raw.as_bytes();
    for (at, _) in raw.match_indices('%') {
        match bytes.get(at + 1..at + 3) {
            Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => {}
            _ => return refuse("The path has a `%` without two hex digits after it."),
        }
        if let Some(hex) = raw.get(at + 1..at + 3)
            && !(slashes && hex.eq_ignore_ascii_case("2f"))
            && ["2f", "5c"].iter().any(|slash| hex.eq_ignore_ascii_case(slash))
        {
            return refuse("The path has an escaped slash or backslash (`%2f`, `%5c`).");
        }
    }
    let Ok(path) = percent_decode_str(raw).decode_utf8() else {
        return refuse("The path is not UTF-8.");
    };
    if path.contains('\\') || path.chars().any(char::is_control) {
        return refuse("The path has a backslash or a control character.");
    }
    if path.contains("//") || path.contains("/;") {
        return refuse("The path has an empty segment (`//` or `/;`).");
    }
    if path.split('/').any(is_dot_segment) {
        return refuse("The path has a dot segment (`.` or `..`, also before a `;`).");
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
