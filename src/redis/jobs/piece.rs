//! Entries of a reply, as published on the channel or kept in the stream.

use bytes::Bytes;

use super::keys::Job;
use crate::redis::reply::{PieceKind, PiecePlace};

/// An entry of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnswerPiece {
    /// Its position.
    pub place: PiecePlace,
    /// Its kind.
    pub kind: PieceKind,
    /// Payload; its format depends on the kind.
    pub data: Bytes,
}

/// Parses a kind. The `emit` of older workers ends a reply with an entry of an unknown one.
fn kind(text: &[u8]) -> PieceKind {
    PieceKind::parse(text).unwrap_or(PieceKind::Error)
}

impl AnswerPiece {
    /// Parses a published message: `JOB EPOCH N KIND`, a line feed, and the data.
    pub(super) fn from_message(text: Vec<u8>) -> Option<(Job, Self)> {
        let line = memchr::memchr(b'\n', &text)?;
        let mut words = std::str::from_utf8(&text[..line]).ok()?.split(' ');
        let job = Job::parse(words.next()?)?;
        let place = PiecePlace { epoch: words.next()?.parse().ok()?, n: words.next()?.parse().ok()? };
        let kind = kind(words.next()?.as_bytes());
        if words.next().is_some() {
            return None;
        }
        let data = Bytes::from(text).split_off(line + 1);
        Some((job, Self { place, kind, data }))
    }

    /// Returns the error that ends a reply whose job Redis has lost.
    pub(super) fn lost() -> Self {
        let data = br#"{"reason":"upstream_broke","message":"Redis has lost the job."}"#;
        Self { place: PiecePlace::default(), kind: PieceKind::Error, data: Bytes::from_static(data) }
    }

    /// Parses an entry of the stream: its id, and its alternating fields and values.
    pub(super) fn from_stream(id: &str, fields: Vec<Vec<u8>>) -> Option<Self> {
        let (mut kind, mut data) = (None, None);
        let mut fields = fields.into_iter();
        while let (Some(field), Some(value)) = (fields.next(), fields.next()) {
            match &field[..] {
                b"kind" => kind = Some(self::kind(&value)),
                b"data" => data = Some(value.into()),
                _ => {}
            }
        }
        Some(Self { place: PiecePlace::parse(id)?, kind: kind?, data: data? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn what_is_published_and_what_is_kept_are_the_same() {
        let data = b"data: {\n\0\xff";
        let text = [format!("{JOB} 2 7 data\n").as_bytes(), data].concat();
        let (job, entry) = AnswerPiece::from_message(text).unwrap();
        let fields = ["n", "7", "epoch", "2", "kind", "data", "data"].map(|word| word.as_bytes().to_vec());
        let fields = fields.into_iter().chain([data.to_vec()]).collect();
        assert_eq!(
            (job.to_string().as_str(), Some(&entry)),
            (JOB, AnswerPiece::from_stream("2-7", fields).as_ref())
        );
        assert_eq!(
            (entry.place, entry.kind, &entry.data[..]),
            (PiecePlace { epoch: 2, n: 7 }, PieceKind::Data, &data[..])
        );
    }

    #[test]
    fn what_is_no_piece_is_none() {
        for text in [
            "",
            "x",
            "\n",
            &format!("{JOB} 1 1 data"),
            &format!("{JOB} 1 -1 data\n"),
            &format!("{JOB} 1 1 data more\n"),
            "j 1 1 data\n",
        ] {
            assert_eq!(AnswerPiece::from_message(text.into()), None, "{text}");
        }
        let (_, unknown) = AnswerPiece::from_message(format!("{JOB} 1 1 done\n").into()).unwrap();
        assert_eq!(unknown.kind, PieceKind::Error);
        assert_eq!(AnswerPiece::from_stream("1-1", vec![b"kind".to_vec(), b"data".to_vec()]), None);
        assert_eq!(AnswerPiece::from_stream("1", vec![]), None);
    }
}
