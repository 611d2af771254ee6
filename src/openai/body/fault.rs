//! Errors in a request body.

use std::borrow::Cow;

use crate::refusal::{Reason, Refusal};

/// Error in a request body. Messages are for the client and quote only names known to the gateway,
/// in any letter case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFieldError {
    /// Invalid UTF-8.
    #[error("The request body is not valid UTF-8 at byte {at}.")]
    NotUtf8 {
        /// Offset of the first wrong byte.
        at: usize,
    },
    /// UTF-16 or UTF-32, by its byte order mark.
    #[error("The request body must be UTF-8; its byte order mark is that of UTF-16 or UTF-32.")]
    OtherUnicode,
    /// Byte order mark that is not at the very beginning.
    #[error("The request body must be a JSON object; found a byte order mark at byte {at}.")]
    Mark {
        /// Offset of the mark.
        at: usize,
    },
    /// JSON that ends too early.
    #[error("The request body is not valid JSON: it ends too early.")]
    Unfinished,
    /// Byte that is not allowed there.
    #[error("The request body is not valid JSON at byte {at}.")]
    Syntax {
        /// Offset of the byte.
        at: usize,
    },
    /// Too deep nesting.
    #[error("The request body is nested too deeply at byte {at}.")]
    TooDeep {
        /// Offset of the bracket that exceeded the limit.
        at: usize,
    },
    /// Body that is not an object, whether valid JSON or not.
    #[error("The request body must be a JSON object.")]
    NotAnObject,
    /// Member that the gateway reads, given more than once.
    #[error("'{param}' is given more than once.")]
    Duplicate {
        /// The member.
        param: Cow<'static, str>,
    },
    /// Name of a member in another letter case: some workers ignore that, others do not.
    #[error("'{param}' must be written '{right}'.")]
    LetterCase {
        /// The member, as the client writes it.
        param: Cow<'static, str>,
        /// Its name.
        right: &'static str,
    },
    /// Member of a type that the API does not allow.
    #[error("'{param}' must be {expected}.")]
    WrongType {
        /// The member.
        param: Cow<'static, str>,
        /// Expected type, with article.
        expected: &'static str,
    },
    /// Member that changes the cost, after the request was sent.
    #[error("'{param}' must come before the messages in a body of more than `bounds.held`.")]
    Late {
        /// The member.
        param: Cow<'static, str>,
    },
    /// Number outside its bounds.
    #[error("'{param}' must be from {least} to {most}.")]
    OutOfRange {
        /// The member.
        param: Cow<'static, str>,
        /// Least value allowed.
        least: u64,
        /// Greatest value allowed.
        most: u64,
    },
    /// URL of media that may not be passed on.
    #[error("The request has a media URL that this gateway does not pass on (`media.urls`).")]
    MediaUrl,
    /// URL of a worker's own file.
    #[error("A media URL must not have the scheme `file:`.")]
    FileUrl,
    /// Name or array that is too long.
    #[error("'{param}' must have at most {most} {what}.")]
    TooLong {
        /// The member.
        param: Cow<'static, str>,
        /// Greatest length allowed.
        most: u64,
        /// Unit of the length.
        what: &'static str,
    },
}

impl BodyFieldError {
    /// Returns the member that is wrong, if it is one.
    #[must_use]
    pub(crate) const fn param(&self) -> Option<&Cow<'static, str>> {
        match self {
            Self::NotUtf8 { .. }
            | Self::OtherUnicode
            | Self::Mark { .. }
            | Self::Unfinished
            | Self::Syntax { .. }
            | Self::TooDeep { .. }
            | Self::MediaUrl
            | Self::FileUrl
            | Self::NotAnObject => None,
            Self::Duplicate { param }
            | Self::LetterCase { param, .. }
            | Self::Late { param }
            | Self::WrongType { param, .. }
            | Self::OutOfRange { param, .. }
            | Self::TooLong { param, .. } => Some(param),
        }
    }
}

impl From<BodyFieldError> for Refusal {
    fn from(fault: BodyFieldError) -> Self {
        Self { param: fault.param().cloned(), ..Self::new(Reason::BadRequest, fault.to_string()) }
    }
}
