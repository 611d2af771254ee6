//! Takes the content of a body out of the bytes read (RFC 9112 §6, §7).

use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memmem;

use super::error::Http1Error;

/// Bytes of all chunk extensions of one body.
const EXTENSIONS_MAX: u64 = 16 * 1024;
/// Bytes of the trailer section, and the number of its fields.
const TRAILERS_MAX: usize = 16 * 1024;
pub(super) const FIELDS_MAX: usize = 100;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    Empty,
    /// By its length in bytes.
    Length(u64),
    /// It says so itself.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// Position in a body.
#[derive(Debug)]
pub(super) enum BodyDecoder {
    /// At its end.
    Over,
    /// This many bytes are missing.
    Length(u64),
    /// Within chunks.
    Chunked(ChunkPosition),
    /// The connection has not ended.
    UntilClose,
    /// At its end, with trailers that were not taken yet.
    Trailers(Box<HeaderMap>),
    /// At the end of chunks. It is passed on apart from the last content, so that the client gets chunks too.
    ChunksEnded,
}

/// Position in a chunked body.
#[derive(Debug)]
pub(super) struct ChunkPosition {
    at: ChunkPart,
    /// The size read so far, then the bytes of the chunk that are missing.
    left: u64,
    extensions: u64,
    /// The trailer section read so far; `None` before it.
    trailers: Option<Vec<u8>>,
}

/// Where in a chunked body the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkPart {
    /// First digit of a size.
    Start,
    Size,
    /// Blanks after a size.
    Blanks,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    /// After the last chunk, at the beginning of a line.
    LineStart,
    Trailer,
    TrailerLf,
    LastLf,
    /// Behind the last line.
    End,
}

impl From<Framing> for BodyDecoder {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Empty | Framing::Length(0) => Self::Over,
            Framing::Length(left) => Self::Length(left),
            Framing::UntilClose => Self::UntilClose,
            Framing::Chunked => {
                Self::Chunked(ChunkPosition { at: ChunkPart::Start, left: 0, extensions: 0, trailers: None })
            }
        }
    }
}

impl BodyDecoder {
    /// Returns `true` if all content and trailers were taken.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Takes the end of chunks; `false` if there is none to take.
    pub(super) fn take_end(&mut self) -> bool {
        let ended = matches!(self, Self::ChunksEnded);
        if ended {
            *self = Self::Over;
        }
        ended
    }

    /// Takes the trailers of a body that has been read to its end.
    pub(super) fn take_trailers(&mut self) -> Option<HeaderMap> {
        let Self::Trailers(fields) = self else { return None };
        let fields = std::mem::take(&mut **fields);
        *self = Self::Over;
        Some(fields)
    }

    /// Takes the next piece of content from the front of `input`. Without one, either `input` is used
    /// up or the body is over; bytes after its end stay.
    ///
    /// # Errors
    /// If the bytes are not a body with this framing.
    pub(super) fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<&'i [u8]>, Http1Error> {
        match self {
            Self::Over | Self::Trailers(_) | Self::ChunksEnded => Ok(None),
            Self::UntilClose => Ok(take(input, u64::MAX)),
            Self::Length(left) => {
                let piece = take(input, *left);
                *left -= piece.map_or(0, |piece| piece.len() as u64);
                if *left == 0 {
                    *self = Self::Over;
                }
                Ok(piece)
            }
            Self::Chunked(position) => {
                let piece = position.next(input)?;
                if let Some(end) = position.end() {
                    *self = end?;
                }
                Ok(piece)
            }
        }
    }

    /// Notes the end of the connection.
    ///
    /// # Errors
    /// If the body is not complete.
    pub(super) fn close(&mut self) -> Result<(), Http1Error> {
        match self {
            Self::UntilClose => *self = Self::Over,
            Self::Over | Self::Trailers(_) | Self::ChunksEnded => {}
            Self::Length(_) | Self::Chunked(_) => return Err(Http1Error::Incomplete),
        }
        Ok(())
    }
}

/// Takes up to `most` bytes from the front of `input`; `None` if it is empty.
fn take<'i>(input: &mut &'i [u8], most: u64) -> Option<&'i [u8]> {
    let count = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    let (piece, rest) = input.split_at(count);
    *input = rest;
    (!piece.is_empty()).then_some(piece)
}

impl ChunkPosition {
    fn next<'i>(&mut self, input: &mut &'i [u8]) -> Result<Option<&'i [u8]>, Http1Error> {
        loop {
            if self.at == ChunkPart::Data {
                let piece = take(input, self.left);
                self.left -= piece.map_or(0, |piece| piece.len() as u64);
                if self.left == 0 {
                    self.at = ChunkPart::DataCr;
                }
                return Ok(piece);
            }
            if self.is_over() {
                return Ok(None);
            }
            let Some((byte, rest)) = input.split_first() else { return Ok(None) };
            *input = rest;
            self.step(*byte)?;
        }
    }

    fn is_over(&self) -> bool {
        self.at == ChunkPart::End
    }

    /// Returns the state of the body after its last byte; `None` before that.
    fn end(&mut self) -> Option<Result<BodyDecoder, Http1Error>> {
        if !self.is_over() {
            return None;
        }
        Some(match self.trailers.take() {
            None => Ok(BodyDecoder::ChunksEnded),
            Some(section) => parse_trailers(&section).map(|fields| BodyDecoder::Trailers(Box::new(fields))),
        })
    }

    /// Takes a byte that is no content.
    fn step(&mut self, byte: u8) -> Result<(), Http1Error> {
        use ChunkPart::{
            Blanks, Data, DataCr, DataLf, End, Extension, LastLf, LineStart, Size, SizeEnd, Start, Trailer,
            TrailerLf,
        };
        self.at = match (self.at, byte) {
            (Start | Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let size = self.left.checked_mul(16).and_then(|size| size.checked_add(digit.into()));
                self.left = size.ok_or(Http1Error::Malformed("a chunk is too large"))?;
                Size
            }
            (Size | Blanks, b' ' | b'\t') => Blanks,
            (Size | Blanks, b';') => Extension,
            (Size | Blanks | Extension, b'\r') => SizeEnd,
            (Extension, b'\n') => return Err(Http1Error::Malformed("a chunk extension has a line end")),
            (Extension, _) => {
                self.extensions += 1;
                if self.extensions >= EXTENSIONS_MAX {
                    return Err(Http1Error::Malformed("its chunk extensions are too long"));
                }
                Extension
            }
            (SizeEnd, b'\n') if self.left == 0 => LineStart,
            (SizeEnd, b'\n') => Data,
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => Start,
            (LineStart, b'\r') => LastLf,
            (Trailer, b'\r') => TrailerLf,
            (LineStart | Trailer, _) => Trailer,
            (TrailerLf, b'\n') => LineStart,
            (LastLf, b'\n') => End,
            (Start | Size | Blanks | SizeEnd, _) => {
                return Err(Http1Error::Malformed("a chunk has no valid size"));
            }
            (DataCr | DataLf | TrailerLf | LastLf, _) => {
                return Err(Http1Error::Malformed("a line of a chunk does not end"));
            }
            (Data | End, _) => self.at,
        };
        if matches!(self.at, Trailer | TrailerLf)
            || (self.at == LineStart && byte == b'\n' && self.trailers.is_some())
        {
            self.keep(byte)?;
        }
        Ok(())
    }

    /// Keeps a byte of the trailer section.
    fn keep(&mut self, byte: u8) -> Result<(), Http1Error> {
        let section = self.trailers.get_or_insert_default();
        section.push(byte);
        if section.len() >= TRAILERS_MAX {
            return Err(Http1Error::Malformed("its trailers are too long"));
        }
        Ok(())
    }
}

/// Parses a trailer section, without the empty line at its end.
fn parse_trailers(section: &[u8]) -> Result<HeaderMap, Http1Error> {
    let malformed = || Http1Error::Malformed("its trailers are malformed");
    let mut room = [httparse::EMPTY_HEADER; FIELDS_MAX];
    // The parser ends a line at a bare LF too, where the position did not see an end: as many fields as lines.
    let lines = memmem::find_iter(section, b"\r\n").count();
    let room = room.get_mut(..lines).ok_or_else(malformed)?;
    let whole = [section, b"\r\n"].concat();
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(&whole, room) else {
        return Err(malformed());
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_name| malformed())?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_value| malformed())?;
        trailers.append(name, value);
    }
    Ok(trailers)
}
