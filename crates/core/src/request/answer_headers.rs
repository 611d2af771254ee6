//! Which names of the inside an answer tells.

/// Headers that the answers of workers get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerHeaders {
    /// `x-traffic-dam-model`: the name under which the worker serves the model.
    pub model: bool,
    /// `x-traffic-dam-worker`: the worker.
    pub worker: bool,
}
