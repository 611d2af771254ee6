//! The response on its way to the client: the worker's frames, byte for byte and as they come.
//!
//! The body owns all that a request occupies: connection, permit, timer. It frees each as early as
//! possible, and all at once if it is dropped because the client left.
//!
//! | file | content |
//! | --- | --- |
//! | `source` | where the frames come from: a connection, or a queue |
//! | `held` | frames read and not yet passed on |
//! | `observer` | first content, tokens, usage and ending, as a response passes |
//! | `early` | starting a response before there is content |
//! | `open` | the body of a worker's response |
//! | `client` | the body that the client reads |

mod client;
mod early;
mod held;
mod observer;
mod open;
mod source;

pub(crate) use client::BackgroundForward;
pub use client::UpstreamBody;
pub(crate) use early::{EarlyAnswer, EarlyLane};
pub(crate) use observer::{AnswerObserver, AnswerReading};
pub use open::BodyError;
pub(crate) use open::{AnswerTimeouts, OpenBody};
pub(crate) use source::AnswerSource;
