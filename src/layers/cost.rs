//! Request cost: matches the path, reads the body within its bounds, and computes the cost from it.
//!
//! Limits and routing need the cost before anything is sent. So the body of an OpenAI endpoint is
//! read whole, up to `bounds.body`, parsed in place and forwarded as the same memory; of a large
//! one only as much as tells the cost (`held`). Bodies of other paths are forwarded
//! as they arrive.

use std::hash::Hasher;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, HeaderMap, UPGRADE};
use http::{HeaderName, HeaderValue, Method, Request, Response, Version, request};
use http_body::Body;
use http_body_util::BodyExt;
use siphasher::sip::SipHasher13;
use smallvec::SmallVec;
use tower::{Layer, Service};

use crate::clock::{Clock, Nanos};
use crate::estimate::{Estimator, MediaTokens, PromptEstimate, PromptText};
use crate::layers::body::{BodyGuard, Guarded};
use crate::layers::buffers::Buffers;
use crate::layers::forms::{boundary_of, read_start};
use crate::layers::held::{HeldBody, HeldBounds, read_held};
use crate::layers::intake::{BoundedBody, IntakeBounds, read};
use crate::layers::jobs::IDEMPOTENCY_KEY;
use crate::layers::limit::LimitLayer;
use crate::layers::paths::{Matched, Paths};
use crate::layers::prefixes::Prefixes;
use crate::layers::tokenizers::Tokenizers;
use crate::metrics::Metrics;
use crate::models::{ModelRoute, ModelTable};
use crate::net::fields::{elements_of, is_encoded};
use crate::openai::body::{Facts, ModelText, Pointer, Shape, SplicedBody, parse, spliced};
use crate::openai::dialect::Dialect;
use crate::openai::kinds::{self, BodyUse, Output};
use crate::openai::tap::without_mark;
use crate::refusal::{Reason, Refusal};
use crate::request::{
    BodyReservation, Caller, DecodedPath, Ending, Explaining, Kind, ModelPart, Payload, PreviousResponse,
    RequestCost, RequestRecord, UpgradeTo, UsageInjected,
};

/// Request header that shortens the request's wait, in milliseconds from its arrival.
const DEADLINE_HEADER: HeaderName = HeaderName::from_static("x-traffic-dam-deadline-ms");

/// Where a request names its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionSource {
    /// In a header.
    Header(HeaderName),
    /// In a cookie of this name.
    Cookie(Arc<str>),
    /// In the body, unless the shape of its route points elsewhere.
    Body(Pointer),
}

/// State shared by all services of the layer.
#[derive(Debug)]
pub(crate) struct CostSettings {
    /// The paths that are let through.
    pub paths: Arc<Paths>,
    /// The rules; some are evaluated before the body is read.
    pub rules: LimitLayer,
    /// The bounds of one body by kind.
    pub limits: [IntakeBounds; kinds::COUNT],
    /// How much of a large body is held.
    pub held: HeldBounds,
    /// Tokens of pictures, sound and video.
    pub media: MediaTokens,
    /// The memory shared by all buffered bodies.
    pub buffers: Arc<Buffers>,
    /// The names that models are served as, and their fallbacks.
    pub models: Arc<ModelTable>,
    /// Where requests name their session.
    pub sticky: SessionSource,
    /// `true` if a rule counts tokens, so that streams must report their usage.
    pub wants_usage: bool,
    /// `true` if a rule reserves the request's own bound on output tokens (`reserve: max`).
    pub reserves_max: bool,
    /// Estimates of prompt and output tokens, learned from answers.
    pub estimates: Arc<Estimator>,
    /// Counts prompts of the models that have a tokenizer.
    pub exact: Arc<Tokenizers>,
    /// Hashes prompts, if workers are chosen by what they have cached.
    pub prefixes: Option<Prefixes>,
    /// Receives the errors of the token estimates.
    pub metrics: Arc<Metrics>,
    /// Clock of arrival times and deadlines.
    pub clock: Clock,
}

impl CostSettings {
    /// Matches the request's head, or refuses the request by it.
    fn matched(&self, parts: &request::Parts) -> Result<Matched, Refusal> {
        let matched = self.paths.find(&parts.method, parts.uri.path())?;
        if matched.kind != Kind::Path && offers_another_protocol(&parts.headers) {
            return Err(Refusal::new(Reason::Unsupported, "This path does not support protocol upgrades.")
                .with_param("upgrade"));
        }
        if matched.shape.is_some() && is_encoded(&parts.headers) {
            return Err(Refusal::new(
                Reason::UnsupportedEncoding,
                "The request body must not be compressed: the gateway reads it to compute the cost.",
            )
            .with_param("content-encoding"));
        }
        Ok(matched)
    }

    const fn limits_of(&self, kind: Kind) -> IntakeBounds {
        self.limits[kind as usize]
    }

    fn deadline(&self, headers: &HeaderMap, arrived: Nanos) -> Result<Option<Nanos>, Refusal> {
        let Some(value) = headers.get(&DEADLINE_HEADER) else { return Ok(None) };
        match value.to_str().ok().and_then(|text| text.parse().ok()) {
            Some(millis) => Ok(Some(arrived + Duration::from_millis(millis))),
            None => Err(Refusal::new(
                Reason::BadRequest,
                "The header `x-traffic-dam-deadline-ms` must be a whole number of milliseconds.",
            )
            .with_param("x-traffic-dam-deadline-ms")),
        }
    }

    fn session(&self, headers: &HeaderMap, in_body: Option<&str>, caller: &str) -> Option<u64> {
        let name = match &self.sticky {
            SessionSource::Header(header) => headers.get(header)?.as_bytes(),
            SessionSource::Cookie(wanted) => cookie(headers, wanted)?.as_bytes(),
            SessionSource::Body(_) => in_body?.as_bytes(),
        };
        // A fixed hash key, so that all gateways agree on a worker. The caller is hashed too, so
        // that no caller can name another's session.
        let mut hasher = SipHasher13::new();
        hasher.write(caller.as_bytes());
        hasher.write_u8(0);
        hasher.write(name);
        (!name.is_empty()).then(|| hasher.finish())
    }

    /// Finds how the model of a request is served. Without a session its caller decides on shares.
    fn route(
        &self,
        model: Option<&str>,
        caller: Option<&Caller>,
        id: &str,
        session: Option<u64>,
        may_fall_back: bool,
    ) -> Option<ModelRoute> {
        let allowed = caller.and_then(|caller| caller.models.as_deref());
        let key = session.unwrap_or_else(|| SipHasher13::new().hash(id.as_bytes()));
        self.models.route(model, allowed, key, may_fall_back)
    }

    /// Computes the cost of a request whose body was read.
    fn request_cost(
        &self,
        matched: &Matched,
        facts: &Facts,
        prompt: PromptEstimate,
        caller: &str,
        body: &Bytes,
    ) -> RequestCost {
        let decodes = kinds::row(facts.kind).output != Output::Nothing;
        let expected = match decodes {
            true => self.estimates.output(caller, facts.model.as_deref(), facts.max_tokens),
            false => 0,
        };
        RequestCost {
            kind: facts.kind,
            model: facts.model.clone(),
            prompt_tokens: prompt.tokens,
            max_tokens: if decodes { facts.max_tokens } else { Some(0) },
            expected_output: expected.saturating_mul(facts.sequences.into()),
            sequences: facts.sequences,
            stream: facts.stream,
            session: None,
            prefix: None,
            body_bytes: body.len() as u64,
            deadline: None,
            retryable: matched.retryable && !(kinds::row(facts.kind).stores && facts.store),
        }
    }
}

/// Returns `true` if `Upgrade` offers a protocol other than `h2c` (HTTP/2). Common clients offer
/// `h2c` with every first request, and HTTP lets a server ignore it.
fn offers_another_protocol(headers: &HeaderMap) -> bool {
    elements_of(headers, &UPGRADE).any(|protocol| !protocol.eq_ignore_ascii_case(b"h2c"))
}

/// Returns `true` if a request without a body asks for a WebSocket: GET over HTTP/1.1. No other
/// protocol is tunnelled: HTTP/2 or TLS could carry further requests past the checks of path, key
/// and rules. An offer that `Connection` does not name was not made for this connection (RFC 9110
/// §7.8): some proxy forwarded it unread.
fn asks_for_websocket(parts: &request::Parts) -> bool {
    parts.version == Version::HTTP_11
        && parts.method == Method::GET
        && elements_of(&parts.headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
        && elements_of(&parts.headers, &UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}

fn cookie<'h>(headers: &'h HeaderMap, wanted: &str) -> Option<&'h str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == wanted).then_some(value))
}

/// Guard of an answer: updates the estimates when dropped.
#[derive(Debug)]
pub(crate) struct UsageFeedback {
    intake: Arc<CostSettings>,
    record: Arc<RequestRecord>,
    caller: Arc<str>,
    model: Option<Arc<str>>,
    prompt: PromptEstimate,
    expected_output: u64,
    sequences: u64,
}

impl BodyGuard for UsageFeedback {}

impl Drop for UsageFeedback {
    fn drop(&mut self) {
        // An answer that was cut short says nothing about the usual length.
        if self.record.ending() != Ending::Complete || self.record.error().is_some() {
            return;
        }
        let CostSettings { estimates, metrics, .. } = &*self.intake;
        let model = self.model.as_deref();
        let output = self.record.output_tokens();
        if output > 0 {
            estimates.learn_output(&self.caller, model, output / self.sequences);
        }
        if let Some((prompt, output)) = self.record.usage().filter(|(prompt, _)| *prompt > 0) {
            estimates.learn_prompt(model, self.prompt, prompt);
            metrics.token_estimate(self.prompt.tokens + self.expected_output, prompt + output);
        }
    }
}

/// Layer for [`Cost`].
#[derive(Clone, Debug)]
pub(crate) struct CostLayer(Arc<CostSettings>);

impl CostLayer {
    /// Creates a layer with the state `intake`.
    #[must_use]
    pub(crate) const fn new(intake: Arc<CostSettings>) -> Self {
        Self(intake)
    }
}

impl<S> Layer<S> for CostLayer {
    type Service = Cost<S>;

    fn layer(&self, inner: S) -> Cost<S> {
        Cost { intake: Arc::clone(&self.0), inner }
    }
}

/// Service that puts [`RequestCost`] into each request and turns its body into a [`Payload`].
#[derive(Clone, Debug)]
pub(crate) struct Cost<S> {
    intake: Arc<CostSettings>,
    inner: S,
}

/// A request with its cost computed, and guards that must live while it is served.
struct CostedRequest {
    request: Request<Payload>,
    lesson: Option<UsageFeedback>,
    room: Option<BodyReservation>,
}

/// Reads a body of JSON: whole, or of a large one as much as decides its cost. With an idempotency
/// key the body is compared with an earlier one, so it is read whole.
async fn read_json<B>(
    intake: &CostSettings,
    headers: &HeaderMap,
    shape: &Shape,
    body: B,
    caller: &Arc<str>,
) -> Result<HeldBody, Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::fmt::Display,
{
    let (limits, held) = (intake.limits_of(shape.kind()), intake.held);
    match held.json.filter(|_| !headers.contains_key(IDEMPOTENCY_KEY)) {
        Some(needs) if body.size_hint().lower() > held.bytes && kinds::row(shape.kind()).cost_from_start => {
            let bounds = (limits, held.bytes, needs);
            // Rare, and large: the usual request carries none of it.
            Box::pin(read_held(body, shape, bounds, &intake.buffers, caller)).await
        }
        _ => {
            let (bytes, hold) = read(body, limits, &intake.buffers, caller).await?;
            Ok(HeldBody { bytes, hold, rest: None })
        }
    }
}

/// Computes the cost of a form, of which only the beginning is read: its size tells how much sound it
/// holds. Until it is sent, its beginning is in memory, so another model may take it over.
async fn form_cost<B>(
    intake: &CostSettings,
    matched: &Matched,
    parts: &mut request::Parts,
    body: B,
    boundary: &str,
    caller: &Arc<str>,
) -> Result<(RequestCost, Payload, BodyReservation), Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let announced = body.size_hint().lower();
    let mut body = BoundedBody::new(body, intake.limits_of(matched.kind))?.boxed_unsync();
    let (start, hold) = read_start(&mut body, boundary, intake.held.bytes, &intake.buffers, caller).await?;
    let session = intake.session(&parts.headers, None, caller);
    let request_cost = RequestCost {
        kind: matched.kind,
        model: start.model.clone(),
        prompt_tokens: intake.media.of_bytes(announced),
        max_tokens: Some(0),
        session,
        ..RequestCost::path()
    };
    let route = intake.route(start.model.as_deref(), parts.extensions.get::<Caller>(), caller, session, true);
    let served = route.as_ref().and_then(ModelRoute::served).map(|served| &**served);
    let (payload, part) = start.payload(body, served);
    if let (Some(part), Some(route)) = (part, route) {
        if route.served().is_some() || route.has_fallback() {
            parts.headers.remove(http::header::CONTENT_LENGTH);
            parts.extensions.insert(part);
        }
        insert_route(parts, route);
    }
    explain_streamed(parts);
    Ok((request_cost, payload, BodyReservation(Arc::new(hold))))
}

/// Notes for `x-traffic-dam-explain` that the body is forwarded as it arrives.
fn explain_streamed(parts: &request::Parts) {
    if let Some(explaining) = parts.extensions.get::<Explaining>() {
        explaining.set_body("\"(body)\";handling=streamed;retry=never");
    }
}

/// Adds the route of the request's model, and records under which name it is served.
fn insert_route(parts: &mut request::Parts, route: ModelRoute) {
    if let (Some(record), Some(served)) = (parts.extensions.get::<Arc<RequestRecord>>(), route.served()) {
        record.set_served(served);
    }
    parts.extensions.insert(Arc::new(route));
}

async fn compute_cost<B>(intake: &Arc<CostSettings>, request: Request<B>) -> Result<CostedRequest, Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::fmt::Display,
{
    let (mut parts, body) = request.into_parts();
    let record = parts.extensions.get::<Arc<RequestRecord>>().cloned();
    let matched = intake.matched(&parts)?;
    if let Some(record) = &record {
        record.set_route(&matched.label);
    }
    // Only without a body: two servers may disagree on where a body ends and the tunnel begins.
    if matched.kind == Kind::Path && body.is_end_stream() && asks_for_websocket(&parts) {
        parts.extensions.insert(UpgradeTo(HeaderValue::from_static("websocket")));
    }
    if let Some(path) = &matched.decoded {
        let path = DecodedPath(Arc::clone(path));
        parts.extensions.insert(path);
    }
    if let Some(timeouts) = matched.timeouts {
        parts.extensions.insert(timeouts);
    }
    if matched.dialect != Dialect::default() {
        parts.extensions.insert(matched.dialect);
    }
    let caller =
        parts.extensions.get::<Caller>().map_or_else(|| "anonymous".into(), |caller| Arc::clone(&caller.id));

    let form = match kinds::row(matched.kind).body {
        BodyUse::JsonOrForm => boundary_of(&parts.headers)?,
        BodyUse::Passed | BodyUse::Json => None,
    };
    let (mut request_cost, payload, lesson, room) = if let Some(boundary) = form {
        intake.rules.check_before_body(&parts.uri, &parts.extensions)?;
        let (request_cost, payload, room) =
            Box::pin(form_cost(intake, &matched, &mut parts, body, &boundary, &caller)).await?;
        (request_cost, payload, None, Some(room))
    } else if let Some(shape) = &matched.shape {
        intake.rules.check_before_body(&parts.uri, &parts.extensions)?;
        let HeldBody { bytes, hold, rest } = read_json(intake, &parts.headers, shape, body, &caller).await?;
        let bytes = bytes.slice_ref(without_mark(&bytes));
        let (mut facts, rest) = match rest {
            Some((facts, rest)) => (facts, Some(rest)),
            None => (parse(shape, &bytes)?, None),
        };
        // Known like token ids: no factor is learned for them.
        facts.prompt_tokens = facts.prompt_tokens.saturating_add(intake.media.of(
            facts.model.as_deref().unwrap_or_default(),
            facts.pictures,
            facts.sound_bytes,
        ));
        if facts.unbounded && intake.reserves_max {
            return Err(Refusal::new(
                Reason::BadRequest,
                "A rule of this gateway reserves `max_tokens` (`reserve: max`), so `max_tokens` \
                 must not be negative: set a limit or omit it.",
            )
            .with_param("max_tokens"));
        }
        let session = intake.session(&parts.headers, facts.session.as_deref(), &caller);
        // Only the worker that made the earlier response knows it.
        let may_fall_back = facts.previous.is_none();
        let known = parts.extensions.get::<Caller>();
        let route = intake.route(facts.model.as_deref(), known, &caller, session, may_fall_back);
        let served = route.as_ref().and_then(ModelRoute::served).map(|served| &**served);
        let exact = match &rest {
            None => intake.exact.count(shape, &facts, served, &bytes).await,
            Some(_) => None,
        };
        let text = match exact {
            Some(tokens) => PromptText::Tokens(tokens),
            None => PromptText::Bytes(facts.prompt_bytes),
        };
        let prompt = intake.estimates.prompt(facts.model.as_deref(), text, facts.prompt_tokens);
        let mut request_cost = intake.request_cost(&matched, &facts, prompt, &caller, &bytes);
        // It can be sent only once.
        request_cost.retryable &= rest.is_none();
        if let Some(prefixes) = &intake.prefixes {
            request_cost.prefix = prefixes.of(shape, &facts, &bytes, parts.extensions.get());
        }
        // What is only partly known teaches nothing.
        let teaches = kinds::row(matched.kind).beside.is_none() && rest.is_none();
        let lesson = record.as_ref().filter(|_| teaches).map(|record| UsageFeedback {
            intake: Arc::clone(intake),
            record: Arc::clone(record),
            caller: Arc::clone(&caller),
            model: facts.model.clone(),
            prompt,
            expected_output: request_cost.expected_output,
            sequences: u64::from(facts.sequences).max(1),
        });
        let wants_usage = intake.wants_usage && facts.lacks_usage();
        let model = match served {
            Some(served) => ModelText::Named(served),
            None if route.as_ref().is_some_and(ModelRoute::has_fallback) => ModelText::Apart,
            None => ModelText::Unchanged,
        };
        let pieces = if wants_usage || model != ModelText::Unchanged {
            if wants_usage {
                parts.extensions.insert(UsageInjected);
            }
            parts.headers.remove(http::header::CONTENT_LENGTH);
            let SplicedBody { pieces, model } = spliced(&bytes, &facts, wants_usage, model);
            if let Some(index) = model {
                parts.extensions.insert(ModelPart { index, json: true });
            }
            pieces
        } else {
            SmallVec::from_iter((!bytes.is_empty()).then_some(bytes))
        };
        let payload = match rest {
            None => Payload::buffered(pieces),
            Some(rest) => {
                explain_streamed(&parts);
                Payload::streaming(pieces, rest)
            }
        };
        if let Some(previous) = &facts.previous {
            parts.extensions.insert(PreviousResponse(Arc::from(&**previous)));
        }
        if let Some(route) = route {
            insert_route(&mut parts, route);
        }
        let room = BodyReservation(Arc::new(hold));
        // A retry may send the body again, so the request holds its memory too.
        parts.extensions.insert(room.clone());
        request_cost.session = session;
        (request_cost, payload, lesson, Some(room))
    } else {
        let payload = if body.is_end_stream() {
            Payload::empty()
        } else {
            let rest = BoundedBody::new(body, intake.limits_of(matched.kind))?.boxed_unsync();
            Payload::streaming(SmallVec::new(), rest)
        };
        let request_cost = RequestCost {
            kind: matched.kind,
            retryable: matched.retryable,
            session: intake.session(&parts.headers, None, &caller),
            ..RequestCost::path()
        };
        (request_cost, payload, None, None)
    };
    let now = intake.clock.now();
    request_cost.deadline =
        intake.deadline(&parts.headers, record.as_ref().map_or(now, |record| record.started))?;
    if let Some(record) = &record {
        record.set_received(now);
        record.set_asked(&request_cost);
    }
    parts.extensions.insert(request_cost);
    Ok(CostedRequest { request: Request::from_parts(parts, payload), lesson, room })
}

impl<S, B, R> Service<Request<B>> for Cost<S>
where
    S: Service<Request<Payload>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<Refusal>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::fmt::Display,
{
    type Response = Response<Guarded<R, Option<UsageFeedback>>>;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Refusal>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The service that was made ready is the one to call; its clone takes its place.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let intake = Arc::clone(&self.intake);
        Box::pin(async move {
            let CostedRequest { request, lesson, room } = compute_cost(&intake, request).await?;
            let response = inner.call(request).await.map_err(Into::into)?;
            // The answer has begun: only a request that may be retried still holds the memory.
            drop(room);
            Ok(response.map(|body| Guarded::new(body, lesson)))
        })
    }
}
