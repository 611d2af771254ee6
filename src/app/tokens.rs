//! The keys by which callers' tokens are signed: read from a file, or fetched beside requests and kept fresh.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::time::{sleep, timeout};

use super::{App, StartError};
use crate::config::Settings;
use crate::config::settings::KeyPlace;
use crate::config::syntax::redacted_url;
use crate::layers::jwt::{JwtKeys, KeySet, Tokens};
use crate::net::fetch::Fetch;
use crate::upstream::tls::client_config;

/// How long the issuer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A document of a hundred RSA keys with their certificates.
const LARGEST: usize = 1 << 20;
/// How much sooner than usual keys are fetched that a token asks for, or that could not be fetched: whoever sends tokens
/// with invented keys must not make a load of it.
const SOONER: u32 = 30;

/// Where the keys of tokens come from.
#[derive(Debug)]
pub(super) struct KeySource {
    keys: Arc<JwtKeys>,
    /// Nothing for a file, which is read again when the settings are.
    server: Option<Server>,
}

#[derive(Debug)]
struct Server {
    url: Uri,
    tls: Arc<ClientConfig>,
    refresh: Duration,
}

impl KeySource {
    /// What these settings say. Keys that `before` has fetched from the same URL go on.
    pub(super) fn of(
        settings: &Settings,
        before: Option<&Arc<Self>>,
    ) -> Result<Option<Arc<Self>>, StartError> {
        let Some(tokens) = &settings.callers.tokens else { return Ok(None) };
        let source = match &tokens.keys {
            KeyPlace::File(file) => {
                let read = || KeySet::read(&std::fs::read(file).map_err(|error| error.to_string())?);
                let set = read().map_err(|problem| StartError::TokenKeys { file: file.clone(), problem })?;
                let keys = JwtKeys::default();
                keys.replace(set);
                Self { keys: Arc::new(keys), server: None }
            }
            KeyPlace::Url { url, ca, refresh } => {
                let authorities = ca.as_ref().map_or_else(
                    || Ok(Vec::new()),
                    |ca| CertificateDer::pem_file_iter(ca).and_then(Iterator::collect),
                );
                let authorities = authorities.map_err(|error| StartError::TokenCa(error.to_string()))?;
                let tls =
                    client_config(authorities).map_err(|error| StartError::TokenCa(error.to_string()))?;
                let same =
                    |source: &&Arc<Self>| source.server.as_ref().is_some_and(|server| server.url == *url);
                let keys = before.filter(same).map_or_else(Arc::default, |source| Arc::clone(&source.keys));
                Self { keys, server: Some(Server { url: url.clone(), tls, refresh: *refresh }) }
            }
        };
        Ok(Some(Arc::new(source)))
    }

    /// Whether there are keys at all.
    pub(super) fn is_read(&self) -> bool {
        self.keys.are_read()
    }

    /// Keeps the keys fresh, as long as it is polled.
    async fn follow(&self) {
        let Some(server) = &self.server else { return std::future::pending().await };
        let soon = server.refresh / SOONER;
        let mut last = Bytes::new();
        loop {
            let fetched = server.fetch().await.and_then(|page| {
                // The same keys again are no reason to check known tokens again.
                if page != last {
                    self.keys.replace(KeySet::read(&page)?);
                    last = page;
                }
                Ok(())
            });
            if let Err(problem) = &fetched {
                // The query may hold a secret.
                let url = server.url.to_string();
                tracing::warn!(url = &*redacted_url(&url), problem, "the keys of tokens were not fetched");
            }
            // Whatever is asked for meanwhile has to wait for so long.
            sleep(soon).await;
            if fetched.is_ok() {
                // However it ends, it is time to fetch them.
                timeout(server.refresh - soon, self.keys.wanted()).await.unwrap_or_default();
            }
        }
    }
}

impl Server {
    async fn fetch(&self) -> Result<Bytes, String> {
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let (server, tls) = (&self.url, Some(&self.tls));
        let page = Fetch { server, path, tls, patience: PATIENCE, largest: LARGEST }.get().await;
        page.map_err(|fault| fault.to_string())
    }
}

/// The tokens that these settings believe, by the keys of `source`.
pub(super) fn tokens(settings: &Settings, source: Option<&Arc<KeySource>>) -> Option<Tokens> {
    let (tokens, source) = settings.callers.tokens.as_ref().zip(source)?;
    Some(Tokens::new(tokens.tokens.clone(), Arc::clone(&source.keys)))
}

impl App {
    /// Keeps the keys of tokens fresh, wherever the latest settings say they are.
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
