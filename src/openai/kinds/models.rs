//! The list of models, which the gateway answers itself.

use http::Method;

use super::{BodyUse, KindRow, Output};
use crate::request::Kind;

pub(super) const ROW: KindRow = KindRow {
    kind: Kind::Models,
    endpoints: &[(Method::GET, "/v1/models"), (Method::GET, "/v1/models/*")],
    body: BodyUse::Passed,
    output: Output::Nothing,
    ..KindRow::CALL
};
