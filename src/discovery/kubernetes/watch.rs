//! Lists objects and watches them from there on.
//!
//! Each watch lasts a few seconds only; then it begins anew where it ended. So a server that answers
//! is known to answer, without requests besides, and a right that was taken away is noticed as soon.
//! What happens in between is not lost: the server keeps it under the version of the last event.
//!
//! **Failure mode.** Any error ends the stream; who follows it begins again, with a list.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use kube::api::{Api, ListParams, WatchParams};
use kube::core::{Resource, WatchEvent};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use super::error::{KubernetesError, ResourceName};

/// Length of a watch, in seconds.
const WATCH: u32 = 5;
/// Longest time for an answer, and longer than a watch that it may be silent.
const ANSWER: Duration = Duration::from_secs(3);
/// Shortest time between two lists, and between two watches that the server ended.
const PAUSE: Duration = Duration::from_secs(1);
/// Most objects of one kind, and of one page of a list.
const MOST_OBJECTS: usize = 4096;
const PAGE: u32 = 250;
/// The version is too old: the server has forgotten what happened since.
const GONE: u16 = 410;

/// News of one kind of objects.
#[derive(Debug)]
pub(super) enum Update<K> {
    /// All that there are.
    All(Vec<K>),
    /// One that is new or has changed.
    Set(K),
    /// One that is gone.
    Gone(K),
    /// Nothing has changed, and the server answers.
    Alive,
}

/// News, or why there are none.
pub(super) type Updates<K> = BoxStream<'static, Result<Update<K>, KubernetesError>>;

/// Which objects are read.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    /// Label selector.
    pub(super) labels: Option<String>,
    /// Name of the only object.
    pub(super) name: Option<String>,
}

type Events<K> = BoxStream<'static, Result<WatchEvent<K>, kube::Error>>;

enum Stage<K> {
    Unlisted,
    /// Up to this version everything was reported.
    Reported(String),
    Watching {
        version: String,
        events: Events<K>,
        since: Instant,
    },
}

struct Watch<K> {
    api: Api<K>,
    resource: ResourceName,
    selection: Selection,
}

/// Follows the selected objects until an error, which ends the stream.
pub(super) fn updates<K>(api: Api<K>, resource: ResourceName, selection: Selection) -> Updates<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let watch = Watch { api, resource, selection };
    stream::try_unfold((watch, Stage::Unlisted), |(watch, stage)| async move {
        let (update, stage) = watch.next(stage).await?;
        Ok(Some((update, (watch, stage))))
    })
    .boxed()
}

impl<K> Watch<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    async fn next(&self, mut stage: Stage<K>) -> Result<(Update<K>, Stage<K>), KubernetesError> {
        loop {
            stage = match stage {
                Stage::Unlisted => {
                    let (objects, version) = self.list().await?;
                    match self.watch(&version).await? {
                        Some(watching) => return Ok((Update::All(objects), watching)),
                        None => self.again().await,
                    }
                }
                Stage::Reported(version) => match self.watch(&version).await? {
                    Some(watching) => return Ok((Update::Alive, watching)),
                    None => self.again().await,
                },
                Stage::Watching { version, mut events, since } => {
                    let longest = Duration::from_secs(WATCH.into()) + ANSWER;
                    let event = timeout(longest, events.next()).await.map_err(|_| self.silent("watch"))?;
                    let seen = |object: &K| object.meta().resource_version.clone().unwrap_or_default();
                    match event {
                        Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                            let stage = Stage::Watching { version: seen(&object), events, since };
                            return Ok((Update::Set(object), stage));
                        }
                        Some(Ok(WatchEvent::Deleted(object))) => {
                            let stage = Stage::Watching { version: seen(&object), events, since };
                            return Ok((Update::Gone(object), stage));
                        }
                        Some(Ok(WatchEvent::Bookmark(mark))) => {
                            Stage::Watching { version: mark.metadata.resource_version, events, since }
                        }
                        Some(Ok(WatchEvent::Error(status))) if status.code == GONE => self.again().await,
                        Some(Ok(WatchEvent::Error(status))) => {
                            return Err(self.failed("watch", &kube::Error::Api(status)));
                        }
                        Some(Err(error)) => return Err(self.failed("watch", &error)),
                        None => {
                            sleep(PAUSE.saturating_sub(since.elapsed())).await;
                            Stage::Reported(version)
                        }
                    }
                }
            }
        }
    }

    async fn again(&self) -> Stage<K> {
        sleep(PAUSE).await;
        Stage::Unlisted
    }

    /// Returns all objects, and their version.
    async fn list(&self) -> Result<(Vec<K>, String), KubernetesError> {
        let mut parameters = ListParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.fields(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let mut objects = Vec::new();
        loop {
            let page = timeout(ANSWER, self.api.list(&parameters)).await;
            let page = page.map_err(|_| self.silent("list"))?.map_err(|error| self.failed("list", &error))?;
            objects.extend(page.items);
            if objects.len() > MOST_OBJECTS {
                return Err(KubernetesError::TooMany { resource: self.resource.clone(), most: MOST_OBJECTS });
            }
            parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if parameters.continue_token.is_none() {
                return Ok((objects, page.metadata.resource_version.unwrap_or_default()));
            }
        }
    }

    /// Watches from `version` on; `None` if the server has forgotten it.
    async fn watch(&self, version: &str) -> Result<Option<Stage<K>>, KubernetesError> {
        let parameters = WatchParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.fields(),
            timeout: Some(WATCH),
            ..WatchParams::default()
        };
        let events = timeout(ANSWER, self.api.watch(&parameters, version)).await;
        match events.map_err(|_| self.silent("watch"))? {
            Ok(events) => Ok(Some(Stage::Watching {
                version: version.to_owned(),
                events: events.boxed(),
                since: Instant::now(),
            })),
            Err(kube::Error::Api(status)) if status.code == GONE => Ok(None),
            Err(error) => Err(self.failed("watch", &error)),
        }
    }

    fn fields(&self) -> Option<String> {
        self.selection.name.as_ref().map(|name| format!("metadata.name={name}"))
    }

    fn silent(&self, verb: &'static str) -> KubernetesError {
        KubernetesError::Silent { verb, resource: self.resource.clone() }
    }

    fn failed(&self, verb: &'static str, error: &kube::Error) -> KubernetesError {
        KubernetesError::of(verb, &self.resource, error)
    }
}
