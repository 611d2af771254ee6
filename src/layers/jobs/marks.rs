//! Event ids, by which a client resumes a stream that broke off.
//!
//! A worker's bytes are cut into entries at arbitrary places, so an id names the byte after its
//! event: run, entry, and offset in the entry. Resuming there needs no earlier bytes. The id is a
//! line before the empty line that ends the event; all other bytes pass unchanged.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

use crate::redis::jobs::PiecePlace;

/// The position of an event's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventId {
    /// The entry with the event's last byte.
    pub(super) place: PiecePlace,
    /// Offset in the entry, in bytes, of the next event.
    pub(super) offset: usize,
}

impl EventId {
    pub(super) fn parse(id: &str) -> Option<Self> {
        let (place, offset) = id.rsplit_once('-')?;
        let plain = id.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let place = PiecePlace::parse(place).filter(|place| plain && place.n > 0)?;
        Some(Self { place, offset: offset.parse().ok()? })
    }
}

/// Inserts ids into a stream.
#[derive(Debug, Default)]
pub(super) struct EventIds {
    /// `true` if the current line is not empty.
    in_line: bool,
    /// `true` if the current event has a line.
    in_event: bool,
    /// `true` after a CR: a LF that follows belongs to it.
    after_cr: bool,
    /// `true` if that LF is left out: a resuming client has it, or its line ended with the CR.
    lf_done: bool,
}

impl EventIds {
    /// Creates the state for resuming a stream after an event that ends in the byte `last`.
    pub(super) fn after(last: Option<u8>) -> Self {
        let after_cr = last == Some(b'\r');
        Self { after_cr, lf_done: after_cr, ..Self::default() }
    }

    pub(super) fn feed(&mut self, place: PiecePlace, from: usize, data: &Bytes) -> Bytes {
        let mut out = BytesMut::with_capacity(data.len().saturating_sub(from) + 48);
        let mut at = from.min(data.len());
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            let after_cr = std::mem::take(&mut self.after_cr);
            let said = std::mem::take(&mut self.lf_done);
            if after_cr && rest.first() == Some(&b'\n') {
                if !said {
                    out.extend_from_slice(b"\n");
                }
                at += 1;
                continue;
            }
            let Some(content) = memchr2(b'\n', b'\r', rest) else {
                self.in_line = true;
                out.extend_from_slice(rest);
                break;
            };
            let cr = rest.get(content) == Some(&b'\r');
            let crlf = cr && rest.get(content + 1) == Some(&b'\n');
            let total = content + 1 + usize::from(crlf);
            self.after_cr = cr && !crlf;
            let begun = std::mem::take(&mut self.in_line);
            if begun || content > 0 {
                self.in_event = true;
            } else if std::mem::take(&mut self.in_event) {
                out.extend_from_slice(format!("id: {place}-{}\n", at + total).as_bytes());
            }
            out.extend_from_slice(rest.get(..total).unwrap_or(rest));
            at += total;
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns the stream of these entries with ids, after the event end `mark`.
    fn read(entries: &[Bytes], mark: Option<EventId>) -> Vec<u8> {
        let mut marks = EventIds::default();
        let mut out = Vec::new();
        for (n, data) in (1..).zip(entries) {
            let place = PiecePlace { epoch: 3, n };
            match mark {
                Some(mark) if place < mark.place => {}
                Some(mark) if place == mark.place => {
                    marks = EventIds::after(mark.offset.checked_sub(1).and_then(|at| data.get(at)).copied());
                    out.extend(marks.feed(place, mark.offset, data));
                }
                _ => out.extend(marks.feed(place, 0, data)),
            }
        }
        out
    }

    /// Returns what a client keeps of a broken stream: the length of whole events, and the last id.
    fn kept(seen: &[u8]) -> (usize, Option<EventId>) {
        let (mut end, mut id, mut last) = (0, None, None);
        let mut at = 0;
        while let Some(content) = memchr2(b'\n', b'\r', &seen[at..]) {
            let crlf = seen[at + content] == b'\r' && seen.get(at + content + 1) == Some(&b'\n');
            let line = &seen[at..at + content];
            at += content + 1 + usize::from(crlf);
            if let Some(text) = line.strip_prefix(b"id: ") {
                id = Some(EventId::parse(std::str::from_utf8(text).unwrap()).unwrap());
            } else if line.is_empty() && id.is_some() {
                (end, last) = (at, id.take());
            }
        }
        (end, last)
    }

    fn entries(text: &[u8], cuts: &[usize]) -> Vec<Bytes> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|pair| Bytes::copy_from_slice(&text[pair[0]..pair[1]])).collect()
    }

    #[test]
    fn ids_come_before_the_end_of_each_event_and_change_nothing_else() {
        let text = b"data: a\n\n: note\r\n\r\ndata: b\ndata: c\n\n\n\ndata: [DO";
        let out = read(&entries(text, &[4, 8, 12]), None);
        let expected =
            "data: a\nid: 3-3-1\n\n: note\r\nid: 3-4-7\n\r\ndata: b\ndata: c\nid: 3-4-24\n\n\n\ndata: [DO";
        assert_eq!(std::str::from_utf8(&out).unwrap(), expected);
    }

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is() {
        let mark = EventId { place: PiecePlace { epoch: 2, n: 7 }, offset: 345 };
        assert_eq!(EventId::parse("2-7-345"), Some(mark));
        for wrong in ["", "2-7", "2-0-1", "-1-7-3", "2-7-", "2-7-3-1", "a-b-c", "+2-7-3"] {
            assert_eq!(EventId::parse(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_stream_cut_anywhere_and_read_on_is_the_same_bytes(
            lines in prop::collection::vec(("(data: |: |)[a-z\u{e4}]{0,6}", prop::sample::select(vec!["\n", "\r\n", "\r"])), 0..30),
            cuts in prop::collection::vec(any::<usize>(), 0..12),
        ) {
            let text: String = lines.iter().flat_map(|(line, end)| [line.as_str(), end]).collect();
            let entries = entries(text.as_bytes(), &cuts);
            let whole = read(&entries, None);
            for cut in 0..=whole.len() {
                let seen = &whole[..cut];
                let (end, mark) = kept(seen);
                let resumed = read(&entries, mark);
                let kept = &seen[..end];
                let mut glued = [kept, &resumed[..]].concat();
                // A resumed stream leaves out a LF whose line a CR has ended already.
                if kept.ends_with(b"\r") && whole.get(end) == Some(&b'\n') {
                    glued.insert(end, b'\n');
                }
                prop_assert_eq!(&glued, &whole, "cut at {} and read on from {:?}", cut, mark);
            }
        }
    }
}
