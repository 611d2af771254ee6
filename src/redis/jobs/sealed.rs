//! Signed replies. A signature covers job, position and kind, so that no entry can be moved.

use bytes::Bytes;

use super::entry::{Entry, Kind, Place};
use super::fault::Fault;
use super::keys::Job;
use crate::redis::sealing::Sealing;

/// Returns entry data for sending: signature, space, data. Without a key it is only the data.
#[must_use]
pub fn seal(sealing: &Sealing, prefix: &str, job: &str, place: Place, kind: Kind, data: &Bytes) -> Bytes {
    let Some(key) = sealing.key() else { return data.clone() };
    [key.sign(&channel(prefix, job, place, kind), data).as_bytes(), b" ", data].concat().into()
}

/// Verifies an entry and removes its signature; `None` if it is invalid. An unsigned error still
/// ends the reply, because scripts in Redis write such entries, but its message is discarded.
pub(super) fn open(sealing: &Sealing, prefix: &str, job: Job, mut entry: Entry) -> Option<Entry> {
    let Some(key) = sealing.key() else { return Some(entry) };
    let Entry { place, kind, data } = &entry;
    let opened = key.open(&channel(prefix, &job.to_string(), *place, *kind), data);
    match opened.map(|text| data.slice_ref(text)) {
        Ok(data) => entry.data = data,
        Err(_) if *kind == Kind::Error => entry.data = Fault::read(data).without_words(),
        Err(fault) => {
            tracing::warn!(%job, %fault, "a piece of an answer is left out: give its worker the same key, and a version that signs answers");
            return None;
        }
    }
    Some(entry)
}

fn channel(prefix: &str, job: &str, place: Place, kind: Kind) -> String {
    format!("{prefix}:reply:{job}:{place}:{}", kind.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::heartbeat::Key;
    use crate::refusal::Reason;

    #[test]
    fn a_piece_is_believed_in_its_own_place_and_an_unsigned_error_only_ends() {
        let (ours, job) = (Sealing::from(Some(Key::new("a"))), Job::random().unwrap());
        let (place, data) = (Place { epoch: 1, n: 2 }, Bytes::from_static(b"data: \xff\n\n"));
        let sealed = seal(&ours, "dam", &job.to_string(), place, Kind::Data, &data);
        let open = |place, kind, data: &Bytes| {
            super::open(&ours, "dam", job, Entry { place, kind, data: data.clone() }).map(|entry| entry.data)
        };
        assert_eq!(open(place, Kind::Data, &sealed), Some(data.clone()));
        for (place, kind, data) in [
            (place, Kind::Data, &data),
            (Place { epoch: 1, n: 3 }, Kind::Data, &sealed),
            (Place { epoch: 2, n: 2 }, Kind::Data, &sealed),
            (place, Kind::Head, &sealed),
            (place, Kind::End, &Bytes::new()),
        ] {
            assert_eq!(open(place, kind, data), None, "{place} {kind:?}");
        }
        let forged = Bytes::from_static(br#"{"reason":"upstream_timeout","message":"call 555-1234"}"#);
        let told = Fault::read(&open(place, Kind::Error, &forged).unwrap());
        assert_eq!(told.reason, Reason::UpstreamTimeout);
        assert!(!told.message.contains("555"), "{}", told.message);
    }
}
