//! Speech from text, and text from speech. Sound begins with its first byte. Usage if the worker
//! reports it.

use http::Method;

use super::{BodyMember, BodyUse, CountedAs, KindRow, OptionalKind, Output, StreamFormat};
use crate::request::Kind;

pub(super) const ROW: KindRow = KindRow {
    kind: Kind::Audio,
    optional: Some(OptionalKind::Audio),
    endpoints: &[
        (Method::POST, "/v1/audio/transcriptions"),
        (Method::POST, "/v1/audio/translations"),
        (Method::POST, "/v1/audio/speech"),
    ],
    prompt: &[
        (BodyMember::Input, CountedAs::Text),
        (BodyMember::Instructions, CountedAs::Text),
        (BodyMember::Prompt, CountedAs::Text),
    ],
    body: BodyUse::JsonOrForm,
    output: Output::Nothing,
    begins_with_first_byte: true,
    events: StreamFormat::Named,
    bound: "bounds.bodies.audio",
    ..KindRow::CALL
};
