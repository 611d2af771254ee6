//! Completions of a text. Usage as in chat.

use http::Method;

use super::{BodyMember, CountedAs, KindRow, Output};
use crate::request::Kind;

pub(super) const ROW: KindRow = KindRow {
    kind: Kind::Completion,
    endpoints: &[(Method::POST, "/v1/completions")],
    prompt: &[(BodyMember::Prompt, CountedAs::Prompts), (BodyMember::Suffix, CountedAs::Text)],
    output: Output::Choices,
    bound: "bounds.bodies.completion",
    answers_object: true,
    ..KindRow::CALL
};
