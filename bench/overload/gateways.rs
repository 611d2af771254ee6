//! The configuration of the gateways in each arm.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::plan::{Arm, ITL_SLO, Options, TTFT_SLO, WorkerSize};
use crate::servers::{Server, free_address};

/// Limits of nginx. `None` leaves a limit out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NginxLimits {
    /// `limit_conn`: requests in flight, all callers together.
    pub(crate) under_way: Option<u32>,
    /// `limit_req`: requests per second, all callers together, and the burst that passes at once.
    pub(crate) rate: Option<(u32, u32)>,
    /// `limit_conn`: requests in flight, per caller.
    pub(crate) per_caller: Option<u32>,
}

impl NginxLimits {
    /// Returns the directives as they stand in the file and in the document.
    pub(crate) fn directives(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(count) = self.under_way {
            lines.push(format!("limit_conn all {count};"));
        }
        if let Some(count) = self.per_caller {
            lines.push(format!("limit_conn caller {count};"));
        }
        if let Some((_, burst)) = self.rate {
            lines.push(format!("limit_req zone=rate burst={burst} nodelay;"));
        }
        lines
    }

    /// Describes the limits in one line.
    pub(crate) fn describe(&self) -> String {
        let rate = self.rate.map(|(rate, _)| format!("`rate={rate}r/s`"));
        let lines = self.directives().into_iter().map(|line| format!("`{line}`"));
        lines.chain(rate).collect::<Vec<_>>().join(" ")
    }

    fn file(&self, listen: SocketAddr, worker: SocketAddr) -> String {
        include_str!("nginx.conf")
            .replace("@LISTEN@", &listen.to_string())
            .replace("@WORKER@", &worker.to_string())
            // A zone must have a rate, even if it is not used.
            .replace("@RATE@", &self.rate.map_or(1, |(rate, _)| rate).to_string())
            .replace("@LIMITS@", &self.directives().join("\n            "))
    }
}

/// Configuration of Traffic Dam.
#[derive(Clone, Debug, Default)]
pub(crate) struct DamFile {
    /// The keys of `concurrency` that distinguish the arm.
    pub(crate) limit: &'static str,
    /// Slots and KV tokens of each worker, if they are configured.
    pub(crate) told: Option<WorkerSize>,
    /// Share of the limit reserved for critical requests.
    pub(crate) reserve: Option<f64>,
    /// Rules, one per line.
    pub(crate) rules: Vec<String>,
}

impl DamFile {
    /// Returns the configuration of an arm; `None` for arms without Traffic Dam.
    pub(crate) fn of(arm: Arm, size: WorkerSize) -> Option<Self> {
        let (limit, told) = match arm {
            Arm::Direct | Arm::Nginx => return None,
            Arm::Stream => ("limit: adaptive, law: stream", true),
            Arm::StreamUntold => ("limit: adaptive, law: stream", false),
            Arm::Slots => ("limit: slots", true),
            Arm::Aimd => ("limit: adaptive, law: aimd", false),
            Arm::Gradient2 => ("limit: adaptive, law: gradient2", false),
            Arm::Vegas => ("limit: adaptive, law: vegas", false),
        };
        Some(Self { limit, told: told.then_some(size), ..Self::default() })
    }

    fn text(&self, workers: &[SocketAddr]) -> String {
        let mut text = String::from(
            "callers:\n  from: [{ header: x-user-id }, ip]\n  trusted_proxies: [127.0.0.1/32]\n  \
             default_class: critical\n",
        );
        let mut line = |args: std::fmt::Arguments<'_>| {
            text.write_fmt(args).unwrap_or_default();
            text.push('\n');
        };
        if !self.rules.is_empty() {
            line(format_args!("limits:"));
        }
        for rule in &self.rules {
            line(format_args!("  - {rule}"));
        }
        let reserve =
            self.reserve.map(|share| format!(", reserve: {{ critical: {share} }}")).unwrap_or_default();
        // Only the adaptive limit uses the time between tokens.
        let itl = if self.limit.contains("adaptive") {
            format!(", itl_slo: {}ms", ITL_SLO.as_millis())
        } else {
            String::new()
        };
        let slo = TTFT_SLO.as_millis();
        line(format_args!("concurrency: {{ {}, ttft_slo: {slo}ms{itl}{reserve} }}", self.limit));
        line(format_args!("workers:\n  static:"));
        for (index, worker) in workers.iter().enumerate() {
            let told =
                self.told.map(|size| format!(", slots: {}, kv_tokens: {}", size.slots, size.kv_tokens));
            let told = told.unwrap_or_default();
            line(format_args!("    - {{ id: w{}, url: \"http://{worker}\"{told} }}", index + 1));
        }
        line(format_args!("log: {{ sample: 0 }}\ndrain: {{ delay: 0s, timeout: 1s }}"));
        text
    }

    /// Starts the gateway with this file.
    pub(crate) async fn start(
        &self,
        options: &Options,
        workers: &[SocketAddr],
        folder: &Path,
    ) -> Result<Gateway, Box<dyn Error>> {
        let (address, admin) = (free_address()?, free_address()?);
        let file = folder.join(format!("dam-{}.yaml", address.port()));
        fs::write(&file, self.text(workers))?;
        let mut command = Command::new(&options.dam);
        command.arg("serve").arg("--config").arg(&file);
        command.arg(format!("--listen={address}")).arg(format!("--admin-listen={admin}"));
        command.env("TRAFFIC_DAM_LOG", "error");
        let server = Server::start(command, admin, "/readyz", folder).await?;
        Ok(Gateway { address, admin: Some(admin), server: Some(server) })
    }
}

/// The server that clients send to: a gateway, or the worker itself.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    /// Address of the gateway's metrics.
    pub(crate) admin: Option<SocketAddr>,
    server: Option<Server>,
}

impl Gateway {
    /// No gateway: clients send to the worker.
    pub(crate) const fn none(worker: SocketAddr) -> Self {
        Self { address: worker, admin: None, server: None }
    }

    /// Starts nginx with these limits.
    pub(crate) async fn nginx(
        limits: &NginxLimits,
        options: &Options,
        worker: SocketAddr,
        folder: &Path,
    ) -> Result<Self, Box<dyn Error>> {
        let binary = options.nginx.as_ref().ok_or("nginx is not installed")?;
        let address = free_address()?;
        let prefix = folder.join(format!("nginx-{}", address.port()));
        fs::create_dir(&prefix)?;
        fs::write(prefix.join("nginx.conf"), limits.file(address, worker))?;
        let mut command = Command::new(binary);
        command.arg("-p").arg(&prefix).args(["-e", "stderr", "-c", "nginx.conf"]);
        let server = Server::start(command, address, "/health", folder).await?;
        Ok(Self { address, admin: None, server: Some(server) })
    }

    /// Process of the gateway; `None` if clients send to the worker itself.
    pub(crate) const fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::WORKER;
    use clap::ValueEnum;

    #[test]
    fn the_dam_is_told_the_size_only_where_the_arm_says_so() {
        let worker = [SocketAddr::from(([127, 0, 0, 1], 8000))];
        for arm in Arm::value_variants() {
            let Some(file) = DamFile::of(*arm, WORKER) else { continue };
            let text = file.text(&worker);
            assert_eq!(text.contains("slots: 64"), matches!(arm, Arm::Stream | Arm::Slots), "{text}");
        }
    }

    #[test]
    fn nginx_gets_the_limits_that_are_set_and_no_others() {
        let address = SocketAddr::from(([127, 0, 0, 1], 8000));
        let limits = NginxLimits { under_way: Some(64), ..NginxLimits::default() };
        let file = limits.file(address, address);
        assert!(file.contains("limit_conn all 64;") && !file.contains("limit_req zone=rate burst"), "{file}");
        assert!(
            !file.contains("@RATE@") && !file.contains("@LIMITS@") && !file.contains("@LISTEN@"),
            "{file}"
        );
        let limits = NginxLimits { rate: Some((45, 9)), ..NginxLimits::default() };
        let file = limits.file(address, address);
        assert!(file.contains("rate=45r/s") && file.contains("burst=9 nodelay"), "{file}");
    }
}
