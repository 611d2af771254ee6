//! The cost of a form: an upload of sound, as the transcription endpoints take it.

use std::sync::Arc;

use bytes::Bytes;
use http::request;
use http_body::Body;
use http_body_util::BodyExt;

use super::notes::{explain_streamed, insert_route};
use super::settings::CostSettings;
use crate::layers::forms::read_start;
use crate::layers::intake::BoundedBody;
use crate::layers::paths::Matched;
use crate::models::ModelRoute;
use crate::refusal::Refusal;
use crate::request::{BodyReservation, Caller, Payload, RequestCost};

/// Computes the cost of a form, of which only the beginning is read: its size tells how much sound it
/// holds. Until it is sent, its beginning is in memory, so another model may take it over.
pub(super) async fn form_cost<B>(
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
