//! Chat completions. A stream reports usage in a last chunk without choices, if asked for; an
//! answer in one piece as its member `usage`.

use http::Method;

use super::{BodyMember, CountedAs, KindRow, Output};
use crate::request::Kind;

pub(super) const ROW: KindRow = KindRow {
    kind: Kind::Chat,
    endpoints: &[(Method::POST, "/v1/chat/completions")],
    prompt: &[
        (BodyMember::Messages, CountedAs::Array),
        (BodyMember::System, CountedAs::Text),
        (BodyMember::ChatTemplate, CountedAs::Text),
        // Both of TGI: its template shows them to the model.
        (BodyMember::ToolPrompt, CountedAs::Text),
        (BodyMember::Guideline, CountedAs::Text),
        (BodyMember::Prediction, CountedAs::Text),
        (BodyMember::Tools, CountedAs::Json),
        (BodyMember::Functions, CountedAs::Json),
        (BodyMember::Documents, CountedAs::Json),
        (BodyMember::ChatTemplateKwargs, CountedAs::Json),
        (BodyMember::ResponseFormat, CountedAs::Json),
    ],
    output: Output::Choices,
    cost_from_start: true,
    bound: "bounds.bodies.chat",
    answers_object: true,
    ..KindRow::CALL
};
