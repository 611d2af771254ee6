//! The one pass over a body.

use std::borrow::Cow;
use std::ops::Range;
use std::str::Utf8Error;
use std::sync::Arc;

use super::names::check_letter_case;
use super::scalar::{ScalarBound, boolean, output_bound, text, whole};
use super::shape::{Pointer, Shape};
use super::splice::{AskedUsage, Splice, stream_options};
use super::text::{PromptPart, Prompts, TextSink, add_json, add_prompts, add_text, add_tools};
use super::{
    BodyFieldError, Facts, MAX_MEDIA_PARTS, MAX_MODEL_BYTES, MAX_N, MAX_PROMPTS, MAX_RESPONSE_ID_BYTES,
    MAX_SESSION_BYTES,
};
use crate::openai::kinds::{BodyMember, CountedAs, Output};
use crate::openai::scan::{JsonText, Scanner};
use crate::request::Kind;

/// Purpose of a shape's pointer.
#[derive(Clone, Copy, Debug)]
enum Use {
    Prompt,
    Session,
    MaxTokens,
}

struct BodyReading<'a, 'h> {
    shape: &'a Shape,
    body: &'a [u8],
    seen: u64,
    pointed: u32,
    model: Option<Arc<str>>,
    model_at: Option<Range<usize>>,
    previous: Option<Box<str>>,
    prompts: Prompts<'h>,
    max_tokens: Option<u64>,
    unbounded: bool,
    /// The greatest of `n`, `best_of` and the like.
    sequences: Option<u64>,
    stream: bool,
    store: Option<bool>,
    asked: Option<AskedUsage>,
    session: Option<Box<str>>,
    cache_salt: Option<Box<str>>,
}

pub(super) fn parse<'h>(
    shape: &Shape,
    body: &[u8],
    hear: Option<&'h mut TextSink<'h>>,
) -> Result<Facts, BodyFieldError> {
    std::str::from_utf8(body).map_err(|error| not_utf8(body, error))?;
    let mut scanner = Scanner::new(body);
    let first_member = first_member(&mut scanner)?;
    let mut reading = BodyReading::new(shape, body, hear);
    scanner.object(|scanner, key| reading.member(scanner, key))?;
    scanner.finish()?;
    reading.facts(first_member)
}

/// Reads the beginning of a body; returns `None` if it is the whole. What is cut within a member
/// counts as far as it goes.
pub(super) fn parse_beginning(shape: &Shape, body: &[u8]) -> Result<Option<Facts>, BodyFieldError> {
    let body = match std::str::from_utf8(body) {
        Ok(_) => body,
        Err(error) if error.error_len().is_none() => body.get(..error.valid_up_to()).unwrap_or_default(),
        Err(error) => return Err(not_utf8(body, error)),
    };
    // A number that is cut is another number.
    let end = body.iter().rposition(|byte| !matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
    let body = body.get(..end.map_or(0, |end| end + 1)).unwrap_or_default();
    let mut scanner = Scanner::new(body);
    let first_member = match first_member(&mut scanner) {
        // Nothing but white space so far.
        Err(BodyFieldError::Unfinished) => return Ok(None),
        found => found?,
    };
    let mut reading = BodyReading::new(shape, body, None);
    match scanner.object(|scanner, key| reading.member(scanner, key)) {
        Ok(()) => Ok(None),
        Err(BodyFieldError::Unfinished) => reading.facts(first_member).map(Some),
        Err(fault) => Err(fault),
    }
}

fn not_utf8(body: &[u8], error: Utf8Error) -> BodyFieldError {
    match body {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 0, 0xfe, 0xff, ..] => BodyFieldError::OtherUnicode,
        _ => BodyFieldError::NotUtf8 { at: error.valid_up_to() },
    }
}

/// Returns the offset of a body's first member.
fn first_member(scanner: &mut Scanner<'_>) -> Result<usize, BodyFieldError> {
    match scanner.peek()? {
        b'{' => Ok(scanner.at() + 1),
        0xef => Err(BodyFieldError::Mark { at: scanner.at() }),
        _ => Err(BodyFieldError::NotAnObject),
    }
}

impl<'a, 'h> BodyReading<'a, 'h> {
    fn new(shape: &'a Shape, body: &'a [u8], hear: Option<&'h mut TextSink<'h>>) -> Self {
        Self {
            shape,
            body,
            seen: 0,
            pointed: 0,
            model: None,
            model_at: None,
            previous: None,
            prompts: Prompts { urls: shape.urls.clone(), on_text: hear, ..Prompts::default() },
            max_tokens: None,
            unbounded: false,
            sequences: None,
            stream: false,
            store: None,
            asked: None,
            session: None,
            cache_salt: None,
        }
    }

    fn member(&mut self, scanner: &mut Scanner<'a>, key: JsonText<'a>) -> Result<(), BodyFieldError> {
        scanner.peek()?;
        let start = scanner.at();
        let shape = self.shape;
        let read = |member: &BodyMember| member.is_read(shape.row());
        match BodyMember::of(&key).filter(read) {
            Some(member) => self.known(scanner, member)?,
            None => {
                if shape.strict {
                    check_letter_case(&key, shape.row())?;
                }
                scanner.skip()?;
            }
        }
        for (purpose, pointer) in [
            (Use::Prompt, &shape.prompt),
            (Use::Session, &shape.session),
            (Use::MaxTokens, &shape.max_tokens),
        ] {
            if let Some(pointer) = pointer
                && pointer.enters(&key.name())
            {
                let value = self.body.get(start..scanner.at()).unwrap_or_default();
                self.pointed(purpose, pointer, value)?;
            }
        }
        Ok(())
    }

    fn known(&mut self, scanner: &mut Scanner<'a>, member: BodyMember) -> Result<(), BodyFieldError> {
        let bit = 1 << member as u32;
        if self.seen & bit != 0 {
            return Err(BodyFieldError::Duplicate { param: member.name().into() });
        }
        self.seen |= bit;
        let (at, depth) = (scanner.at(), scanner.depth());
        match self.value(scanner, member) {
            // In a route's own body the member may mean something else.
            Err(
                BodyFieldError::WrongType { .. }
                | BodyFieldError::LetterCase { .. }
                | BodyFieldError::OutOfRange { .. }
                | BodyFieldError::TooLong { .. },
            ) if !self.shape.strict => {
                scanner.rewind(at, depth);
                Ok(scanner.skip()?)
            }
            read => read,
        }
    }

    fn value(&mut self, scanner: &mut Scanner<'a>, member: BodyMember) -> Result<(), BodyFieldError> {
        let name = Cow::Borrowed(member.name());
        match member {
            BodyMember::Model => {
                scanner.peek()?;
                let start = scanner.at();
                // Workers treat an empty name as none.
                let named = text(scanner, name, MAX_MODEL_BYTES)?.filter(|text| !text.is_empty());
                self.model = named.map(|text| text.as_ref().into());
                self.model_at = self.model.is_some().then(|| start..scanner.at());
            }
            BodyMember::PreviousResponseId if self.shape.kind == Kind::Response => {
                let named = text(scanner, name, MAX_RESPONSE_ID_BYTES)?.filter(|text| !text.is_empty());
                self.previous = named.map(|text| text.as_ref().into());
            }
            member if member.is_sequences() => {
                self.sequences = self.sequences.max(whole(scanner, name, 1, MAX_N)?);
            }
            BodyMember::Stream => self.stream = boolean(scanner, name)?.unwrap_or(false),
            BodyMember::Store => self.store = boolean(scanner, name)?,
            BodyMember::StreamOptions => self.asked = Some(stream_options(scanner)?),
            member if member.is_output_bound() => {
                let bound = output_bound(scanner, name)?;
                if self.shape.max_tokens.is_none() {
                    self.bound(bound);
                }
            }
            BodyMember::CacheSalt => {
                let start = scanner.at();
                scanner.skip()?;
                self.cache_salt = Some(String::from_utf8_lossy(scanner.since(start)).into());
            }
            _ if self.shape.prompt.is_some() => scanner.skip()?,
            _ => self.prompt(scanner, member)?,
        }
        Ok(())
    }

    /// Records a bound. Workers disagree on which of several counts; the greatest is safe for all.
    fn bound(&mut self, bound: ScalarBound) {
        match bound {
            ScalarBound::Absent => {}
            ScalarBound::None => self.unbounded = true,
            ScalarBound::Tokens(tokens) => self.max_tokens = self.max_tokens.max(Some(tokens)),
        }
    }

    fn prompt(&mut self, scanner: &mut Scanner<'a>, member: BodyMember) -> Result<(), BodyFieldError> {
        let Some(counted) = self.shape.row().counts(member) else { return Ok(scanner.skip()?) };
        self.prompts.part = match member {
            BodyMember::Tools | BodyMember::Functions => PromptPart::Tools,
            BodyMember::System | BodyMember::Instructions => PromptPart::Instructions,
            _ => PromptPart::Text,
        };
        let first = scanner.peek()?;
        let expect = |fits: bool, expected| {
            let param = member.name().into();
            if fits || first == b'n' { Ok(()) } else { Err(BodyFieldError::WrongType { param, expected }) }
        };
        match counted {
            CountedAs::Text => {}
            CountedAs::Array => expect(first == b'[', "an array")?,
            CountedAs::StringOrArray | CountedAs::Prompts => {
                expect(matches!(first, b'"' | b'['), "a string or an array")?;
            }
            // Templates and engines give it to the model as JSON.
            CountedAs::Json => return Ok(add_json(scanner, &mut self.prompts)?),
            CountedAs::Tools => return Ok(add_tools(scanner, &mut self.prompts)?),
        }
        if counted == CountedAs::Prompts {
            add_prompts(scanner, &mut self.prompts)?;
        } else {
            add_text(scanner, &mut self.prompts)?;
        }
        Ok(())
    }

    /// Reads what a pointer selects in the value of its first member.
    fn pointed(&mut self, purpose: Use, pointer: &Pointer, value: &'a [u8]) -> Result<(), BodyFieldError> {
        let name = || Cow::Owned(pointer.as_str().to_owned());
        let bit = 1 << purpose as u32;
        if self.pointed & bit != 0 {
            return Err(BodyFieldError::Duplicate { param: name() });
        }
        self.pointed |= bit;
        let Some(value) = pointer.select(value)? else { return Ok(()) };
        self.prompts.part = PromptPart::Text;
        let mut scanner = Scanner::new(value);
        match purpose {
            Use::Prompt if self.shape.row().prompts().is_some() => {
                add_prompts(&mut scanner, &mut self.prompts)?;
            }
            Use::Prompt => add_text(&mut scanner, &mut self.prompts)?,
            Use::Session => match scanner.peek()? {
                b'"' => self.session = text(&mut scanner, name(), MAX_SESSION_BYTES)?.map(Box::from),
                b'-' | b'0'..=b'9' if value.len() as u64 <= MAX_SESSION_BYTES => {
                    self.session = Some(scanner.number()?.into());
                }
                _ => {}
            },
            Use::MaxTokens => self.bound(output_bound(&mut scanner, name())?),
        }
        Ok(())
    }

    /// Returns the facts, if the whole body is valid.
    fn facts(self, first_member: usize) -> Result<Facts, BodyFieldError> {
        let (shape, row) = (self.shape, self.shape.row());
        if self.prompts.count > MAX_PROMPTS {
            let param = shape.prompt.as_ref().map_or_else(
                || row.prompts().map_or("input", BodyMember::name).into(),
                |pointer| pointer.as_str().to_owned().into(),
            );
            return Err(BodyFieldError::TooLong { param, most: MAX_PROMPTS, what: "prompts" });
        }
        if let Some(fault) = self.prompts.media.fault {
            return Err(fault);
        }
        if self.prompts.media.parts > MAX_MEDIA_PARTS {
            let param = row.prompt.first().map_or("input", |(member, _)| member.name()).into();
            return Err(BodyFieldError::TooLong { param, most: MAX_MEDIA_PARTS, what: "media parts" });
        }
        let choices = row.output == Output::Choices;
        let per_prompt = if choices { self.sequences.unwrap_or(1) } else { 1 };
        let prompts = self.prompts.count.max(1);
        let include_usage = self.asked == Some(AskedUsage::Yes);
        let splice = match self.asked {
            _ if !(self.stream && choices && shape.strict) => None,
            Some(AskedUsage::Yes) => None,
            Some(AskedUsage::No(splice)) => Some(splice),
            None => Some(Splice::into_body(first_member)),
        };
        Ok(Facts {
            kind: shape.kind,
            model: self.model,
            prompt_bytes: self.prompts.bytes,
            prompt_tokens: self.prompts.tokens,
            pictures: self.prompts.media.pictures,
            sound_bytes: self.prompts.media.sound_bytes,
            prompts: u32::try_from(prompts).unwrap_or(u32::MAX),
            max_tokens: self.max_tokens.filter(|_| !self.unbounded),
            unbounded: self.unbounded,
            sequences: u32::try_from(prompts * per_prompt).unwrap_or(u32::MAX),
            stream: self.stream,
            include_usage,
            store: self.store.unwrap_or(row.stores),
            session: self.session,
            cache_salt: self.cache_salt,
            previous: self.previous,
            model_at: self.model_at,
            splice,
        })
    }
}
