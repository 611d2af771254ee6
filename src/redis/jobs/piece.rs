//! Entries of a reply, as published on the channel or kept in the stream.

use bytes::Bytes;

use super::keys::Job;

/// Position of an entry, ordered by run and then by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PiecePlace {
    /// The run; each run starts a new reply.
    pub epoch: u64,
    /// The number within the run, from 1.
    pub n: u64,
}

impl PiecePlace {
    /// Parses `EPOCH-N`, the id of an entry in the reply stream.
    #[must_use]
    pub fn parse(id: &str) -> Option<Self> {
        let (epoch, n) = id.split_once('-')?;
        Some(Self { epoch: epoch.parse().ok()?, n: n.parse().ok()? })
    }

    /// Returns `true` if `self` directly follows `before`, with no entry missing between.
    #[must_use]
    pub const fn follows(self, before: Self) -> bool {
        (self.epoch == before.epoch && self.n == before.n + 1) || (self.epoch > before.epoch && self.n == 1)
    }
}

impl std::fmt::Display for PiecePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.epoch, self.n)
    }
}

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// The worker, status and headers, as JSON.
    Head,
    /// Bytes of the body.
    Data,
    /// The body is complete.
    End,
    /// The reply ends early: a reason and a message, as JSON.
    Error,
}

impl PieceKind {
    fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"head" => Some(Self::Head),
            b"data" => Some(Self::Data),
            b"end" => Some(Self::End),
            b"error" => Some(Self::Error),
            _ => None,
        }
    }

    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Data => "data",
            Self::End => "end",
            Self::Error => "error",
        }
    }

    /// Returns `true` if this kind is the last of its run.
    #[must_use]
    pub const fn is_last(self) -> bool {
        matches!(self, Self::End | Self::Error)
    }
}

/// An entry of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerPiece {
    /// Its position.
    pub place: PiecePlace,
    /// Its kind.
    pub kind: PieceKind,
    /// Payload; its format depends on the kind.
    pub data: Bytes,
}

impl AnswerPiece {
    /// Parses a published message: `JOB EPOCH N KIND`, a line feed, and the data.
    pub(super) fn from_message(text: Vec<u8>) -> Option<(Job, Self)> {
        let line = memchr::memchr(b'\n', &text)?;
        let mut words = std::str::from_utf8(&text[..line]).ok()?.split(' ');
        let job = Job::parse(words.next()?)?;
        let place = PiecePlace { epoch: words.next()?.parse().ok()?, n: words.next()?.parse().ok()? };
        let kind = PieceKind::parse(words.next()?.as_bytes())?;
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
                b"kind" => kind = PieceKind::parse(&value),
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
            &format!("{JOB} 1 1 fail\n"),
            &format!("{JOB} 1 -1 data\n"),
            &format!("{JOB} 1 1 data more\n"),
            "j 1 1 data\n",
        ] {
            assert_eq!(AnswerPiece::from_message(text.into()), None, "{text}");
        }
        assert_eq!(AnswerPiece::from_stream("1-1", vec![b"kind".to_vec(), b"data".to_vec()]), None);
        assert_eq!(AnswerPiece::from_stream("1", vec![]), None);
    }

    #[test]
    fn only_the_next_number_or_the_start_of_a_later_run_follows() {
        let at = |epoch, n| PiecePlace { epoch, n };
        for (place, before, follows) in [
            (at(1, 1), at(0, 0), true),
            (at(1, 3), at(1, 2), true),
            (at(3, 1), at(1, 2), true),
            (at(1, 2), at(0, 0), false),
            (at(1, 2), at(1, 2), false),
            (at(1, 4), at(1, 2), false),
            (at(1, 1), at(2, 1), false),
        ] {
            assert_eq!(place.follows(before), follows, "{place} {before}");
        }
    }
}
