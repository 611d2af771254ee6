//! The list of served models, merged from all pools and answered by the gateway.
//!
//! Clients ask for it at every start and chat pages at every load, so it takes no permit and is
//! cached for some seconds. The gateway asks a worker of each pool for its models, and leaves out
//! those that it would route to another pool. A pool whose workers give no list, or take requests
//! from a queue, is listed with the names without `*` from its settings and heartbeats. Aliases of
//! served models are listed too, and each caller sees only the models that it may ask for.
//!
//! A request with `anthropic-version` gets the list in the format of Anthropic's API.
//!
//! **Failure mode.** A silent pool keeps its last list. Without any list the request is refused, and
//! so are others with the same credentials for a second: a client that repeats a wrong key must not
//! take all fetches.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::join_all;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower::{Layer, Service};

use super::passed::{PassedOr, answered, passed};
use super::paths::{ANTHROPIC_VERSION, MODEL, MODELS};
use super::rescue::AnswerBody;
use super::shed::no_such_model;
use crate::clock::{Clock, Nanos};
use crate::fleet::{Fleet, Pool};
use crate::models::ModelTable;
use crate::refusal::{Reason, Refusal, with_jitter};
use crate::request::{
    AllowedModels, Caller, DecodedPath, Ending, Forwarding, GatewayRequest, Kind, Payload, RequestCost,
    RequestRecord,
};

/// How long a list is cached, and how long it is known that there is none.
const FRESH: Duration = Duration::from_secs(5);
const FRESH_FAILURE: Duration = Duration::from_secs(1);
/// Timeout of a pool's answer, and of a request's wait for its turn to ask the pools.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of fetches at once. Other requests wait, and mostly use a list fetched meanwhile.
const AT_ONCE: usize = 4;
/// Maximum number of cached lists; there is one for each set of credentials that reaches workers.
const KEPT: usize = 64;
/// Maximum length of a worker's answer, in bytes.
const MAX_BYTES: usize = 1 << 20;
/// Maximum number of models of a pool.
const MAX_MODELS: usize = 1024;
/// Maximum length of a model's name, in bytes; longer names are left out.
const LONGEST_NAME: usize = 256;
/// Headers with credentials, by which a worker may answer clients differently.
const CREDENTIALS: [HeaderName; 2] = [AUTHORIZATION, HeaderName::from_static("x-api-key")];

/// Cache of the lists of served models.
#[derive(Debug)]
pub(crate) struct ModelCache {
    fleet: Arc<ArcSwap<Fleet>>,
    names: Arc<ModelTable>,
    /// `true` if workers can be asked; `false` for those that take requests from a queue.
    can_ask: bool,
    /// `true` if the client's own credentials are forwarded to workers.
    forward_authorization: bool,
    clock: Clock,
    lists: Mutex<HashMap<u64, Arc<ModelLists>>>,
    fetch_permits: Semaphore,
    hasher: RandomState,
}

/// The last known models of each pool, and the time of the fetch. Without a pool it has failed.
#[derive(Debug)]
struct ModelLists {
    read: Nanos,
    pools: HashMap<Arc<str>, Arc<[Value]>>,
    /// `true` if a pool did not accept the client's credentials.
    unauthorized: bool,
}

/// Why a pool gave no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoModels {
    /// It does not accept the client's credentials.
    Unauthorized,
    Other,
}

#[derive(Deserialize)]
struct ModelList {
    data: Vec<Value>,
}

impl ModelCache {
    /// Creates an empty cache.
    #[must_use]
    pub(crate) fn new(
        fleet: Arc<ArcSwap<Fleet>>,
        names: Arc<ModelTable>,
        can_ask: bool,
        forward_authorization: bool,
        clock: Clock,
    ) -> Self {
        let (lists, fetch_permits) = (Mutex::default(), Semaphore::new(AT_ONCE));
        Self {
            fleet,
            names,
            can_ask,
            forward_authorization,
            clock,
            lists,
            fetch_permits,
            hasher: RandomState::new(),
        }
    }

    /// Returns the list for a client with these headers, from the cache or from the pools.
    async fn list<S, R>(&self, inner: S, headers: &HeaderMap) -> Result<Arc<ModelLists>, Refusal>
    where
        S: Service<Request<Payload>, Response = Response<R>, Error = Refusal> + Clone,
        R: Body<Data = Bytes>,
        R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut forwarded = HeaderMap::new();
        if self.forward_authorization && self.can_ask {
            let known = CREDENTIALS.into_iter().filter_map(|name| Some((name.clone(), headers.get(&name)?)));
            forwarded.extend(known.map(|(name, value)| (name, value.clone())));
        }
        let credentials = CREDENTIALS.map(|name| forwarded.get(name).map(HeaderValue::as_bytes));
        let key = self.hasher.hash_one(credentials);
        if let Some(list) = self.fresh(key) {
            return list.or_refusal();
        }
        let turn = timeout(TIMEOUT, self.fetch_permits.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            let message = "Too many requests wait for the list of models.";
            return Err(Refusal::new(Reason::Overloaded, message).with_retry_after(with_jitter(TIMEOUT)));
        };
        // Another request may have fetched it meanwhile.
        if let Some(list) = self.fresh(key) {
            return list.or_refusal();
        }
        let fleet = self.fleet.load_full();
        let asked = fleet.pools().iter().map(|pool| self.ask(inner.clone(), &fleet, pool, &forwarded));
        let answers = join_all(asked).await;
        let before = self.lists.lock().get(&key).map(Arc::clone);
        let mut pools = HashMap::new();
        let mut unauthorized = false;
        for (pool, answer) in fleet.pools().iter().zip(answers) {
            let models = match answer {
                Ok(models) => Some(models.into()),
                Err(reason) => {
                    unauthorized |= reason == NoModels::Unauthorized;
                    let before = before.as_ref().and_then(|list| list.pools.get(&pool.name));
                    before.cloned().or_else(|| configured_models(pool).map(Into::into))
                }
            };
            pools.extend(models.map(|models| (Arc::clone(&pool.name), models)));
        }
        let list = Arc::new(ModelLists { read: self.clock.now(), pools, unauthorized });
        self.keep(key, &list);
        list.or_refusal()
    }

    fn keep(&self, key: u64, list: &Arc<ModelLists>) {
        let mut lists = self.lists.lock();
        if lists.len() >= KEPT && !lists.contains_key(&key) {
            // Wrong keys must not drive out the lists of right ones.
            let oldest = lists.iter().min_by_key(|(_, list)| (list.has_models(), list.read));
            let oldest = oldest.map(|(key, _)| *key);
            oldest.and_then(|key| lists.remove(&key));
        }
        lists.insert(key, Arc::clone(list));
    }

    fn fresh(&self, key: u64) -> Option<Arc<ModelLists>> {
        let now = self.clock.now();
        self.lists.lock().get(&key).filter(|list| list.is_fresh(now)).cloned()
    }

    async fn ask<S, R>(
        &self,
        mut inner: S,
        fleet: &Fleet,
        pool: &Pool,
        credentials: &HeaderMap,
    ) -> Result<Vec<Value>, NoModels>
    where
        S: Service<Request<Payload>, Response = Response<R>, Error = Refusal>,
        R: Body<Data = Bytes>,
        R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        if !self.can_ask {
            return Err(NoModels::Other);
        }
        let mut request = Request::new(Payload::empty());
        *request.uri_mut() = http::Uri::from_static(MODELS);
        request.headers_mut().extend(credentials.clone());
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        let record = RequestRecord::new(format!("{:032x}", fastrand::u128(..)), self.clock.now());
        let extensions = request.extensions_mut();
        extensions.insert(Arc::new(record));
        extensions.insert(RequestCost { kind: Kind::Models, ..RequestCost::path() });
        extensions.insert(GatewayRequest(Arc::clone(&pool.name)));
        let answer = async {
            let answer = inner.call(request).await.map_err(|_| NoModels::Other)?;
            match answer.status() {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(NoModels::Unauthorized),
                status if !status.is_success() => return Err(NoModels::Other),
                _ => {}
            }
            let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
            body.map(http_body_util::Collected::to_bytes).map_err(|_| NoModels::Other)
        };
        let body = timeout(TIMEOUT, answer).await.map_err(|_| NoModels::Other)??;
        let ModelList { data } = serde_json::from_slice(&body).map_err(|_| NoModels::Other)?;
        let served = |model: &Value| {
            let id = name_of(model).filter(|id| (1..=LONGEST_NAME).contains(&id.len()));
            id.and_then(|id| fleet.route(Some(id))).is_some_and(|there| there.name == pool.name)
        };
        Ok(data.into_iter().filter(served).take(MAX_MODELS).collect())
    }
}

impl ModelLists {
    fn has_models(&self) -> bool {
        !self.pools.is_empty()
    }

    fn is_fresh(&self, now: Nanos) -> bool {
        now.since(self.read) < if self.has_models() { FRESH } else { FRESH_FAILURE }
    }

    fn or_refusal(self: Arc<Self>) -> Result<Arc<Self>, Refusal> {
        if self.has_models() {
            return Ok(self);
        }
        Err(match self.unauthorized {
            true => Refusal::new(Reason::Unauthorized, "The workers do not accept this API key."),
            false => Refusal::new(Reason::NoWorker, "No worker returned its list of models.")
                .with_retry_after(with_jitter(TIMEOUT)),
        })
    }

    /// Returns the models that a caller may ask for, aliases included, by name.
    fn models(&self, names: &ModelTable, allowed: Option<&AllowedModels>) -> Vec<Value> {
        let served = self.pools.values().flat_map(|models| &**models).filter_map(name_of);
        let aliases = names.aliases().map(|(alias, _)| &**alias);
        let mut ids: Vec<&str> = served.chain(aliases).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().filter_map(|id| self.find(id, names, allowed)).collect()
    }

    /// Returns the model that a caller gets by this name: for an alias, the first of its models that
    /// is served, under its own name.
    fn find(&self, id: &str, names: &ModelTable, allowed: Option<&AllowedModels>) -> Option<Value> {
        if !allowed.is_none_or(|models| models.allows(Some(id))) {
            return None;
        }
        let served = |id: &str| {
            self.pools.values().flat_map(|models| &**models).find(|model| name_of(model) == Some(id))
        };
        let aliased = names.served_as(id);
        if aliased.is_empty() {
            return served(id).cloned();
        }
        let mut model = aliased.iter().find_map(|name| served(name)).cloned()?;
        if let Some(fields) = model.as_object_mut() {
            fields.insert("id".to_owned(), id.into());
        }
        Some(model)
    }
}

/// Formats a model as Anthropic's API does.
fn as_anthropic(model: &Value) -> Value {
    let id = name_of(model).unwrap_or_default();
    // Anthropic's API gives this date for a model whose own is unknown. A worker's `created` would not
    // do: it is the time of its start.
    json!({ "type": "model", "id": id, "display_name": id, "created_at": "1970-01-01T00:00:00Z" })
}

/// Formats a list of models for clients of OpenAI's or Anthropic's API.
fn list_for(models: &[Value], anthropic: bool) -> Value {
    if !anthropic {
        return json!({ "object": "list", "data": models });
    }
    let [first, last] = [models.first(), models.last()].map(|model| model.and_then(name_of));
    let models: Vec<Value> = models.iter().map(as_anthropic).collect();
    json!({ "data": models, "has_more": false, "first_id": first, "last_id": last })
}

fn name_of(model: &Value) -> Option<&str> {
    model.get("id")?.as_str()
}

/// Lists the models of a pool without asking its workers; `None` if all of its names contain `*`.
fn configured_models(pool: &Pool) -> Option<Vec<Value>> {
    let names = pool.models.iter().map(|pattern| &**pattern.text()).filter(|name| !name.contains('*'));
    let models: Vec<_> = names
        .map(|id| json!({ "id": id, "object": "model", "created": 0, "owned_by": &*pool.name }))
        .collect();
    (!models.is_empty()).then_some(models)
}

/// Layer for [`Models`].
#[derive(Clone, Debug)]
pub(crate) struct ModelsLayer(Arc<ModelCache>);

impl ModelsLayer {
    /// Creates a layer that answers from `cache`.
    #[must_use]
    pub(crate) const fn new(cache: Arc<ModelCache>) -> Self {
        Self(cache)
    }
}

impl<S> Layer<S> for ModelsLayer {
    type Service = Models<S>;

    fn layer(&self, inner: S) -> Models<S> {
        Models { cache: Arc::clone(&self.0), inner }
    }
}

/// Service that answers requests for the served models and forwards all others.
#[derive(Clone, Debug)]
pub(crate) struct Models<S> {
    cache: Arc<ModelCache>,
    inner: S,
}

impl<S, R> Service<Request<Payload>> for Models<S>
where
    S: Service<Request<Payload>, Response = Response<R>, Error = Refusal> + Clone + Send + 'static,
    S::Future: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<AnswerBody<R>>;
    type Error = Refusal;
    type Future = PassedOr<S::Future, R, AnswerBody<R>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        let asks = request
            .extensions()
            .get::<RequestCost>()
            .is_some_and(|request_cost| request_cost.kind == Kind::Models);
        if !asks {
            return passed(self.inner.call(request), |answer| answer.map(AnswerBody::inner));
        }
        let (inner, cache) = (self.inner.clone(), Arc::clone(&self.cache));
        // Split because the body need not be `Sync`.
        let (mut head, _) = request.into_parts();
        // The workers are asked with the client's credentials, but never get a key that the gateway knows.
        if let Some(forwarding) = head.extensions.get::<Forwarding>() {
            forwarding.strip.iter().for_each(|name| drop(head.headers.remove(name)));
        }
        answered(async move {
            let list = cache.list(inner, &head.headers).await?;
            let decoded = head.extensions.get::<DecodedPath>();
            let path = decoded.map_or(head.uri.path(), |decoded| &decoded.0);
            let caller = head.extensions.get::<Caller>();
            let allowed = caller.and_then(|caller| caller.models.as_deref());
            let anthropic = head.headers.contains_key(ANTHROPIC_VERSION);
            let text = match path.strip_prefix(MODEL) {
                None => list_for(&list.models(&cache.names, allowed), anthropic),
                Some(id) => match list.find(id, &cache.names, allowed) {
                    Some(model) if anthropic => as_anthropic(&model),
                    Some(model) => model,
                    None => return Err(no_such_model()),
                },
            };
            if let Some(record) = head.extensions.get::<Arc<RequestRecord>>() {
                record.set_ending(Ending::Complete);
            }
            let mut answer = Response::new(AnswerBody::text(text.to_string().into()));
            answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use http_body_util::Full;
    use tower::service_fn;

    use super::*;
    use crate::fleet::Eligibility;
    use crate::fleet::spec::WorkerSpec;
    use crate::shed::settings::GateSettings;

    /// A cache before one worker.
    fn cache(clock: &Clock, forward_authorization: bool) -> ModelCache {
        let worker = WorkerSpec {
            id: "w1".into(),
            url: "http://127.0.0.1:9".parse().expect("it is an URL"),
            pool: "chat".into(),
            model: "*".into(),
            slots: Some(1),
            kv_tokens: None,
            colour: "blue".into(),
            headers: HeaderMap::new(),
            external: None,
            address: None,
            http2: None,
        };
        let fleet = Fleet::new(vec![worker], GateSettings::default(), Eligibility::default(), clock.clone());
        let fleet = Arc::new(ArcSwap::from_pointee(fleet));
        let names = Arc::new(ModelTable::new(&[]));
        ModelCache::new(fleet, names, true, forward_authorization, clock.clone())
    }

    #[tokio::test]
    async fn the_list_is_read_at_most_every_five_seconds_whoever_asks() {
        let clock = Clock::manual(Nanos::from_secs(1));
        let cache = cache(&clock, false);
        let asked = AtomicU32::new(0);
        let worker = service_fn(|_: Request<Payload>| {
            asked.fetch_add(1, Ordering::Relaxed);
            let body = Full::new(Bytes::from_static(br#"{"data":[{"id":"qwen3"}]}"#));
            std::future::ready(Ok::<Response<Full<Bytes>>, Refusal>(Response::new(body)))
        });
        let mut headers = HeaderMap::new();
        for (seconds, calls) in [(0, 1), (4, 1), (1, 2), (4, 2)] {
            clock.advance(Duration::from_secs(seconds));
            headers.insert(AUTHORIZATION, HeaderValue::from(seconds));
            let list = cache.list(worker, &headers).await.expect("the worker answers");
            assert_eq!(list.pools["chat"][0]["id"], "qwen3");
            assert_eq!(asked.load(Ordering::Relaxed), calls, "after {seconds} more seconds");
        }
    }

    #[tokio::test]
    async fn a_wrong_key_is_tried_once_a_second_and_drives_out_no_list() {
        let clock = Clock::manual(Nanos::from_secs(1));
        let cache = cache(&clock, true);
        let asked = AtomicU32::new(0);
        let worker = service_fn(|request: Request<Payload>| {
            asked.fetch_add(1, Ordering::Relaxed);
            let mut answer = Response::new(Full::new(Bytes::from_static(br#"{"data":[{"id":"qwen3"}]}"#)));
            if request.headers().get(AUTHORIZATION).is_none_or(|key| key != "Bearer right") {
                *answer.status_mut() = StatusCode::UNAUTHORIZED;
            }
            std::future::ready(Ok::<Response<Full<Bytes>>, Refusal>(answer))
        });
        let with = |key: String| {
            let key = HeaderValue::from_str(&format!("Bearer {key}")).expect("a key is a header value");
            HeaderMap::from_iter([(AUTHORIZATION, key)])
        };
        cache.list(worker, &with("right".to_owned())).await.expect("this key is right");
        for (millis, calls) in [(0, 2), (900, 2), (100, 3)] {
            clock.advance(Duration::from_millis(millis));
            let refusal = cache.list(worker, &with("wrong".to_owned())).await.expect_err("this key is wrong");
            assert_eq!(refusal.reason, Reason::Unauthorized);
            assert_eq!(asked.load(Ordering::Relaxed), calls, "after {millis} more ms");
        }
        for number in 0..2 * KEPT {
            cache.list(worker, &with(number.to_string())).await.expect_err("this key is wrong");
        }
        let calls = asked.load(Ordering::Relaxed);
        cache.list(worker, &with("right".to_owned())).await.expect("this key is right");
        assert_eq!(asked.load(Ordering::Relaxed), calls, "its list is kept");
        assert!(cache.lists.lock().len() <= KEPT);
    }
}
