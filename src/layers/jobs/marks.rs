//! Event ids, so that a stream that was cut off can be read on from where it was.
//!
//! A worker's bytes are cut into entries anywhere, so an id names the byte after its event: run, entry, and how many bytes
//! of the entry. Whoever reads on from there needs nothing of what came before. The id is a line of its own before the
//! empty line that ends the event; everything else passes as it is.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

use crate::redis::jobs::Place;

/// Where an event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// The entry that its last byte is in.
    pub(super) place: Place,
    /// How many bytes of the entry are before the next event.
    pub(super) offset: usize,
}

impl Mark {
    /// Reads what a client saw as an event's id.
    pub(super) fn parse(id: &str) -> Option<Self> {
        let (place, offset) = id.rsplit_once('-')?;
        let plain = id.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
        let place = Place::parse(place).filter(|place| plain && place.n > 0)?;
        Some(Self { place, offset: offset.parse().ok()? })
    }
}

/// Puts ids into a stream.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The line so far has something in it.
    in_line: bool,
    /// The event so far has a line.
    in_event: bool,
    /// The last byte was a CR: a LF now belongs to it.
    after_cr: bool,
    /// Whoever reads on has that LF, or had its line ended by the CR alone: it is not said again.
    said: bool,
}

impl Marks {
    /// Where a stream is read on after an event: whether its last byte was a CR.
    pub(super) fn after(last: Option<u8>) -> Self {
        let after_cr = last == Some(b'\r');
        Self { after_cr, said: after_cr, ..Self::default() }
    }

    /// The bytes of the entry at `place` from `from` on, with ids.
    pub(super) fn feed(&mut self, place: Place, from: usize, data: &Bytes) -> Bytes {
        let mut out = BytesMut::with_capacity(data.len().saturating_sub(from) + 48);
        let mut at = from.min(data.len());
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            let after_cr = std::mem::take(&mut self.after_cr);
            let said = std::mem::take(&mut self.said);
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

    /// The stream with ids, of entries that are these bytes, from a mark on.
    fn read(entries: &[Bytes], mark: Option<Mark>) -> Vec<u8> {
        let mut marks = Marks::default();
        let mut out = Vec::new();
        for (n, data) in (1..).zip(entries) {
            let place = Place { epoch: 3, n };
            match mark {
                Some(mark) if place < mark.place => {}
                Some(mark) if place == mark.place => {
                    marks = Marks::after(mark.offset.checked_sub(1).and_then(|at| data.get(at)).copied());
                    out.extend(marks.feed(place, mark.offset, data));
                }
                _ => out.extend(marks.feed(place, 0, data)),
            }
        }
        out
    }

    /// What a client that follows the standard keeps of a stream that was cut off: whole events, and the last id.
    fn kept(seen: &[u8]) -> (usize, Option<Mark>) {
        let (mut end, mut id, mut last) = (0, None, None);
        let mut at = 0;
        while let Some(content) = memchr2(b'\n', b'\r', &seen[at..]) {
            let crlf = seen[at + content] == b'\r' && seen.get(at + content + 1) == Some(&b'\n');
            let line = &seen[at..at + content];
            at += content + 1 + usize::from(crlf);
            if let Some(text) = line.strip_prefix(b"id: ") {
                id = Some(Mark::parse(std::str::from_utf8(text).unwrap()).unwrap());
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
        let mark = Mark { place: Place { epoch: 2, n: 7 }, offset: 345 };
        assert_eq!(Mark::parse("2-7-345"), Some(mark));
        for wrong in ["", "2-7", "2-0-1", "-1-7-3", "2-7-", "2-7-3-1", "a-b-c", "+2-7-3"] {
            assert_eq!(Mark::parse(wrong), None, "{wrong}");
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
                // A LF that ends what a CR ended already is not said again.
                if kept.ends_with(b"\r") && whole.get(end) == Some(&b'\n') {
                    glued.insert(end, b'\n');
                }
                prop_assert_eq!(&glued, &whole, "cut at {} and read on from {:?}", cut, mark);
            }
        }
    }
}
