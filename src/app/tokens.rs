//! Keys that verify callers' tokens: read from a file, or fetched in the background and kept fresh.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Uri};
use rustls::ClientConfig;
use tokio::time::{sleep, timeout};

use super::{App, StartError};
use crate::config::Settings;
use crate::config::settings::JwksSource;
use crate::config::syntax::redacted_url;
use crate::layers::jwt::{JwtKeys, KeySet, Tokens};
use crate::net::fetch::Fetch;
use crate::upstream::tls::{authorities_in, client_config};

/// Timeout of a fetch.
const PATIENCE: Duration = Duration::from_secs(5);
/// Maximum size in bytes: a hundred RSA keys with certificates.
const LARGEST: usize = 1 << 20;
/// Factor by which a fetch comes early after a failure or for an unknown key. Bounds the load by
/// callers who send tokens with invented keys.
const SOONER: u32 = 30;

/// Source of the keys that verify tokens.
#[derive(Debug)]
pub(super) struct KeySource {
    keys: Arc<JwtKeys>,
    /// `None` for a file: it is read again on reload.
    server: Option<KeyServer>,
}

#[derive(Debug)]
struct KeyServer {
    url: Uri,
    tls: Arc<ClientConfig>,
    refresh: Duration,
}

impl KeySource {
    /// Builds the configured source. Keeps the keys that `before` fetched from the same URL.
    pub(super) fn of(
        settings: &Settings,
        before: Option<&Arc<Self>>,
    ) -> Result<Option<Arc<Self>>, StartError> {
        let Some(tokens) = &settings.tokens else { return Ok(None) };
        let source = match &tokens.keys {
            JwksSource::File(file) => {
                let read = || KeySet::read(&std::fs::read(file).map_err(|error| error.to_string())?);
                let set = read().map_err(|problem| StartError::TokenKeys { file: file.clone(), problem })?;
                let keys = JwtKeys::default();
                keys.replace(set);
                Self { keys: Arc::new(keys), server: None }
            }
            JwksSource::Url { url, ca, refresh } => {
                let authorities = ca.as_deref().map_or_else(|| Ok(Vec::new()), authorities_in);
                let authorities = authorities.map_err(StartError::TokenCa)?;
                let tls =
                    client_config(authorities).map_err(|error| StartError::TokenCa(error.to_string()))?;
                let same =
                    |source: &&Arc<Self>| source.server.as_ref().is_some_and(|server| server.url == *url);
                let keys = before.filter(same).map_or_else(Arc::default, |source| Arc::clone(&source.keys));
                Self { keys, server: Some(KeyServer { url: url.clone(), tls, refresh: *refresh }) }
            }
        };
        Ok(Some(Arc::new(source)))
    }

    /// Returns `true` if any keys are known.
    pub(super) fn is_read(&self) -> bool {
        self.keys.is_loaded()
    }

    /// Keeps the keys fresh while polled.
    async fn follow(&self) {
        let Some(server) = &self.server else { return std::future::pending().await };
        let soon = server.refresh / SOONER;
        let mut last = Bytes::new();
        loop {
            let fetched = server.fetch().await.and_then(|page| {
                // The same keys: known tokens need no new check.
                if page != last {
                    self.keys.replace(KeySet::read(&page)?);
                    last = page;
                }
                Ok(())
            });
            if let Err(problem) = &fetched {
                // The query may hold a secret.
                let url = server.url.to_string();
                tracing::warn!(
                    url = &*redacted_url(&url),
                    problem,
                    "cannot fetch the keys that verify callers' tokens"
                );
            }
            // Requests for unknown keys wait until this time is over.
            sleep(soon).await;
            if fetched.is_ok() {
                // Fetch in either case.
                timeout(server.refresh - soon, self.keys.refresh_requested()).await.unwrap_or_default();
            }
        }
    }
}

impl KeyServer {
    async fn fetch(&self) -> Result<Bytes, String> {
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let (server, tls) = (&self.url, Some(&self.tls));
        let headers = &HeaderMap::new();
        let fetch =
            Fetch { server, address: None, path, headers, tls, timeout: PATIENCE, max_bytes: LARGEST };
        let page = fetch.get().await;
        page.map_err(|fault| fault.to_string())
    }
}

/// Returns the verifier of tokens with the keys of `source`.
pub(super) fn tokens(settings: &Settings, source: Option<&Arc<KeySource>>) -> Option<Tokens> {
    let (tokens, source) = settings.tokens.as_ref().zip(source)?;
    Some(Tokens::new(tokens.tokens.clone(), Arc::clone(&source.keys)))
}

impl App {
    /// Keeps the keys of the latest settings fresh.
    pub(super) async fn follow_keys(self) {
        let mut sources = self.0.key_source.subscribe();
        loop {
            let source = sources.borrow_and_update().clone();
            let follow = async {
                match source {
                    Some(source) => source.follow().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = follow => {}
                changed = sources.changed() => if changed.is_err() { return },
            }
        }
    }
}
