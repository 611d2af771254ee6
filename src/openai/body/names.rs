//! Names of members.

use super::BodyFieldError;
use crate::openai::kinds::{BodyMember, KindRow, folded};
use crate::openai::scan::JsonText;

/// Checks the name of a member of the body that is none of those that the gateway reads.
///
/// # Errors
/// If it is one of them to a worker that ignores letter case. That worker may follow this member
/// instead of the one that the gateway has read.
pub(super) fn check_letter_case(key: &JsonText<'_>, row: &KindRow) -> Result<(), BodyFieldError> {
    let name = key.name();
    let Some(lower) = folded(&name) else { return Ok(()) };
    match BodyMember::named(lower.as_bytes()).filter(|member| member.is_read(row)) {
        Some(member) => Err(BodyFieldError::LetterCase {
            param: String::from_utf8_lossy(&name).into_owned().into(),
            right: member.name(),
        }),
        None => Ok(()),
    }
}
