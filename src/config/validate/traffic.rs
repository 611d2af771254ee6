//! Checks paths, routes, bounds and CORS.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;

use super::Distinct;
use super::workers::positive;
use crate::config::file::{self, ConfigFile, Cors, StickySection, WorkerMode};
use crate::config::settings::BoundsSettings;
use crate::config::source::{ErrorCollector, SettingPath};
use crate::config::syntax::Text;
use crate::glob::Glob;
use crate::layers::paths::RouteSettings;
use crate::openai::body::{Pointer, Shape};
use crate::openai::kinds::{self, BodyUse, OptionalKind};
use crate::request::{Kind, RouteTimeouts};
use crate::server::ListenerBounds;

pub(super) fn paths(file: &ConfigFile, root: &SettingPath<'_>, report: &mut ErrorCollector) -> Vec<Arc<str>> {
    let mut patterns = Distinct::new();
    for (index, pattern) in file.paths.iter().enumerate() {
        patterns.add(pattern.0.clone(), &root.key("paths").index(index), report);
    }
    file.paths.iter().map(|pattern| pattern.0.0.clone()).collect()
}

pub(super) fn served_kinds(
    file: &ConfigFile,
    root: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> Vec<OptionalKind> {
    let mut named = Distinct::new();
    for (index, kind) in file.kinds.iter().enumerate() {
        let at = root.key("kinds").index(index);
        named.add(*kind, &at, report);
        if *kind == OptionalKind::ResponsesById && file.workers.mode == WorkerMode::Queue {
            let problem = "needs `workers.mode: http`: any worker of a queue may take a call, and only one keeps the response";
            report.fault(&at, problem);
        }
    }
    file.kinds.clone()
}

/// Returns the endpoints that are always served, and their kinds. A route may set an endpoint's
/// timeouts, but not its kind. It may take the path of an optional kind.
fn fixed_endpoints() -> Vec<(Glob, Kind)> {
    let rows = kinds::TABLE.iter().filter(|row| row.optional.is_none());
    let paths = rows.flat_map(|row| row.endpoints.iter().map(|(_, path)| (*path, row.kind)));
    paths.filter(|(path, _)| !path.contains('*')).map(|(path, kind)| (Glob::new(path), kind)).collect()
}

pub(super) fn routes(
    file: &ConfigFile,
    root: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> Vec<RouteSettings> {
    let mut routes = Vec::with_capacity(file.routes.len());
    let endpoints = fixed_endpoints();
    let mut patterns: Vec<Glob> = Vec::with_capacity(file.routes.len());
    for (index, route) in file.routes.iter().enumerate() {
        let at = root.key("routes").index(index);
        let path = Glob::new(route.path.0.0.clone());
        let kind = Kind::from(route.kind);
        if let Some(earlier) = patterns.iter().position(|earlier| earlier.overlaps(&path)) {
            let earlier = root.key("routes").index(earlier).field().to_owned();
            let problem = format!("some paths match `{earlier}` too: no two routes may match the same path");
            report.fault(&at.key("path"), problem);
        }
        if let Some((endpoint, _)) =
            endpoints.iter().find(|(endpoint, own)| *own != kind && endpoint.overlaps(&path))
        {
            report.fault(&at.key("path"), format!("matches `{}`, which has another kind", endpoint.text()));
        }
        let pointer =
            |configured: &Option<Text<Pointer>>| configured.as_ref().map(|pointer| pointer.0.clone());
        let session = pointer(&route.session).or_else(|| match &file.workers.sticky {
            StickySection::Body(pointer) => Some(pointer.0.clone()),
            StickySection::Header(_) | StickySection::Cookie(_) => None,
        });
        routes.push(RouteSettings {
            path: route.path.0.0.clone(),
            shape: Shape::route(kind, pointer(&route.prompt), pointer(&route.max_tokens))
                .with_session(session),
            retry: route.retry,
            timeouts: timeouts(&route.timeouts, &file.workers.timeouts, &at.key("timeouts"), report),
        });
        patterns.push(path);
    }
    routes
}

fn timeouts(
    own: &file::RouteTimeoutsSection,
    general: &file::TimeoutsSection,
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> RouteTimeouts {
    let mut of = |key: &str, own: &Option<Text<Duration>>, general: &Text<Duration>| match own {
        // An invalid general timeout is reported at its own position.
        Some(own) if own != general => positive(own.0, &at.key(key), report),
        _ => general.0,
    };
    RouteTimeouts {
        connect: Some(of("connect", &own.connect, &general.connect)),
        first_token: Some(of("first_token", &own.first_token, &general.first_token)),
        head_without_content: Some(own.hold.as_ref().unwrap_or(&general.hold).0),
        idle: Some(of("idle", &own.idle, &general.idle)),
        total: Some(of("total", &own.total, &general.total)),
    }
}

/// Minimum of `bounds.headers`, in bytes: hyper needs this much to read a head of HTTP/1.
const LEAST_HEADERS: u64 = 8 << 10;
const MOST_HEADERS: u64 = 1 << 20;

pub(super) fn bounds(
    bounds: &file::BoundsSection,
    per_ip_exempt: Vec<IpNet>,
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> BoundsSettings {
    for (key, size) in [("body", bounds.body), ("held", bounds.held), ("buffered", bounds.buffered)] {
        if size.get() == 0 {
            report.fault(&at.key(key), "must be at least one byte");
        }
    }
    if bounds.body > bounds.buffered && report.is_known(&at.key("buffered")) {
        let problem = format!(
            "must not exceed `bounds.buffered` ({}), or the largest request never fits",
            bounds.buffered
        );
        report.fault(&at.key("body"), problem);
    }
    let mut bodies = [None; kinds::COUNT];
    for (kind, key, size) in bounds.bodies.by_kind() {
        let Some(size) = size else { continue };
        let at = at.key("bodies").key(key);
        if size.get() == 0 {
            report.fault(&at, "must be at least one byte");
        }
        if size > bounds.buffered && kinds::row(kind).body == BodyUse::Json {
            let problem = format!(
                "must not exceed `bounds.buffered` ({}), or the largest request never fits",
                bounds.buffered
            );
            report.fault(&at, problem);
        }
        if let Some(bound) = bodies.get_mut(kind as usize) {
            *bound = Some(size.get());
        }
    }
    if !(LEAST_HEADERS..=MOST_HEADERS).contains(&bounds.headers.get()) {
        report.fault(&at.key("headers"), "must be from `8KiB` to `1MiB`");
    }
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    BoundsSettings {
        body: bounds.body.get(),
        bodies,
        held: bounds.held.get(),
        buffered: bounds.buffered.get(),
        body_read: positive(bounds.body_read.0, &at.key("body_read"), report),
        listener: ListenerBounds {
            client_stall: positive(bounds.client_stall.0, &at.key("client_stall"), report),
            headers: count(bounds.headers.get()),
            header_read: positive(bounds.header_read.0, &at.key("header_read"), report),
            connections: count(bounds.connections),
            per_ip: count(bounds.per_ip),
            per_ip_exempt,
            h2_streams: bounds.h2_streams,
            ..ListenerBounds::default()
        },
    }
}

pub(super) fn origins(cors: &Cors, at: &SettingPath<'_>, report: &mut ErrorCollector) -> Vec<HeaderValue> {
    let at = at.key("origins");
    let mut origins = Distinct::new();
    for (index, origin) in cors.origins.iter().enumerate() {
        origins.add(origin.0.clone(), &at.index(index), report);
    }
    if cors.origins.len() > 1 && cors.origins.iter().any(|origin| origin.0.0 == "*") {
        report.fault(&at, "`*` means all origins: it cannot be combined with others");
    }
    cors.origins.iter().filter_map(|origin| HeaderValue::from_str(&origin.0.0).ok()).collect()
}
