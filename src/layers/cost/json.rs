//! The cost of a JSON body: of a chat, a completion, an embedding, and so on.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, request};
use http_body::Body;
use serde::Deserialize;
use serde_json::Number;
use smallvec::SmallVec;

use super::feedback::UsageFeedback;
use super::notes::{explain_streamed, insert_route};
use super::settings::CostSettings;
use crate::estimate::PromptText;
use crate::layers::held::{HeldBody, read_held};
use crate::layers::intake::read;
use crate::layers::jobs::IDEMPOTENCY_KEY;
use crate::layers::paths::Matched;
use crate::models::ModelRoute;
use crate::openai::body::{Facts, ModelText, Shape, SplicedBody, parse, spliced};
use crate::openai::kinds;
use crate::openai::tap::without_mark;
use crate::refusal::{Reason, Refusal};
use crate::request::{
    BodyReservation, Caller, ModelPart, Payload, PreviousResponse, RequestCost, RequestRecord, UsageInjected,
};

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

/// Computes the cost of a JSON body of `shape`, and what is sent in its place. Its memory stays
/// reserved until the request can no longer be sent again.
pub(super) async fn json_cost<B>(
    intake: &Arc<CostSettings>,
    matched: &Matched,
    shape: &Shape,
    parts: &mut request::Parts,
    body: B,
    caller: &Arc<str>,
) -> Result<(RequestCost, Payload, Option<UsageFeedback>, BodyReservation), Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + std::fmt::Display,
{
    let HeldBody { bytes, hold, rest } = read_json(intake, &parts.headers, shape, body, caller).await?;
    let bytes = bytes.slice_ref(without_mark(&bytes));
    let (facts, rest) = match rest {
        Some((facts, rest)) => (facts, Some(rest)),
        None => (parse(shape, &bytes)?, None),
    };
    let facts = with_media(intake, facts);
    check_bound(intake, &facts, &bytes)?;
    let session = intake.session(&parts.headers, facts.session.as_deref(), caller);
    // Only the worker that made the earlier response knows it.
    let may_fall_back = facts.previous.is_none();
    let known = parts.extensions.get::<Caller>();
    let route = intake.route(facts.model.as_deref(), known, caller, session, may_fall_back);
    let served = route.as_ref().and_then(ModelRoute::served).map(|served| &**served);
    let exact = match &rest {
        None => intake.exact.count(shape, &facts, served, &bytes).await,
        Some(_) => None,
    };
    let text = exact.map_or(PromptText::Bytes(facts.prompt_bytes), PromptText::Tokens);
    let prompt = intake.estimates.prompt(facts.model.as_deref(), text, facts.prompt_tokens);
    let mut request_cost = intake.request_cost(matched, &facts, prompt, caller, &bytes);
    request_cost.session = session;
    // It can be sent only once.
    request_cost.retryable &= rest.is_none();
    if let Some(prefixes) = &intake.prefixes {
        request_cost.prefix = prefixes.of(shape, &facts, &bytes, parts.extensions.get());
    }
    // What is only partly known teaches nothing.
    let teaches = kinds::row(matched.kind).beside.is_none() && rest.is_none();
    let record = parts.extensions.get::<Arc<RequestRecord>>().filter(|_| teaches);
    let lesson = record.map(|record| UsageFeedback {
        intake: Arc::clone(intake),
        record: Arc::clone(record),
        caller: Arc::clone(caller),
        model: facts.model.clone(),
        prompt,
        expected_output: request_cost.expected_output,
        sequences: u64::from(facts.sequences).max(1),
    });
    let pieces = pieces(intake, parts, &facts, route.as_ref(), bytes);
    let payload = match rest {
        None => Payload::buffered(pieces),
        Some(rest) => {
            explain_streamed(parts);
            Payload::streaming(pieces, rest)
        }
    };
    if let Some(previous) = &facts.previous {
        parts.extensions.insert(PreviousResponse(Arc::from(&**previous)));
    }
    if let Some(route) = route {
        insert_route(parts, route);
    }
    let room = BodyReservation(Arc::new(hold));
    // A retry may send the body again, so the request holds its memory too.
    parts.extensions.insert(room.clone());
    Ok((request_cost, payload, lesson, room))
}

/// Adds the tokens of pictures and sound. They are known like token ids: no factor is learned for them.
fn with_media(intake: &CostSettings, mut facts: Facts) -> Facts {
    let model = facts.model.as_deref().unwrap_or_default();
    let media = intake.media.of(model, facts.pictures, facts.sound_bytes);
    facts.prompt_tokens = facts.prompt_tokens.saturating_add(media);
    facts
}

/// Refuses an answer without a bound where a rule reserves the bound.
fn check_bound(intake: &CostSettings, facts: &Facts, body: &[u8]) -> Result<(), Refusal> {
    if !(facts.unbounded && intake.reserves_max) {
        return Ok(());
    }
    let name = OutputBounds::negative_in(body);
    let message = format!(
        "A rule of this gateway reserves the bound on output tokens (`reserve: max`), so `{name}` must not be \
         negative: set a limit or omit it."
    );
    Err(Refusal::new(Reason::BadRequest, message).with_param(name))
}

/// The members of a body that bound its output.
#[derive(Default, Deserialize)]
#[serde(default)]
struct OutputBounds {
    max_completion_tokens: Option<Number>,
    max_output_tokens: Option<Number>,
    n_predict: Option<Number>,
}

impl OutputBounds {
    /// Returns the name of the negative one. A body of which only the beginning is held cannot be read
    /// again, and a route may point elsewhere: they get the usual name.
    fn negative_in(body: &[u8]) -> &'static str {
        let bounds: Self = serde_json::from_slice(body).unwrap_or_default();
        let named = [
            ("max_completion_tokens", bounds.max_completion_tokens),
            ("max_output_tokens", bounds.max_output_tokens),
            ("n_predict", bounds.n_predict),
        ];
        let is_negative = |bound: &Number| bound.as_i64().is_some_and(|tokens| tokens < 0);
        let found = named.into_iter().find(|(_, bound)| bound.as_ref().is_some_and(is_negative));
        found.map_or("max_tokens", |(name, _)| name)
    }
}

/// Returns the body as it is sent: with the model's served name, and asking for usage if a rule needs it.
fn pieces(
    intake: &CostSettings,
    parts: &mut request::Parts,
    facts: &Facts,
    route: Option<&ModelRoute>,
    bytes: Bytes,
) -> SmallVec<[Bytes; 3]> {
    let wants_usage = intake.wants_usage && facts.lacks_usage();
    let model = match route {
        Some(route) if let Some(served) = route.served() => ModelText::Named(served),
        Some(route) if route.has_fallback() => ModelText::Apart,
        _ => ModelText::Unchanged,
    };
    if !wants_usage && model == ModelText::Unchanged {
        return SmallVec::from_iter((!bytes.is_empty()).then_some(bytes));
    }
    if wants_usage {
        parts.extensions.insert(UsageInjected);
    }
    parts.headers.remove(http::header::CONTENT_LENGTH);
    let SplicedBody { pieces, model } = spliced(&bytes, facts, wants_usage, model);
    if let Some(index) = model {
        parts.extensions.insert(ModelPart { index, json: true });
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_bound_is_named_as_the_client_wrote_it() {
        for (body, name) in [
            (r#"{"max_tokens":-1,"messages":[]}"#, "max_tokens"),
            (r#"{"max_completion_tokens":-1}"#, "max_completion_tokens"),
            (r#"{"max_output_tokens":-2,"input":"x"}"#, "max_output_tokens"),
            (r#"{"max_tokens":5,"n_predict":-1}"#, "n_predict"),
            (r#"{"max_completion_tokens":5,"max_tokens":-1}"#, "max_tokens"),
            (r#"{"max_completion_tokens":-1,"messages":[{"role""#, "max_tokens"),
        ] {
            assert_eq!(OutputBounds::negative_in(body.as_bytes()), name, "{body}");
        }
    }
}
