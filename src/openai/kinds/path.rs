//! Any other path that the settings let through: one request, no tokens, a permit.

use super::{BodyUse, KindRow, Output};
use crate::request::Kind;

pub(super) const ROW: KindRow =
    KindRow { kind: Kind::Path, body: BodyUse::Passed, output: Output::Nothing, ..KindRow::CALL };
