//! What can be wrong with a body.

use std::borrow::Cow;

use crate::refusal::{Reason, Refusal};

/// What is wrong with a body. The messages are for the client and quote nothing of the body but names we know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Bytes that are no UTF-8.
    #[error("The request body is not valid UTF-8 at byte {at}.")]
    NotUtf8 {
        /// Offset of the first wrong byte.
        at: usize,
    },
    /// UTF-16 or UTF-32, by its byte order mark.
    #[error("The request body must be UTF-8; its byte order mark is one of UTF-16 or UTF-32.")]
    OtherUnicode,
    /// A byte order mark elsewhere than at the very beginning.
    #[error("The request body must be a JSON object; found a byte order mark at byte {at}.")]
    Mark {
        /// Offset of the mark.
        at: usize,
    },
    /// The JSON ends too early.
    #[error("The request body is not valid JSON: it ends too early.")]
    Unfinished,
    /// A byte that cannot stand there.
    #[error("The request body is not valid JSON at byte {at}.")]
    Syntax {
        /// Offset of the byte.
        at: usize,
    },
    /// Too many arrays or objects within each other.
    #[error("The request body is nested too deep at byte {at}.")]
    TooDeep {
        /// Offset of the bracket that was one too many.
        at: usize,
    },
    /// Valid or not, it is no object.
    #[error("The request body must be a JSON object.")]
    NotAnObject,
    /// A member that decides stands there twice.
    #[error("'{param}' is given more than once.")]
    Duplicate {
        /// The member.
        param: Cow<'static, str>,
    },
    /// A member has another type than the API says.
    #[error("'{param}' must be {expected}.")]
    WrongType {
        /// The member.
        param: Cow<'static, str>,
        /// What it should be, with article.
        expected: &'static str,
    },
    /// A number below or above its bounds.
    #[error("'{param}' must be from {least} to {most}.")]
    OutOfRange {
        /// The member.
        param: Cow<'static, str>,
        /// The least value allowed.
        least: u64,
        /// The greatest value allowed.
        most: u64,
    },
    /// A name or an array that is too long.
    #[error("'{param}' must have at most {most} {what}.")]
    TooLong {
        /// The member.
        param: Cow<'static, str>,
        /// How much is allowed.
        most: u64,
        /// Of what.
        what: &'static str,
    },
}

impl Fault {
    /// The member at fault.
    #[must_use]
    pub const fn param(&self) -> Option<&Cow<'static, str>> {
        match self {
            Self::NotUtf8 { .. }
            | Self::OtherUnicode
            | Self::Mark { .. }
            | Self::Unfinished
            | Self::Syntax { .. }
            | Self::TooDeep { .. }
            | Self::NotAnObject => None,
            Self::Duplicate { param }
            | Self::WrongType { param, .. }
            | Self::OutOfRange { param, .. }
            | Self::TooLong { param, .. } => Some(param),
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { param: fault.param().cloned(), ..Self::new(Reason::BadRequest, fault.to_string()) }
    }
}
