//! The API server: how it is reached, and what is watched there.

use std::fmt::Debug;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, SelectAll, StreamExt};
use http::Response;
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::client::ConfigExt;
use kube::core::{GroupVersionKind, NamespaceResourceScope, PartialObjectMeta};
use kube::{Client, Config, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::net::lookup_host;
use tower::{BoxError, ServiceBuilder};

use super::error::{KubernetesError, ResourceName};
use super::records::{PodRecord, PoolRecord, RecordUpdate, SliceRecord};
use super::target::{KubernetesEndpoints, KubernetesTarget};
use super::watch::{Selection, Update, updates};

/// Label of a slice that names its service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Group, version, kind and plural of an InferencePool of the Gateway API.
const INFERENCE_POOL: (&str, &str, &str, &str) =
    ("inference.networking.k8s.io", "v1", "InferencePool", "inferencepools");
/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(3);
/// Largest answer: a page of a list, or the events of one watch.
const LARGEST_ANSWER: usize = 32 << 20;

/// News of the objects of a target.
#[derive(Debug)]
pub(super) enum Change {
    Slices(RecordUpdate<SliceRecord>),
    Pods(RecordUpdate<PodRecord>),
    Pool(RecordUpdate<PoolRecord>),
}

type ChangeStream = BoxStream<'static, Result<Change, KubernetesError>>;

/// The API server, as one account sees it.
pub(super) struct Cluster {
    client: Client,
    /// The namespace of the target.
    pub(super) namespace: Arc<str>,
    /// Addresses of the API server.
    pub(super) addresses: Vec<IpAddr>,
}

/// What is watched for a target.
pub(super) struct Feeds {
    /// The InferencePool, which says which pods are watched.
    pool: Option<ChangeStream>,
    others: SelectAll<ChangeStream>,
}

impl Cluster {
    /// Finds the API server, and makes a client for it. Nothing is asked yet.
    pub(super) async fn find(target: &KubernetesTarget) -> Result<Self, KubernetesError> {
        let config = Config::infer().await.map_err(KubernetesError::NoServer)?;
        let host = config.cluster_url.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let found =
            lookup_host((host.as_str(), 0)).await.map(|found| found.map(|place| place.ip()).collect());
        let addresses = found.map_err(|source| KubernetesError::NoAddress { host, source })?;
        let namespace =
            target.namespace.clone().unwrap_or_else(|| Arc::from(config.default_namespace.as_str()));
        let client = client(&config).map_err(KubernetesError::Client)?;
        Ok(Self { client, namespace, addresses })
    }

    /// Watches what `target` needs.
    pub(super) fn watch(&self, target: &KubernetesTarget) -> Feeds {
        let mut feeds = Feeds { pool: None, others: SelectAll::new() };
        match &target.endpoints {
            KubernetesEndpoints::Service(name) => {
                let labels = Some(format!("{SERVICE_LABEL}={name}"));
                let read = |slice: &EndpointSlice| Ok(SliceRecord::read(slice));
                let selection = Selection { labels, name: None };
                feeds.others.push(self.changes(self.typed(), &(), selection, read, Change::Slices));
                if target.labels.is_some() {
                    let read = |pod: &PartialObjectMeta<Pod>| Ok(PodRecord::of_metadata(&pod.metadata));
                    feeds.others.push(self.changes(
                        self.typed(),
                        &(),
                        Selection::default(),
                        read,
                        Change::Pods,
                    ));
                }
            }
            KubernetesEndpoints::Selector(selector) => self.watch_pods(&mut feeds, Some(selector)),
            KubernetesEndpoints::InferencePool(name) => {
                let (group, version, kind, plural) = INFERENCE_POOL;
                let kind = GroupVersionKind::gvk(group, version, kind);
                let kind = ApiResource::from_gvk_with_plural(&kind, plural);
                let api = Api::namespaced_with(self.client.clone(), &self.namespace, &kind);
                let selection = Selection { labels: None, name: Some(name.to_string()) };
                let read = |pool: &DynamicObject| {
                    PoolRecord::read(pool).ok_or_else(|| KubernetesError::Pool(pool.name_any()))
                };
                feeds.pool = Some(self.changes(api, &kind, selection, read, Change::Pool));
            }
        }
        feeds
    }

    /// Watches the pods that a selector matches, instead of those before.
    pub(super) fn watch_pods(&self, feeds: &mut Feeds, selector: Option<&str>) {
        feeds.others = SelectAll::new();
        let Some(selector) = selector else { return };
        let selection = Selection { labels: Some(selector.to_owned()), name: None };
        let read = |pod: &Pod| Ok(PodRecord::read(pod));
        feeds.others.push(self.changes(self.typed(), &(), selection, read, Change::Pods));
    }

    fn typed<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn changes<K, R: Send + 'static>(
        &self,
        api: Api<K>,
        kind: &K::DynamicType,
        selection: Selection,
        read: fn(&K) -> Result<R, KubernetesError>,
        change: fn(RecordUpdate<R>) -> Change,
    ) -> ChangeStream
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let resource = ResourceName {
            plural: K::plural(kind).into_owned(),
            group: K::group(kind).into_owned(),
            namespace: self.namespace.to_string(),
        };
        let update = move |update: Update<K>| {
            Ok(change(match update {
                Update::All(objects) => {
                    let records = objects.iter().map(|object| Ok((object.name_any(), read(object)?)));
                    RecordUpdate::All(records.collect::<Result<_, KubernetesError>>()?)
                }
                Update::Set(object) => RecordUpdate::Set(object.name_any(), read(&object)?),
                Update::Gone(object) => RecordUpdate::Gone(object.name_any()),
                Update::Alive => RecordUpdate::Alive,
            }))
        };
        updates(api, resource, selection).map(move |news| news.and_then(update)).boxed()
    }
}

impl Feeds {
    /// Waits for news.
    ///
    /// # Errors
    /// Returns why there will be no more.
    pub(super) async fn next(&mut self) -> Result<Change, KubernetesError> {
        let Self { pool, others } = self;
        let pool = async {
            match pool {
                Some(pool) => pool.next().await,
                None => pending().await,
            }
        };
        let others = async { if others.is_empty() { pending().await } else { others.next().await } };
        let news = tokio::select! { news = pool => news, news = others => news };
        // A stream ends only after its error.
        news.unwrap_or(Err(KubernetesError::Ended))
    }
}

/// Returns a client. It repeats nothing by itself, because who follows a target waits between
/// attempts; and it logs no failure, because the target's handle does.
fn client(config: &Config) -> Result<Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_response(|response: Response<Incoming>| response.map(|body| Limited::new(body, LARGEST_ANSWER)))
        .map_err(BoxError::from)
        .service(HttpClient::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace.clone()))
}
