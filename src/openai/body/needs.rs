//! What the beginning of a body must tell before the rest is sent.

/// Facts of a body that must be known before the rest of it may be streamed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartNeeds {
    /// Its tokens, because a rule reserves them: text is read whole, and usage must be asked for.
    pub tokens: bool,
    /// Its own bound on output tokens, because a rule reserves that.
    pub bound: bool,
}
