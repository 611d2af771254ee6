//! Reads along with a body that is forwarded as it arrives, in pieces cut anywhere.
//!
//! The members that decide the cost were read from the beginning of the body ([`parse_start`]). The
//! rest must not contradict them: the gateway and a worker could read a second `model` differently,
//! and the rules for media hold for the whole body. The follower keeps the beginning of one string
//! and the kinds of the open objects, never a value.
//!
//! [`parse_start`]: super::parse_start

use memchr::memchr2;
use smallvec::SmallVec;

use super::media::{MediaCount, MediaMember, MediaUrls};
use super::names::{NAMES, SHOWN, TYPED, check_letter_case, is_word};
use super::needs::StartNeeds;
use super::{BodyFieldError, MAX_MEDIA_PARTS, Shape};
use crate::openai::kinds::{BodyMember, CountedAs, KindRow, folded};
use crate::openai::scan::{JsonText, MAX_DEPTH, Scanner};

/// Bytes of a string that are kept: longer than any name of a member, and than the host of any URL.
const KEPT: usize = 1024;

/// A short word, cut after so many bytes: all words that matter are shorter.
type Word = SmallVec<[u8; 24]>;

/// Reads along with a body.
#[derive(Debug)]
pub(crate) struct BodyFollower {
    row: &'static KindRow,
    urls: MediaUrls,
    open: Vec<OpenValue>,
    string: Option<OpenString>,
    /// Its beginning, escapes included; or a number or word that decides.
    kept: SmallVec<[u8; 64]>,
    /// Members of the body that have come, as bits.
    seen: u64,
    /// Media so far.
    parts: u64,
    /// Set once the request may have been sent: what decided its cost then may no longer come.
    sent: Option<StartNeeds>,
    /// Bytes before the chunk that is being read.
    before: usize,
    is_over: bool,
}

#[derive(Clone, Copy, Debug)]
struct OpenString {
    purpose: StringUse,
    /// Offset of its opening quote.
    at: usize,
    /// The last byte was a backslash.
    escaped: bool,
    /// Not all of it was kept.
    is_cut: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StringUse {
    Key,
    Type,
    MediaType,
    Media(MediaMember),
    /// Media, if its object is of certain types: the value of this member.
    Perhaps(&'static str),
    Text,
}

#[derive(Debug, Default)]
struct OpenValue {
    is_object: bool,
    expects_key: bool,
    passes: bool,
    media: Option<MediaMember>,
    /// Member whose value is being read.
    member: MemberUse,
    kind: Word,
    media_type: Word,
    /// The values that are media if the object is of certain types.
    perhaps: JudgedText,
    /// Their names.
    typed: SmallVec<[&'static str; TYPED.len()]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum MemberUse {
    #[default]
    Other,
    Passed,
    /// A member of the body whose value decides the cost.
    Decides(BodyMember),
    Type,
    MediaType,
    Name,
    /// Shown to the model as JSON, if it is no string.
    Shown,
    Perhaps(&'static str),
    Media(MediaMember),
}

/// Texts in a place of media.
#[derive(Debug, Default)]
struct JudgedText {
    /// Number of those that are media.
    media: u64,
    fault: Option<BodyFieldError>,
}

impl BodyFollower {
    pub(super) fn new(shape: &Shape) -> Self {
        Self {
            row: shape.row(),
            urls: shape.urls.clone(),
            open: Vec::new(),
            string: None,
            kept: SmallVec::new(),
            seen: 0,
            parts: 0,
            sent: None,
            before: 0,
            is_over: false,
        }
    }

    /// Marks the request as sent, with the cost that was read until now, as far as it was needed.
    pub(super) fn mark_sent(&mut self, needs: StartNeeds) {
        self.sent = Some(needs);
    }

    /// Returns the offset of the string that is being read, else that of the next byte.
    pub(super) fn token_at(&self) -> usize {
        self.string.map_or(self.before, |string| string.at)
    }

    /// Returns the media that is being read; `None` within anything else.
    pub(super) fn open_media(&self) -> Option<MediaMember> {
        let member = match self.string?.purpose {
            StringUse::Media(member) => member,
            StringUse::Perhaps(_) => {
                let object = self.open.last()?;
                MediaMember::in_object(&object.kind, &object.media_type)?
            }
            _ => return None,
        };
        let is_media = member != MediaMember::Opaque && self.judge(true).media > 0;
        is_media.then_some(member)
    }

    /// Reads the next bytes, cut anywhere.
    ///
    /// # Errors
    /// If a member comes twice, or too late; if the rules for media are broken; if the body is no
    /// JSON, as far as that shows. It must not be fed after that.
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Result<(), BodyFieldError> {
        let mut rest = chunk;
        while let Some((&byte, after)) = rest.split_first() {
            rest = if self.string.is_some() {
                self.in_string(rest)?
            } else {
                self.between(byte, self.before + chunk.len() - rest.len())?;
                after
            };
        }
        self.before += chunk.len();
        Ok(())
    }

    /// Reads a string up to its end or to an escape, and returns what follows.
    fn in_string<'c>(&mut self, chunk: &'c [u8]) -> Result<&'c [u8], BodyFieldError> {
        let Some(string) = &mut self.string else { return Ok(chunk) };
        let from = usize::from(std::mem::take(&mut string.escaped));
        let rest = chunk.get(from..).unwrap_or_default();
        let end = memchr2(b'"', b'\\', rest).map(|end| end + from);
        let last = end.and_then(|end| chunk.get(end)).copied();
        string.escaped = last == Some(b'\\');
        // The backslash of an escape belongs to the string, its closing quote does not.
        let length = end.map_or(chunk.len(), |end| end + usize::from(string.escaped));
        if string.purpose != StringUse::Text {
            let room = KEPT - self.kept.len();
            string.is_cut |= length > room;
            self.kept.extend_from_slice(chunk.get(..length.min(room)).unwrap_or_default());
        }
        if last != Some(b'"') {
            return Ok(chunk.get(length..).unwrap_or_default());
        }
        let string = *string;
        self.string_over(string)?;
        self.string = None;
        self.kept.clear();
        Ok(chunk.get(length + 1..).unwrap_or_default())
    }

    fn between(&mut self, byte: u8, at: usize) -> Result<(), BodyFieldError> {
        let top = self.open.last_mut();
        match (byte, top) {
            (b' ' | b'\t' | b'\n' | b'\r', _) => {}
            (b'{', None) if !self.is_over => self.enter(true, at)?,
            (_, None) => return Err(BodyFieldError::Syntax { at }),
            (b'"', Some(top)) => {
                let purpose = top.purpose();
                self.kept.clear();
                self.string = Some(OpenString { purpose, at, escaped: false, is_cut: false });
            }
            (b'{' | b'[', Some(_)) => self.enter(byte == b'{', at)?,
            (b'}' | b']', Some(top)) if top.is_object == (byte == b'}') => self.leave()?,
            (b'}' | b']', Some(_)) => return Err(BodyFieldError::Syntax { at }),
            (b':', Some(top)) => top.expects_key = false,
            (b',', Some(_)) => self.member_over()?,
            (_, Some(top)) => {
                if matches!(top.member, MemberUse::Decides(_)) && self.kept.len() < KEPT {
                    self.kept.push(byte);
                }
            }
        }
        Ok(())
    }

    fn enter(&mut self, is_object: bool, at: usize) -> Result<(), BodyFieldError> {
        if self.open.len() + 1 >= MAX_DEPTH as usize {
            return Err(BodyFieldError::TooDeep { at });
        }
        let (passes, media) = self.open.last().map_or((false, None), OpenValue::inside);
        self.open.push(OpenValue {
            is_object,
            expects_key: is_object,
            passes,
            media,
            ..OpenValue::default()
        });
        Ok(())
    }

    fn leave(&mut self) -> Result<(), BodyFieldError> {
        self.member_over()?;
        let Some(OpenValue { kind, media_type, perhaps, .. }) = self.open.pop() else { return Ok(()) };
        self.is_over = self.open.is_empty();
        match MediaMember::in_object(&kind, &media_type) {
            Some(member) => self.count(member, perhaps),
            None => Ok(()),
        }
    }

    /// Ends a member of an object, or an item of an array.
    fn member_over(&mut self) -> Result<(), BodyFieldError> {
        let Some(top) = self.open.last_mut() else { return Ok(()) };
        top.expects_key = top.is_object;
        match std::mem::take(&mut top.member) {
            MemberUse::Decides(member) if self.is_late(member) => {
                Err(BodyFieldError::Late { param: member.name().into() })
            }
            _ => Ok(()),
        }
    }

    /// Returns `true` if the value that was read raises the cost with which the request was sent.
    ///
    /// Its name may have come before that, so this cannot be said earlier.
    fn is_late(&self, member: BodyMember) -> bool {
        match (self.sent, &*self.kept) {
            (None, _) | (_, b"null") => false,
            (Some(_), value) if member.is_sequences() => value != b"1",
            // The greatest bound counts, and the greatest of those that had come was reserved.
            (Some(needs), _) => needs.bound,
        }
    }

    fn string_over(&mut self, string: OpenString) -> Result<(), BodyFieldError> {
        match string.purpose {
            StringUse::Text => Ok(()),
            StringUse::Key => self.key_over(string),
            StringUse::Type | StringUse::MediaType => {
                let word = self.kept.get(..self.kept.len().min(24)).unwrap_or_default().into();
                if let Some(top) = self.open.last_mut() {
                    let place = match string.purpose {
                        StringUse::Type => &mut top.kind,
                        _ => &mut top.media_type,
                    };
                    *place = word;
                }
                Ok(())
            }
            StringUse::Media(member) => self.count(member, self.judge(string.is_cut)),
            StringUse::Perhaps(name) => {
                let judged = self.judge(string.is_cut);
                let Some(top) = self.open.last_mut() else { return Ok(()) };
                if top.typed.contains(&name) {
                    return Err(BodyFieldError::Duplicate { param: name.into() });
                }
                top.typed.push(name);
                top.perhaps.media += judged.media;
                top.perhaps.fault = top.perhaps.fault.take().or(judged.fault);
                Ok(())
            }
        }
    }

    fn key_over(&mut self, string: OpenString) -> Result<(), BodyFieldError> {
        let (row, depth) = (self.row, self.open.len());
        let quoted = [b"\"", &*self.kept, b"\""].concat();
        let key = Scanner::new(&quoted).string().ok().filter(|_| !string.is_cut);
        let member = match key {
            None => MemberUse::Other,
            Some(key) if depth > 1 => MemberUse::of(&key.name()),
            Some(key) => {
                let known = BodyMember::of(&key).filter(|member| member.is_read(row));
                if known.is_none() {
                    check_letter_case(&key, row)?;
                }
                if let Some(member) = known {
                    let bit = 1 << member as u32;
                    if self.seen & bit != 0 {
                        return Err(BodyFieldError::Duplicate { param: member.name().into() });
                    }
                    self.seen |= bit;
                }
                match known {
                    Some(member) if member.is_sequences() || member.is_output_bound() => {
                        MemberUse::Decides(member)
                    }
                    Some(member) => match row.counts(member) {
                        None | Some(CountedAs::Json | CountedAs::Tools) => MemberUse::Passed,
                        Some(_) => MemberUse::Other,
                    },
                    None => MemberUse::Passed,
                }
            }
        };
        if let Some(top) = self.open.last_mut() {
            top.member = member;
        }
        Ok(())
    }

    fn count(&mut self, member: MediaMember, text: JudgedText) -> Result<(), BodyFieldError> {
        if let Some(fault) = text.fault {
            return Err(fault);
        }
        self.parts += if member == MediaMember::Opaque { 0 } else { text.media };
        if self.parts <= MAX_MEDIA_PARTS {
            return Ok(());
        }
        let param = self.row.prompt.first().map_or("input", |(member, _)| member.name()).into();
        Err(BodyFieldError::TooLong { param, most: MAX_MEDIA_PARTS, what: "media parts" })
    }

    /// Judges a text by its beginning; `is_cut` if there is more of it.
    fn judge(&self, is_cut: bool) -> JudgedText {
        let mut raw = &*self.kept;
        let mut count = MediaCount::default();
        let mut media = 0;
        // The last escape may be cut, and the one before it be half of a pair.
        for _ in 0..3 {
            let quoted = [b"\"", raw, b"\""].concat();
            let text = Scanner::new(&quoted).string().ok();
            if text.is_some_and(|text| !is_cut && is_word(&text)) {
                break;
            }
            if let Some(text) = text.as_ref().and_then(JsonText::decode) {
                media = u64::from(count.data(&text, &self.urls).is_some());
                break;
            }
            let Some(cut) = raw.iter().rposition(|byte| *byte == b'\\') else { break };
            raw = raw.get(..cut).unwrap_or_default();
        }
        JudgedText { media, fault: count.fault }
    }
}

impl OpenValue {
    fn purpose(&self) -> StringUse {
        if self.is_object && self.expects_key {
            return StringUse::Key;
        }
        let inherited = self.media.map_or(StringUse::Text, StringUse::Media);
        match self.member {
            _ if self.passes => StringUse::Text,
            MemberUse::Passed | MemberUse::Name => StringUse::Text,
            MemberUse::Type => StringUse::Type,
            MemberUse::MediaType => StringUse::MediaType,
            MemberUse::Perhaps(name) if self.media.is_none() => StringUse::Perhaps(name),
            MemberUse::Media(member) => StringUse::Media(self.media.unwrap_or(member)),
            // A string is no number of sequences: the worker refuses it.
            MemberUse::Perhaps(_) | MemberUse::Shown | MemberUse::Decides(_) | MemberUse::Other => inherited,
        }
    }

    /// Returns `passes` and `media` of an array or object that begins here.
    fn inside(&self) -> (bool, Option<MediaMember>) {
        match self.member {
            MemberUse::Passed | MemberUse::Shown | MemberUse::Decides(_) => (true, None),
            MemberUse::Media(member) => (self.passes, Some(self.media.unwrap_or(member))),
            _ => (self.passes, self.media),
        }
    }
}

impl MemberUse {
    /// Returns what the member `name` of an object within the prompt is.
    fn of(name: &[u8]) -> Self {
        match name {
            b"type" => Self::Type,
            b"media_type" => Self::MediaType,
            _ if NAMES.contains(&name) => Self::Name,
            _ => {
                let lower = folded(name);
                let name = lower.as_ref().map_or(name, String::as_bytes);
                if let Some(typed) = TYPED.into_iter().find(|typed| typed.as_bytes() == name) {
                    return Self::Perhaps(typed);
                }
                if SHOWN.contains(&name) {
                    return Self::Shown;
                }
                MediaMember::of(name).map_or(Self::Other, Self::Media)
            }
        }
    }
}

#[cfg(test)]
mod tests;
