//! HTTP/1.1 to a worker: one connection, driven by the task that uses it.
//!
//! hyper's client is made for connections with a task of their own: it passes each request and each piece of an
//! answer through channels, and keeps a read buffer as long as the connection lives. Here the request's
//! future, then the response body, polls the socket: a byte from the worker wakes the client's task
//! directly, dropping the future or the body closes the socket at once, and a connection on which
//! nothing comes holds no buffer. Bytes are read onto the stack, and only content is kept.
//!
//! | file | content |
//! | --- | --- |
//! | `connection` | the connection: sends one request after the other, reads their answers |
//! | `outgoing` | a request as bytes: its head, and the framing of its body |
//! | `answer_head` | heads of answers, and how they delimit their bodies (pure) |
//! | `decoder` | bodies of answers (pure) |
//! | `error` | what can go wrong |
//!
//! It accepts exactly what hyper's client accepts, which a test checks with hostile bytes: what this
//! module and a worker read differently could smuggle a second answer to another client.

mod answer_head;
mod connection;
mod decoder;
mod error;
mod outgoing;
#[cfg(test)]
mod tests;

pub(crate) use connection::WorkerConnection;
pub(crate) use error::Http1Error;
