//! Responses that a worker keeps: only the worker that made one knows it. They take no permit.

use http::Method;

use super::{BodyUse, KindRow, OptionalKind, Output};
use crate::request::Kind;

pub(super) const ROW: KindRow = KindRow {
    kind: Kind::ResponseById,
    optional: Some(OptionalKind::ResponsesById),
    // The first that matches counts, and a star matches slashes too.
    endpoints: &[
        (Method::GET, "/v1/responses/*/input_items"),
        (Method::POST, "/v1/responses/*/cancel"),
        (Method::GET, "/v1/responses/*"),
        (Method::DELETE, "/v1/responses/*"),
    ],
    body: BodyUse::Passed,
    output: Output::Nothing,
    ..KindRow::CALL
};
