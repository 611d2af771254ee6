//! Counting tokens, and the tokenizer alone. A worker answers at once and decodes nothing, so the
//! call takes no permit and costs no tokens; rules that count requests count it.

use std::time::Duration;

use http::Method;

use super::{BesideBounds, KindRow, OptionalKind, Output};
use crate::request::Kind;

pub(super) const ROW: KindRow = KindRow {
    kind: Kind::Count,
    optional: Some(OptionalKind::Count),
    endpoints: &[
        (Method::POST, "/v1/messages/count_tokens"),
        (Method::POST, "/tokenize"),
        (Method::POST, "/detokenize"),
    ],
    output: Output::Nothing,
    // A client counts before it sends, so a few at once keep up with what a worker decodes. The text
    // takes milliseconds; longer means that the worker is stuck.
    beside: Some(BesideBounds { per_worker: 2, body: 1 << 20, total: Duration::from_secs(5) }),
    bound: "bounds.bodies.count",
    ..KindRow::CALL
};
