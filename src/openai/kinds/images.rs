//! Images from a text. Usage if the worker reports it.

use http::Method;

use super::{BodyMember, BodyUse, CountedAs, KindRow, OptionalKind, Output, StreamFormat};
use crate::request::Kind;

pub(super) const ROW: KindRow = KindRow {
    kind: Kind::Images,
    optional: Some(OptionalKind::Images),
    endpoints: &[(Method::POST, "/v1/images/generations"), (Method::POST, "/v1/images/edits")],
    prompt: &[(BodyMember::Prompt, CountedAs::Text)],
    body: BodyUse::JsonOrForm,
    output: Output::Nothing,
    events: StreamFormat::Named,
    bound: "bounds.bodies.images",
    ..KindRow::CALL
};
