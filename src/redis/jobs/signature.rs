//! Signed replies. A signature covers job, position and kind, so that no entry can be moved.

use super::fault::JobError;
use super::keys::Job;
use super::piece::AnswerPiece;
use crate::redis::reply::{PieceKind, signed_place};
use crate::redis::signing::Signing;

/// Verifies an entry and removes its signature; `None` if it is invalid. An unsigned error still
/// ends the reply, because scripts in Redis write such entries, but its message is discarded.
pub(super) fn verify(
    signing: &Signing,
    prefix: &str,
    job: Job,
    mut entry: AnswerPiece,
) -> Option<AnswerPiece> {
    let Some(key) = signing.key() else { return Some(entry) };
    let AnswerPiece { place, kind, data } = &entry;
    let verified = key.verify(&signed_place(prefix, &job.to_string(), *place, *kind), data);
    match verified.map(|text| data.slice_ref(text)) {
        Ok(data) => entry.data = data,
        Err(_) if *kind == PieceKind::Error => entry.data = JobError::read(data).without_words(),
        Err(fault) => {
            tracing::warn!(%job, %fault, "dropped a reply entry with a missing or wrong signature; the worker needs the same `redis.hmac_key` and a version that signs replies");
            return None;
        }
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::fleet::heartbeat::SigningKey;
    use crate::redis::reply::{PiecePlace, signed};
    use crate::refusal::Reason;

    #[test]
    fn a_piece_is_believed_in_its_own_place_and_an_unsigned_error_only_ends() {
        let (ours, job) = (Signing::from(Some(SigningKey::new("a"))), Job::random().unwrap());
        let (place, data) = (PiecePlace { epoch: 1, n: 2 }, Bytes::from_static(b"data: \xff\n\n"));
        let piece = signed(&ours, "dam", &job.to_string(), place, PieceKind::Data, &data);
        let verify = |place, kind, data: &Bytes| {
            super::verify(&ours, "dam", job, AnswerPiece { place, kind, data: data.clone() })
                .map(|entry| entry.data)
        };
        assert_eq!(verify(place, PieceKind::Data, &piece), Some(data.clone()));
        for (place, kind, data) in [
            (place, PieceKind::Data, &data),
            (PiecePlace { epoch: 1, n: 3 }, PieceKind::Data, &piece),
            (PiecePlace { epoch: 2, n: 2 }, PieceKind::Data, &piece),
            (place, PieceKind::Head, &piece),
            (place, PieceKind::End, &Bytes::new()),
        ] {
            assert_eq!(verify(place, kind, data), None, "{place} {kind:?}");
        }
        let forged = Bytes::from_static(br#"{"reason":"upstream_timeout","message":"call 555-1234"}"#);
        let told = JobError::read(&verify(place, PieceKind::Error, &forged).unwrap());
        assert_eq!(told.reason, Reason::UpstreamTimeout);
        assert!(!told.message.contains("555"), "{}", told.message);
    }
}
