//! Tracks whether an HTTP/2 preface or block of header fields has begun and is not complete, for
//! the head timeout. Hyper limits the size of a block, but not its time. This follows frame by
//! frame (RFC 9113 §4.1, §6.2, §6.10) and leaves their contents and malformed frames to hyper.

/// The preface after its first line.
const REST_OF_PREFACE: usize = b"\r\nSM\r\n\r\n".len();
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Follows the frames of one connection, from the second line of its preface on.
#[derive(Debug)]
pub(super) struct Frames {
    /// Remaining bytes of the preface.
    preface: usize,
    /// Header of the current frame, of which `filled` bytes are present.
    head: [u8; HEAD],
    filled: usize,
    /// Remaining bytes of the frame.
    left: usize,
    /// `true` if this frame is part of a block of header fields.
    of_block: bool,
    /// `true` if a block of header fields has begun but not its last frame.
    open: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self { preface: REST_OF_PREFACE, head: [0; HEAD], filled: 0, left: 0, of_block: false, open: false }
    }
}

impl Frames {
    /// Returns `true` if a preface or a block of header fields has begun and is not complete. An
    /// incomplete frame header counts too: its type is still unknown.
    pub(super) const fn in_head(&self) -> bool {
        self.preface > 0 || self.open || self.filled > 0 || (self.left > 0 && self.of_block)
    }

    /// Takes the bytes read next.
    pub(super) fn scan(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.preface > 0 || self.left > 0 {
                let wanted = if self.preface > 0 { &mut self.preface } else { &mut self.left };
                let here = (*wanted).min(bytes.len());
                *wanted -= here;
                bytes = bytes.get(here..).unwrap_or_default();
                continue;
            }
            let here = (HEAD - self.filled).min(bytes.len());
            let (part, rest) = bytes.split_at(here);
            if let Some(room) = self.head.get_mut(self.filled..self.filled + here) {
                room.copy_from_slice(part);
            }
            self.filled += here;
            bytes = rest;
            if self.filled == HEAD {
                self.begin();
            }
        }
    }

    fn begin(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.filled = 0;
        self.left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.of_block = matches!(kind, HEADERS | CONTINUATION);
        if self.of_block {
            self.open = flags & END_HEADERS == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.extend(vec![b'x'; length.into()]);
        frame
    }

    fn started() -> Frames {
        let mut frames = Frames::default();
        frames.scan(b"\r\nSM\r\n\r\n");
        frames
    }

    #[test]
    fn a_preface_has_begun_until_its_last_byte() {
        let mut frames = Frames::default();
        for byte in b"\r\nSM\r\n\r\n" {
            assert!(frames.in_head());
            frames.scan(&[*byte]);
        }
        assert!(!frames.in_head());
    }

    #[test]
    fn a_block_of_fields_has_begun_until_the_last_byte_of_its_last_frame_however_it_is_read() {
        const SETTINGS: u8 = 4;
        const DATA: u8 = 0;
        let whole = [frame(SETTINGS, 0, 6), frame(HEADERS, END_HEADERS, 20), frame(DATA, 0, 200)].concat();
        let split = [frame(HEADERS, 0, 20), frame(CONTINUATION, 0, 5), frame(CONTINUATION, END_HEADERS, 5)];
        for size in [1, 3, 9, 10, 64, 1000] {
            let mut frames = started();
            whole.chunks(size).for_each(|bytes| frames.scan(bytes));
            assert!(!frames.in_head(), "by {size}");
            let all = split.concat();
            let (last, before) = all.split_last().unwrap();
            before.chunks(size).for_each(|bytes| {
                frames.scan(bytes);
                assert!(frames.in_head(), "by {size}");
            });
            frames.scan(&[*last]);
            assert!(!frames.in_head(), "by {size}");
        }
        let mut frames = started();
        frames.scan(&frame(DATA, 0, 200)[..100]);
        assert!(!frames.in_head(), "a body takes its own time");
    }
}
