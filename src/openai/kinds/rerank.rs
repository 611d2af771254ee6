//! Reranking, scores, pooling and classes, as vLLM serves them. Each document is a sequence. Usage
//! has only prompt tokens, as `total_tokens` or `prompt_tokens`.

use http::Method;

use super::{BodyMember, CountedAs, KindRow, OptionalKind, Output};
use crate::request::Kind;

pub(super) const ROW: KindRow = KindRow {
    kind: Kind::Rerank,
    optional: Some(OptionalKind::Rerank),
    endpoints: &[
        (Method::POST, "/v1/rerank"),
        (Method::POST, "/rerank"),
        (Method::POST, "/v2/rerank"),
        (Method::POST, "/v1/score"),
        (Method::POST, "/score"),
        (Method::POST, "/pooling"),
        (Method::POST, "/classify"),
    ],
    prompt: &[
        (BodyMember::Query, CountedAs::Text),
        (BodyMember::Documents, CountedAs::Prompts),
        (BodyMember::Texts, CountedAs::Prompts),
        (BodyMember::Queries, CountedAs::Text),
        (BodyMember::Items, CountedAs::Prompts),
        (BodyMember::Text1, CountedAs::Text),
        (BodyMember::Text2, CountedAs::Prompts),
        (BodyMember::Data1, CountedAs::Text),
        (BodyMember::Data2, CountedAs::Prompts),
        (BodyMember::Input, CountedAs::Prompts),
        (BodyMember::Messages, CountedAs::Array),
    ],
    output: Output::Nothing,
    bound: "bounds.bodies.rerank",
    ..KindRow::CALL
};
