//! `traffic-dam worker`: a simulated worker alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use traffic_dam::config::syntax::RedisUrl;
use traffic_dam::fleet::side;
use traffic_dam::net;
use traffic_dam::redis::consumer::ConsumerIdentity;
use traffic_dam::sim::worker::{Membership, WorkerOptions, drain, serve};

use super::arguments::read;
use super::build_name;
use super::member::{HeartbeatLoop, word};
use super::serve::terminated;
use super::{CommandError, print_line, runtime};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address to listen on [default: 127.0.0.1:8000; with --queue, where nobody connects, any free
    /// port]
    #[arg(long, value_parser = read::<SocketAddr>)]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    options: WorkerOptions,
    /// Take jobs from a queue in Redis, and publish heartbeats
    #[arg(long, requires = "redis")]
    queue: bool,
    /// URL of Redis, such as redis://127.0.0.1:6379
    #[arg(long, env = "TRAFFIC_DAM_REDIS_URL", hide_env_values = true, value_parser = read::<RedisUrl>)]
    redis: Option<RedisUrl>,
    #[command(flatten)]
    member: HeartbeatLoop,
}

impl Arguments {
    /// Returns the settings of the queue; `None` without `--queue`.
    fn membership(&self, at: SocketAddr) -> Result<Option<Membership>, String> {
        let Some(redis) = self.redis.as_ref().filter(|_| self.queue) else { return Ok(None) };
        let member = &self.member;
        let version: Arc<str> = word(&member.version).unwrap_or_else(|| build_name::name().into());
        let place = ConsumerIdentity {
            worker: word(&member.id).unwrap_or_else(|| format!("worker-{}", at.port()).into()),
            pool: word(&member.pool).unwrap_or_else(|| "default".into()),
            colour: side::colour_of(word(&member.colour).as_ref(), Some(&version)).ok_or_else(|| {
                format!(
                    "--version: `{version}` is too long to stand for a colour: at most 62 characters, or set --colour"
                )
            })?,
            version: Some(version),
            interval: member.interval,
        };
        let redis = member.settings(redis);
        Ok(Some(Membership { redis, place, key: member.key(), drain: member.drain }))
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), CommandError> {
    let port = if arguments.queue { 0 } else { 8000 };
    let listen = arguments.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, port).into());
    runtime()?.block_on(async {
        let listener = net::bind(listen)
            .map_err(|error| CommandError::Usage(format!("--listen: cannot listen on {listen}: {error}")))?;
        let at = listener.local_addr()?;
        print_line(format!("worker  http://{at}"));
        let options = arguments.options.clone();
        let Some(membership) = arguments.membership(at).map_err(CommandError::Usage)? else {
            serve(listener, options, terminated()).await;
            return Ok(());
        };
        let ConsumerIdentity { worker, pool, colour, version, .. } = &membership.place;
        let version = version.as_deref().unwrap_or("-");
        print_line(format!(
            "queue   takes jobs of pool {pool}, colour {colour}, as worker {worker} of version {version}"
        ));
        drain(listener, options, membership, terminated()).await;
        Ok(())
    })
}
