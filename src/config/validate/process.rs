//! Checks the process's settings: listeners, TLS, administration port, shutdown.

use std::net::SocketAddr;

use super::Files;
use crate::config::file::{AdminSection, ConfigFile, DrainSection, Tls, Tracing};
use crate::config::settings::{AdminPortSettings, DrainSettings, TlsFiles};
use crate::config::source::{ErrorCollector, SettingPath};
use crate::spans::SpanSettings;

pub(super) fn listeners(file: &ConfigFile, root: &SettingPath<'_>, report: &mut ErrorCollector) {
    let (callers, admin) = (file.listen.0, file.admin.listen.0);
    let (at_callers, at) = (root.key("listen"), root.key("admin").key("listen"));
    if collide(callers, admin) && report.is_known(&at) && report.is_known(&at_callers) {
        // Reported at the one that is in the file, where it can be changed.
        if at_callers.is_present() && !at.is_present() {
            report.fault(&at_callers, format!("must be another address than `admin.listen` ({admin})"));
        } else {
            report.fault(&at, format!("must be another address than `listen` ({callers})"));
        }
    }
    if !admin.ip().to_canonical().is_loopback() && file.admin.token.is_none() && report.is_known(&at) {
        let problem = format!("is required, because `admin.listen` ({admin}) is not a loopback address");
        report.fault(&root.key("admin").key("token"), problem);
    }
}

/// Returns `true` if two listeners cannot both bind their address. Port 0 is any free port.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_host = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_host
}

pub(super) fn tls(
    tls: &Tls,
    at: &SettingPath<'_>,
    files: Files<'_>,
    report: &mut ErrorCollector,
) -> TlsFiles {
    TlsFiles {
        cert: files.readable(&tls.cert.0, &at.key("cert"), report),
        key: files.readable(&tls.key.0, &at.key("key"), report),
    }
}

pub(super) fn admin(
    admin: &AdminSection,
    at: &SettingPath<'_>,
    files: Files<'_>,
    report: &mut ErrorCollector,
) -> AdminPortSettings {
    AdminPortSettings {
        listen: admin.listen.0,
        tls: admin.tls.as_ref().map(|pair| tls(pair, &at.key("tls"), files, report)),
        token: admin.token.as_ref().map(|token| token.0.clone()),
        read_token: admin.read_token.as_ref().map(|token| token.0.clone()),
        metrics_token: admin.metrics_token.as_ref().map(|token| token.0.clone()),
        hosts: admin.hosts.iter().flatten().map(|host| host.0.0.clone()).collect(),
    }
}

pub(super) fn spans(
    tracing: &Tracing,
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> Option<SpanSettings> {
    let headers = super::workers::headers(&tracing.headers, &at.key("headers"), report);
    Some(SpanSettings {
        endpoint: tracing.otlp.as_ref()?.0.0.clone(),
        headers,
        service: tracing.service.0.0.clone(),
        sample: tracing.sample,
    })
}

pub(super) fn drain(drain: &DrainSection) -> DrainSettings {
    DrainSettings { delay: drain.delay.0, timeout: drain.timeout.0 }
}
