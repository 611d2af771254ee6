//! Embeddings: a prompt each, and no output. Usage has only prompt tokens.

use http::Method;

use super::{BodyMember, CountedAs, KindRow, Output};
use crate::request::Kind;

pub(super) const ROW: KindRow = KindRow {
    kind: Kind::Embedding,
    endpoints: &[(Method::POST, "/v1/embeddings")],
    prompt: &[
        (BodyMember::Input, CountedAs::Prompts),
        (BodyMember::Content, CountedAs::Text),
        (BodyMember::Messages, CountedAs::Array),
    ],
    output: Output::Nothing,
    bound: "bounds.bodies.embedding",
    ..KindRow::CALL
};
