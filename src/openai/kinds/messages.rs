//! Anthropic's Messages API, as vLLM and others serve it.
//!
//! A stream reports usage at its start (`message_start`, the prompt) and at its end (the last
//! `message_delta`, the output so far); cached prompt tokens are counted apart from the others, and
//! a zero says nothing. The first content is the first block delta that is not empty, or the start
//! of a block that is neither text nor thinking, as a tool call.

use http::Method;

use super::{BodyMember, CountedAs, Dialect, KindRow, OptionalKind, StreamFormat};
use crate::request::Kind;

pub(super) const ROW: KindRow = KindRow {
    kind: Kind::Messages,
    optional: Some(OptionalKind::Messages),
    endpoints: &[(Method::POST, "/v1/messages")],
    prompt: &[
        (BodyMember::System, CountedAs::StringOrArray),
        (BodyMember::Messages, CountedAs::Array),
        (BodyMember::Tools, CountedAs::Json),
        (BodyMember::OutputConfig, CountedAs::Json),
        // Its former name.
        (BodyMember::OutputFormat, CountedAs::Json),
    ],
    dialect: Dialect::Anthropic,
    events: StreamFormat::Messages,
    cost_from_start: true,
    bound: "bounds.bodies.messages",
    answers_object: true,
    ..KindRow::CALL
};
