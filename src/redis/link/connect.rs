//! Connections to one server, to a master that sentinels know, or to a cluster.

use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, Pipeline, RedisFuture,
    RedisResult, TlsCertificates, TlsMode, Value,
};

use crate::redis::settings::{RedisSettings, Topology};

/// How long a connection may take to be made; requests do not wait for it.
const CONNECT: Duration = Duration::from_secs(1);
/// Commands on their way to the socket: more than come in within the timeout of one.
const QUEUE: usize = 4096;
/// A cluster's own tries after a slot moved. Its waits are far below a request's patience or beyond it in any case.
const REDIRECTIONS: u32 = 3;

/// An open connection; clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
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

/// The link bounds every command itself; what it asks for here only ends what nobody waits for any more.
fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE)
}

pub(super) async fn connect(settings: &RedisSettings) -> RedisResult<Connection> {
    let urls = || settings.urls.iter().map(|url| &**url);
    match &settings.topology {
        Topology::Single => {
            let url = urls().next().unwrap_or_default();
            let client = match certificates(settings) {
                Some(certificates) => Client::build_with_tls(url, certificates)?,
                None => Client::open(url)?,
            };
            let connection = client.get_multiplexed_async_connection_with_config(&config()).await?;
            Ok(Connection::Single(connection))
        }
        Topology::Sentinel(master) => sentinel(settings, master).await.map(Connection::Single),
        Topology::Cluster => {
            let mut builder = ClusterClientBuilder::new(urls())
                .connection_timeout(CONNECT)
                .response_timeout(CONNECT)
                .retries(REDIRECTIONS);
            if let Some(certificates) = certificates(settings) {
                builder = builder.certs(certificates);
            }
            builder.build()?.get_async_connection().await.map(Connection::Cluster)
        }
    }
}

/// Asks the sentinels for the master anew: after a failover it is another one. User, password and database of the
/// first URL are the master's; sentinels are asked without.
async fn sentinel(settings: &RedisSettings, master: &str) -> RedisResult<MultiplexedConnection> {
    let mut addresses = Vec::with_capacity(settings.urls.len());
    for url in &settings.urls {
        addresses.push(url.into_connection_info()?.addr().clone());
    }
    let encrypted = matches!(addresses.first(), Some(ConnectionAddr::TcpTls { .. }));
    let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?;
    if let Some(url) = settings.urls.first() {
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
    builder.build()?.get_async_connection_with_config(&config()).await
}
