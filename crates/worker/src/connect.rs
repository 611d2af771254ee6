//! Connections to a single server, to the master known to sentinels, or to a cluster.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo, Pipeline,
    ProtocolVersion, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value, pipe,
};

use crate::settings::{RedisSettings, Topology};

/// Time limit for connecting; requests do not wait for it.
const CONNECT: Duration = Duration::from_secs(1);
/// Commands queued before the socket: more than arrive within the timeout of one.
const QUEUE: usize = 4096;
/// Retries of the cluster client after a slot moved. Its delays are far below the timeout of a
/// request, or far above it.
const REDIRECTIONS: u32 = 3;

/// An open connection; clones share it.
#[derive(Clone)]
pub enum Connection {
    /// To one server: the only one, or the master.
    Single(MultiplexedConnection),
    /// To the nodes of a cluster.
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("is_spread", &self.is_spread()).finish_non_exhaustive()
    }
}

impl Connection {
    /// Returns `true` for a cluster, where commands on several keys cannot be pipelined.
    pub const fn is_spread(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Sends commands whose answers do not matter, pipelined if possible.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn tell(&mut self, commands: Vec<Cmd>) -> RedisResult<()> {
        if self.is_spread() {
            for command in commands {
                command.query_async::<()>(self).await?;
            }
            return Ok(());
        }
        let mut together = pipe();
        for command in commands {
            together.add_command(command).ignore();
        }
        together.query_async(self).await
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(cmd, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

fn certificates(settings: &RedisSettings) -> Option<TlsCertificates> {
    let root_cert = settings.authorities.as_ref().map(|pem| pem.to_vec());
    root_cert.is_some().then_some(TlsCertificates { client_tls: None, root_cert })
}

/// Returns a configuration; with `patience: None` the caller bounds each command.
fn config(patience: Option<Duration>) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(patience)
        .set_pipeline_buffer_size(QUEUE)
}

/// Connects to the server, the master that sentinels know, or the cluster, within 1 s. Each answer may
/// take `patience`; with `None` the caller bounds it.
///
/// # Errors
/// Returns an error if no server can be reached.
pub async fn connect(settings: &RedisSettings, patience: Option<Duration>) -> RedisResult<Connection> {
    if settings.topology != Topology::Cluster {
        return listen(settings, config(patience), ProtocolVersion::RESP2).await.map(Connection::Single);
    }
    let mut builder = ClusterClientBuilder::new(settings.urls.load().iter().map(|url| &**url))
        .connection_timeout(CONNECT)
        .response_timeout(patience.unwrap_or(CONNECT))
        .retries(REDIRECTIONS);
    if let Some(certificates) = certificates(settings) {
        builder = builder.certs(certificates);
    }
    builder.build()?.get_async_connection().await.map(Connection::Cluster)
}

/// Returns a connection for commands besides a subscription. Outside a cluster it is the same one.
///
/// # Errors
/// As [`connect`].
pub async fn beside(
    listening: &MultiplexedConnection,
    settings: &RedisSettings,
    patience: Duration,
) -> RedisResult<Connection> {
    match settings.topology {
        Topology::Cluster => connect(settings, Some(patience)).await,
        Topology::Single | Topology::Sentinel(_) => Ok(Connection::Single(listening.clone())),
    }
}

/// Connects to one server: the only one, the master, or any cluster node, as each relays messages.
///
/// # Errors
/// As [`connect`].
pub async fn listen(
    settings: &RedisSettings,
    config: AsyncConnectionConfig,
    protocol: ProtocolVersion,
) -> RedisResult<MultiplexedConnection> {
    if let Topology::Sentinel(master) = &settings.topology {
        return sentinel(settings, master, &config, protocol).await;
    }
    let mut outcome = Err((ErrorKind::InvalidClientConfig, "no Redis URL").into());
    for url in &*settings.urls.load() {
        outcome = one(url, settings, &config, protocol).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn one(
    url: &str,
    settings: &RedisSettings,
    config: &AsyncConnectionConfig,
    protocol: ProtocolVersion,
) -> RedisResult<MultiplexedConnection> {
    let info = url.into_connection_info()?;
    let redis = info.redis_settings().clone().set_protocol(protocol);
    let info = info.set_redis_settings(redis);
    let client = match certificates(settings) {
        Some(certificates) => Client::build_with_tls(info, certificates)?,
        None => Client::open(info)?,
    };
    client.get_multiplexed_async_connection_with_config(config).await
}

/// Asks the sentinels for the current master, which changes with a failover. User, password and
/// database of the first URL are the master's; sentinels are asked without credentials.
async fn sentinel(
    settings: &RedisSettings,
    master: &str,
    config: &AsyncConnectionConfig,
    protocol: ProtocolVersion,
) -> RedisResult<MultiplexedConnection> {
    let urls = settings.urls.load();
    let mut addresses = Vec::with_capacity(urls.len());
    for url in &*urls {
        addresses.push(url.into_connection_info()?.addr().clone());
    }
    let encrypted = matches!(addresses.first(), Some(ConnectionAddr::TcpTls { .. }));
    let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
        .set_client_to_redis_protocol(protocol);
    if let Some(url) = urls.first() {
        let info = url.into_connection_info()?;
        let redis = info.redis_settings();
        builder = builder.set_client_to_redis_db(redis.db());
        if let Some(username) = redis.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = redis.password() {
            builder = builder.set_client_to_redis_password(password);
        }
    }
    if encrypted {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        if let Some(certificates) = certificates(settings) {
            builder = builder
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
    }
    builder.build()?.get_async_connection_with_config(config).await
}
