//! Responses that workers keep: a later request goes to the worker that made the response.
//!
//! A worker keeps what it answered to `POST /v1/responses`, and only that worker knows it. So the
//! gateway remembers which worker made which response, and for which caller: `previous_response_id`
//! and the paths of a response lead there, and to nobody else's. An id that is unknown, expired or
//! another caller's is answered without asking a worker.
//!
//! **Failure mode.** Without Redis a gateway knows the responses that it passed on itself since its
//! start. While Redis does not answer, so does a gateway that uses it; other ids are 502.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use sha2::{Digest, Sha256};
use tower::{Layer, Service};

use crate::clock::{Clock, Nanos};
use crate::fleet::Fleet;
use crate::layers::passed::{PassedOr, answered, passed};
use crate::layers::paths::RESPONSE;
use crate::openai::response_id::ResponseIdTap;
use crate::redis::responses::{KEPT, StoredResponses};
use crate::refusal::{Reason, Refusal};
use crate::request::{
    Caller, DecodedPath, Kind, Payload, PreviousResponse, RequestCost, RequestRecord, ToWorker,
};
use crate::table::Table;

/// Responses that a gateway remembers; at most twice as many, about 30 MB.
const REMEMBERED: usize = 65_536;

/// Who made a response, and for whom.
#[derive(Clone, Debug)]
struct ResponseHome {
    response: Arc<str>,
    caller: Arc<str>,
    worker: Arc<str>,
    since: Nanos,
}

/// The workers of the responses of the last hour.
#[derive(Debug)]
pub(crate) struct ResponseHomes {
    known: Table<Option<ResponseHome>>,
    stored: Option<StoredResponses>,
    fleet: Arc<ArcSwap<Fleet>>,
    /// `true` if the gateway chooses the workers; with a queue it does not.
    chooses: bool,
    clock: Clock,
}

impl ResponseHomes {
    /// Creates a memory of responses; with `stored` it is shared with other gateways. If the gateway
    /// does not choose the workers (`chooses`), all requests pass unchanged.
    #[must_use]
    pub(crate) fn new(
        fleet: Arc<ArcSwap<Fleet>>,
        stored: Option<StoredResponses>,
        chooses: bool,
        clock: Clock,
    ) -> Self {
        Self { known: Table::new(REMEMBERED), stored, fleet, chooses, clock }
    }

    /// Remembers that `worker` made a response for `caller`.
    fn remember(&self, id: &str, caller: &str, worker: &Arc<str>) {
        let (place, response) = digest(id);
        let caller: Arc<str> = digest(caller).1.into();
        let home = ResponseHome {
            response: response.as_str().into(),
            caller: Arc::clone(&caller),
            worker: Arc::clone(worker),
            since: self.clock.now(),
        };
        self.known.update(place, |known| *known = Some(home));
        if let Some(stored) = self.stored.clone() {
            let worker = Arc::clone(worker);
            tokio::spawn(async move {
                if let Err(loss) = stored.put(&response, &caller, &worker).await {
                    tracing::debug!(%loss, "only this gateway knows the worker of a response");
                }
            });
        }
    }

    /// Returns the worker of a response of `caller`; `None` if there is none, or it is gone.
    async fn find(&self, id: &str, caller: &str) -> Result<Option<Arc<str>>, Refusal> {
        let (place, response) = digest(id);
        let known = self.known.get(place).flatten().filter(|home| *home.response == *response);
        let fresh = known.filter(|home| self.clock.now().since(home.since) < KEPT);
        let home = match (fresh, &self.stored) {
            (Some(home), _) => Some((home.caller, home.worker)),
            (None, Some(stored)) => stored.get(&response).await.map_err(|loss| {
                let message = format!("The worker of this response could not be looked up: {loss}.");
                Refusal::new(Reason::UpstreamUnreachable, message)
            })?,
            (None, None) => None,
        };
        let own = home.filter(|(owner, _)| **owner == *digest(caller).1);
        Ok(own.map(|(_, worker)| worker).filter(|worker| self.fleet.load().worker(worker).is_some()))
    }
}

/// Returns the digest of a client's text: its place in the table, and the whole as hex digits.
fn digest(text: &str) -> (u64, String) {
    let digest = Sha256::digest(text.as_bytes());
    let place = digest.iter().take(8).fold(0, |place, byte| (place << 8) | u64::from(*byte));
    (place, digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// Layer for [`Responses`].
#[derive(Clone, Debug)]
pub(crate) struct ResponsesLayer(Arc<ResponseHomes>);

impl ResponsesLayer {
    /// Creates a layer with the memory `homes`.
    #[must_use]
    pub(crate) const fn new(homes: Arc<ResponseHomes>) -> Self {
        Self(homes)
    }
}

impl<S> Layer<S> for ResponsesLayer {
    type Service = Responses<S>;

    fn layer(&self, inner: S) -> Responses<S> {
        Responses { homes: Arc::clone(&self.0), inner }
    }
}

/// Service that sends requests about a response to its worker, and remembers new responses.
#[derive(Clone, Debug)]
pub(crate) struct Responses<S> {
    homes: Arc<ResponseHomes>,
    inner: S,
}

/// Returns the id in the path of a response, and whether the path has one of the known endings.
fn id_in(path: &str) -> Option<&str> {
    let rest = path.strip_prefix(RESPONSE)?;
    let (id, ending) = rest.split_once('/').map_or((rest, ""), |(id, ending)| (id, ending));
    (!id.is_empty() && matches!(ending, "" | "cancel" | "input_items")).then_some(id)
}

/// Makes the refusal of an id that leads nowhere.
type Unknown = fn() -> Refusal;

fn no_such_response() -> Refusal {
    Refusal::new(Reason::NotFound, "There is no response of this id: it is unknown, or older than an hour.")
}

fn no_such_previous() -> Refusal {
    let message = "There is no earlier response of this id: it is unknown, or older than an hour.";
    Refusal::new(Reason::BadRequest, message).with_param("previous_response_id")
}

impl<S, R> Service<Request<Payload>> for Responses<S>
where
    S: Service<Request<Payload>, Response = Response<R>, Error = Refusal> + Clone + Send + 'static,
    S::Future: Send + 'static,
    R: Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = Refusal;
    type Future = PassedOr<S::Future, R, ResponseBody<R>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Payload>) -> Self::Future {
        let extensions = request.extensions();
        let kind = extensions.get::<RequestCost>().map(|request_cost| request_cost.kind);
        if !self.homes.chooses || !matches!(kind, Some(Kind::Response | Kind::ResponseById)) {
            return passed(self.inner.call(request), |answer| answer.map(ResponseBody::unread));
        }
        // The service that was made ready is the one to call; its clone takes its place.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let homes = Arc::clone(&self.homes);
        let caller: Arc<str> =
            extensions.get::<Caller>().map_or("anonymous".into(), |caller| caller.id.clone());
        let record = extensions.get::<Arc<RequestRecord>>().cloned();
        let path = extensions.get::<DecodedPath>().map_or(request.uri().path(), |decoded| &decoded.0);
        let asked: Result<Option<(String, Unknown)>, Refusal> = if kind == Some(Kind::ResponseById) {
            id_in(path)
                .map(|id| Some((id.to_owned(), no_such_response as Unknown)))
                .ok_or_else(no_such_response)
        } else {
            let previous = extensions.get::<PreviousResponse>();
            Ok(previous.map(|previous| (previous.0.to_string(), no_such_previous as Unknown)))
        };
        answered(async move {
            if let Some((id, unknown)) = asked? {
                let worker = homes.find(&id, &caller).await?.ok_or_else(unknown)?;
                request.extensions_mut().insert(ToWorker(worker));
            }
            let answer = inner.call(request).await?;
            let created = kind == Some(Kind::Response) && answer.status().is_success();
            let Some(record) = record.filter(|_| created) else {
                return Ok(answer.map(ResponseBody::unread));
            };
            let kind = answer.headers().get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
            let tap = ResponseIdTap::new(kind.starts_with(b"text/event-stream"));
            let reading = Box::new(ResponseReading { tap, homes, caller, record });
            Ok(answer.map(|inner| ResponseBody { inner, reading: Some(reading) }))
        })
    }
}

#[derive(Debug)]
struct ResponseReading {
    tap: ResponseIdTap,
    homes: Arc<ResponseHomes>,
    caller: Arc<str>,
    record: Arc<RequestRecord>,
}

pin_project! {
    /// An answer in which the id of a new response is looked for.
    #[derive(Debug)]
    pub(crate) struct ResponseBody<B> {
        #[pin]
        inner: B,
        reading: Option<Box<ResponseReading>>,
    }
}

impl<B> ResponseBody<B> {
    const fn unread(inner: B) -> Self {
        Self { inner, reading: None }
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = this.inner.poll_frame(cx);
        if let (Some(reading), Poll::Ready(Some(Ok(frame)))) = (&mut *this.reading, &frame)
            && let Some(data) = frame.data_ref()
            && let Some(id) = reading.tap.feed(data)
        {
            // Before the client sees the id: it may use it at once.
            if let Some(worker) = reading.record.worker() {
                reading.homes.remember(&id, &reading.caller, worker);
            }
            *this.reading = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::spec::WorkerSpec;
    use crate::shed::settings::GateSettings;
    use futures_util::FutureExt as _;
    use std::time::Duration;

    #[test]
    fn a_path_names_a_response_and_at_most_one_thing_about_it() {
        for (path, id) in [
            ("/v1/responses/resp_1", Some("resp_1")),
            ("/v1/responses/resp_1/cancel", Some("resp_1")),
            ("/v1/responses/resp_1/input_items", Some("resp_1")),
            ("/v1/responses/", None),
            ("/v1/responses/resp_1/", Some("resp_1")),
            ("/v1/responses/resp_1/output", None),
            ("/v1/responses/resp_1/cancel/now", None),
            ("/v1/chat/completions", None),
        ] {
            assert_eq!(id_in(path), id, "{path}");
        }
    }

    #[test]
    fn a_response_is_its_callers_for_an_hour_while_its_worker_is_there() {
        let clock = Clock::manual(Nanos::from_secs(1));
        let spec = WorkerSpec {
            id: "w1".into(),
            url: "http://localhost:1".parse().unwrap(),
            pool: "p".into(),
            model: "*".into(),
            slots: None,
            kv_tokens: None,
            colour: "blue".into(),
            headers: http::HeaderMap::new(),
            external: None,
            address: None,
            http2: None,
        };
        let fleet = Fleet::new(vec![spec], GateSettings::default(), None, clock.clone());
        let homes = ResponseHomes::new(Arc::new(ArcSwap::from_pointee(fleet)), None, true, clock.clone());
        let find = |id, caller| homes.find(id, caller).now_or_never().unwrap().unwrap();
        homes.remember("resp_1", "key:a", &"w1".into());
        homes.remember("resp_2", "key:a", &"gone".into());
        assert_eq!(find("resp_1", "key:a").as_deref(), Some("w1"));
        for (id, caller) in [("resp_1", "key:b"), ("resp_2", "key:a"), ("resp_3", "key:a")] {
            assert_eq!(find(id, caller), None, "{id} of {caller}");
        }
        clock.advance(KEPT - Duration::from_millis(1));
        assert!(find("resp_1", "key:a").is_some());
        clock.advance(Duration::from_millis(1));
        assert_eq!(find("resp_1", "key:a"), None);
    }
}
