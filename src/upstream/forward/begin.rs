//! What a request brings: the extensions of the layers before, and its headers as a worker gets them.

use std::sync::Arc;

use http::{HeaderValue, Method, Request};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use smallvec::SmallVec;

use super::Forward;
use crate::models::ModelRoute;
use crate::redis::jobs::{JobTicket, SessionTurn};
use crate::refusal::{Reason, Refusal};
use crate::request::{
    BodyReservation, Caller, Forwarding, GatewayRequest, Kind, ModelPart, Payload, RequestCost,
    RequestRecord, RouteTimeouts, ToWorker, UpgradeTo, UsageInjected,
};
use crate::shed::{HeldPermit, Permit};
use crate::upstream::UpstreamInner;
use crate::upstream::body::EarlyLane;
use crate::upstream::error::is_repeatable;
use crate::upstream::headers::{self, ForwardedFacts};
use crate::upstream::settings::UpstreamSettings;
use crate::upstream::upload;

impl<'a> Forward<'a> {
    /// Takes the extensions that earlier layers set on the request, and rewrites its headers.
    pub(crate) fn begin(
        upstream: &'a UpstreamInner,
        settings: &'a UpstreamSettings,
        request: Request<Payload>,
        lane: Option<&'a EarlyLane>,
    ) -> Result<Self, Refusal> {
        let (mut head, payload) = request.into_parts();
        let mut facts = std::mem::take(&mut head.extensions);
        let record = facts.remove::<Arc<RequestRecord>>().ok_or_else(|| {
            Refusal::new(Reason::InternalError, "Internal error: the request has no request record.")
        })?;
        let id = HeaderValue::from_str(&record.id).map_err(|_error| {
            Refusal::new(Reason::InternalError, "Internal error: the request id is not a valid header value.")
        })?;
        let request_cost = facts.get::<RequestCost>();
        let (kind, stream, retryable) = request_cost.map_or((Kind::Path, false, false), |request_cost| {
            (request_cost.kind, request_cost.stream, request_cost.retryable)
        });
        ForwardedFacts {
            kind,
            forwarding: facts.get::<Forwarding>(),
            forward_authorization: settings.forward_authorization,
            id: &id,
            trace: record.trace,
        }
        .apply(&mut head);
        let strip = facts.get::<Forwarding>().map_or(&[][..], |forwarding| &forwarding.strip);
        let uncalled =
            !payload.is_end_stream() && matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        let (payload, upload) = upload::observe(payload, strip);
        let switch = facts.remove::<UpgradeTo>().zip(facts.remove::<OnUpgrade>());
        if let Some((UpgradeTo(protocol), _)) = &switch {
            headers::switch_to(&mut head.headers, protocol.clone());
        }
        let timeouts = settings.timeouts.for_route(facts.get::<RouteTimeouts>());
        let now = upstream.clock.now();
        upstream.budget.request(now);
        let mut forward = Self {
            upstream,
            lane,
            began: None,
            _room: facts.remove::<BodyReservation>(),
            settings,
            timeouts,
            total_deadline: now + timeouts.total,
            repeatable: is_repeatable(&head.method, retryable),
            head,
            payload: Some(payload),
            upload,
            unexpected_body: uncalled,
            kind,
            stream,
            injected: facts.get::<UsageInjected>().is_some(),
            switch,
            record,
            caller_and_cost: facts.remove::<Caller>().zip(facts.remove::<RequestCost>()),
            permit: facts.remove::<Permit>(),
            held: facts.remove::<HeldPermit>(),
            route: facts.remove::<Arc<ModelRoute>>(),
            model_part: facts.remove::<ModelPart>(),
            ticket: facts.remove::<JobTicket>(),
            turn: facts.remove::<Arc<SessionTurn>>(),
            id,
            retries: 0,
            failed_at: SmallVec::new(),
            failed_before: 0,
            resent: false,
            start: fastrand::usize(..),
            beside: facts.remove::<GatewayRequest>(),
            place: None,
            to_worker: facts.remove::<ToWorker>(),
        };
        // The pool of another model may have admitted the request.
        if let Some(taken) = forward.record.fallbacks().last() {
            forward.name_model(&taken.served);
        }
        Ok(forward)
    }
}
