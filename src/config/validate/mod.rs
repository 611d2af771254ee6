//! Turns the shape of the file into [`Settings`], and checks settings against each other.
//!
//! The schema has already checked single values. Each function here checks one section, reports all
//! its errors, and builds settings from its valid part. After any error the result is dropped.

mod callers;
mod discovery;
mod external;
mod jobs;
mod kubernetes;
mod limits;
mod models;
mod process;
mod redis;
mod traffic;
mod workers;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use super::file::ConfigFile;
use super::settings::Settings;
use super::source::{ErrorCollector, SettingPath, SettingPlace};
use super::syntax::FilePath;

/// The part of the file system that settings depend on.
#[derive(Clone, Copy)]
pub(super) struct Files<'a> {
    /// Base directory of relative paths.
    pub(super) directory: &'a Path,
    /// Returns why a file cannot be read; `None` if it can.
    pub(super) obstacle: &'a dyn Fn(&Path) -> Option<String>,
}

impl Files<'_> {
    /// Resolves a path, and reports an error if the file is not readable.
    fn readable(self, path: &FilePath, at: &SettingPath<'_>, report: &mut ErrorCollector) -> PathBuf {
        let path = self.directory.join(&path.0);
        if let Some(obstacle) = (self.obstacle)(&path) {
            let from = match self.directory.as_os_str().is_empty() {
                true => "the current directory".to_owned(),
                false => format!("`{}`", self.directory.display()),
            };
            report.fault(at, format!("must be a readable file (relative paths start in {from}): {obstacle}"));
        }
        path
    }
}

/// Checks settings against each other. The result is valid only if `report` has no error.
pub(super) fn validate(
    file: ConfigFile,
    place: &SettingPlace,
    files: Files<'_>,
    report: &mut ErrorCollector,
) -> Settings {
    let root = SettingPath::root(place);
    process::listeners(&file, &root, report);
    let file = file.completed();
    let fleet = workers::validate(&file, &root, report);
    let sources = discovery::validate(&file, &root, report);
    let shared = redis::validate(&file, &root, files, report);
    let redis_key = redis::key(&file, &root, report);
    let callers = callers::validate(&file.callers, &root.key("callers"), report);
    let rules = limits::validate(&file, &root, report);
    callers::check_limits(&callers, &rules, &root.key("callers"), report);
    external::check_bounds(&fleet, &rules, &root.key("workers").key("static"), report);
    let exempt = callers.trusted_proxies.clone();
    Settings {
        listen: file.listen.0,
        tls: file.tls.as_ref().map(|tls| process::tls(tls, &root.key("tls"), files, report)),
        admin: process::admin(&file.admin, &root.key("admin"), files, report),
        callers,
        tokens: file
            .callers
            .jwt
            .as_ref()
            .map(|jwt| callers::tokens(jwt, &root.key("callers").key("jwt"), files, report)),
        rules,
        job_limits: jobs::validate(&file.jobs, &root.key("jobs"), report),
        gateways: file.gateways,
        gate: workers::gate(&file, &root, report),
        prefix: workers::prefix(&file),
        workers: fleet,
        discovery: redis::discovery(&file, &shared.redis),
        registry: discovery::registry(&file, &sources, (&shared.redis, redis_key.clone()), &root, report),
        sources,
        scrape: discovery::scrape(&file, &root, report),
        shared,
        redis_key,
        active_colour: file.workers.active_colour.as_ref().map(|colour| colour.0.0.clone()),
        version_wait: workers::positive(
            file.concurrency.queue.version_wait.0,
            &root.key("concurrency").key("queue").key("version_wait"),
            report,
        ),
        sticky_wait: workers::sticky_wait(&file.concurrency),
        sticky: workers::sticky(&file.workers.sticky),
        timeouts: workers::timeouts(&file.workers.timeouts, &root.key("workers").key("timeouts"), report),
        connection_age: workers::positive(
            file.workers.timeouts.connection_age.0,
            &root.key("workers").key("timeouts").key("connection_age"),
            report,
        ),
        retry: file.workers.retry,
        http2: file.workers.http2,
        worker_ca: file
            .workers
            .ca
            .as_ref()
            .map(|ca| files.readable(&ca.0, &root.key("workers").key("ca"), report)),
        kinds: traffic::served_kinds(&file, &root, report),
        paths: traffic::paths(&file, &root, report),
        routes: traffic::routes(&file, &root, report),
        models: models::models(&file, &root, files, report),
        bytes_per_token: file.media.bytes_per_token,
        media_urls: (&file.media.urls).into(),
        answer_headers: file.answer_headers,
        bounds: traffic::bounds(&file.bounds, exempt, &root.key("bounds"), report),
        cors_origins: traffic::origins(&file.cors, &root.key("cors"), report),
        drain: process::drain(&file.drain),
        log_sample: file.log.sample,
        spans: process::spans(&file.tracing, &root.key("tracing"), report),
        redis_in_file: root.key("redis").is_present(),
        file: Box::new(file),
    }
}

/// Set of values that must differ, with the field of each.
#[derive(Debug)]
struct Distinct<K>(HashMap<K, String>);

impl<K: Eq + Hash> Distinct<K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// Reports an error if an earlier value equals the one at `at`.
    fn add(&mut self, value: K, at: &SettingPath<'_>, report: &mut ErrorCollector) {
        match self.0.entry(value) {
            Entry::Occupied(first) => report.fault(at, format!("must differ from `{}`", first.get())),
            Entry::Vacant(free) => {
                free.insert(at.field().to_owned());
            }
        }
    }
}
