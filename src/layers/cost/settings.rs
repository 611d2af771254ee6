//! The state of the layer, and what it decides by a request's head.

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{COOKIE, HeaderMap};
use http::{HeaderName, request};
use siphasher::sip::SipHasher13;

use super::upgrade::offers_another_protocol;
use crate::clock::{Clock, Nanos};
use crate::estimate::{Estimator, MediaTokens, PromptEstimate};
use crate::layers::buffers::Buffers;
use crate::layers::held::HeldBounds;
use crate::layers::intake::IntakeBounds;
use crate::layers::limit::LimitLayer;
use crate::layers::paths::{Matched, Paths};
use crate::layers::prefixes::Prefixes;
use crate::layers::tokenizers::Tokenizers;
use crate::metrics::Metrics;
use crate::models::{ModelRoute, ModelTable};
use crate::net::fields::is_encoded;
use crate::openai::body::{Facts, Pointer};
use crate::openai::kinds::{self, Output};
use crate::refusal::{Reason, Refusal};
use crate::request::{Caller, Kind, RequestCost};

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
    pub(super) fn matched(&self, parts: &request::Parts) -> Result<Matched, Refusal> {
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

    /// Returns the bounds of one body of a kind.
    pub(super) const fn limits_of(&self, kind: Kind) -> IntakeBounds {
        self.limits[kind as usize]
    }

    /// Returns until when the request may wait, if its client says so.
    pub(super) fn deadline(&self, headers: &HeaderMap, arrived: Nanos) -> Result<Option<Nanos>, Refusal> {
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

    /// Returns the key of the request's session; `None` if it names none.
    pub(super) fn session(&self, headers: &HeaderMap, in_body: Option<&str>, caller: &str) -> Option<u64> {
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
    pub(super) fn route(
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
    pub(super) fn request_cost(
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

fn cookie<'h>(headers: &'h HeaderMap, wanted: &str) -> Option<&'h str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == wanted).then_some(value))
}
