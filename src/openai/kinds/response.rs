//! OpenAI's Responses API. The last event of a stream has the whole response with its `usage`.

use http::Method;

use super::{BodyMember, CountedAs, KindRow, StreamFormat};
use crate::request::Kind;

pub(super) const ROW: KindRow = KindRow {
    kind: Kind::Response,
    endpoints: &[(Method::POST, "/v1/responses")],
    prompt: &[
        (BodyMember::Input, CountedAs::StringOrArray),
        (BodyMember::PreviousInputMessages, CountedAs::Text),
        (BodyMember::Instructions, CountedAs::Text),
        (BodyMember::Prompt, CountedAs::Text),
        (BodyMember::Text, CountedAs::Json),
        (BodyMember::ChatTemplate, CountedAs::Text),
        (BodyMember::ChatTemplateKwargs, CountedAs::Json),
        (BodyMember::Tools, CountedAs::Tools),
    ],
    stores: true,
    events: StreamFormat::Named,
    bound: "bounds.bodies.response",
    answers_object: true,
    ..KindRow::CALL
};
