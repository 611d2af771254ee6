//! Counting the text of a prompt.

use super::BodyFieldError;
use super::media::{MediaCount, MediaMember, MediaUrls};
use super::names::{NAMES, SHOWN, TYPED, is_part_type, is_role, is_word};
use crate::openai::kinds::folded;
use crate::openai::scan::{JsonError, JsonText, Scanner};

/// Bytes of ids and other words that are left out of each body. Most templates show none of them, but
/// some do, so without a bound they could carry a prompt of any size.
const FREE_WORD_BYTES: u64 = 1024;

/// Part of a prompt. Chat templates put the parts in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PromptPart {
    /// Definitions of tools.
    Tools,
    /// Instructions that come before all messages.
    Instructions,
    /// Messages, inputs, and all other text.
    #[default]
    Text,
}

impl PromptPart {
    /// Number of parts.
    pub(crate) const COUNT: usize = 3;
}

/// Callback for the text of prompts, piece by piece.
pub(super) type TextSink<'h> = dyn FnMut(PromptPart, &str) + 'h;

#[derive(Default)]
pub(super) struct Prompts<'h> {
    pub(super) bytes: u64,
    pub(super) tokens: u64,
    /// Separate prompts; an array of token ids is one.
    pub(super) count: u64,
    pub(super) media: MediaCount,
    pub(super) urls: MediaUrls,
    pub(super) part: PromptPart,
    /// Bytes of words that were left out.
    pub(super) word_bytes: u64,
    /// `None` if only the length is needed: then no text is read twice.
    pub(super) on_text: Option<&'h mut TextSink<'h>>,
}

impl Prompts<'_> {
    /// Counts a string: as a word or as media if it is one of these, in a member of media.
    fn text_or_media(&mut self, text: &JsonText<'_>, media: Option<MediaMember>) {
        let is_counted = match media {
            Some(_) if is_word(text) => self.is_free_word(text),
            Some(member) => self.media.take(member, text, &self.urls),
            None => false,
        };
        if !is_counted {
            self.text(text);
        }
    }

    /// Returns `true` for an id, or a value of an enumeration, as long as the body has few of them.
    fn is_free_word(&mut self, text: &JsonText<'_>) -> bool {
        let bytes = self.word_bytes + text.decoded_len as u64;
        let is_free = bytes <= FREE_WORD_BYTES && is_word(text);
        if is_free {
            self.word_bytes = bytes;
        }
        is_free
    }

    fn text(&mut self, text: &JsonText<'_>) {
        self.bytes += text.decoded_len as u64;
        if let Some(hear) = &mut self.on_text {
            hear(self.part, &text.decode().unwrap_or_else(|| String::from_utf8_lossy(text.raw)));
        }
    }

    fn json(&mut self, raw: &[u8]) {
        self.bytes += raw.len() as u64;
        if let Some(hear) = &mut self.on_text {
            hear(self.part, &String::from_utf8_lossy(raw));
        }
    }
}

/// Counts every string in a value, except known roles and types, some ids, and media. Each of these
/// must look like one: text that a model reads must not pass for it.
pub(super) fn add_text(scanner: &mut Scanner<'_>, prompts: &mut Prompts<'_>) -> Result<(), JsonError> {
    add_value(scanner, prompts, None)
}

/// Counts a value, which may be within a member of media.
fn add_value(
    scanner: &mut Scanner<'_>,
    prompts: &mut Prompts<'_>,
    media: Option<MediaMember>,
) -> Result<(), JsonError> {
    match scanner.peek()? {
        b'"' => {
            let text = scanner.string()?;
            prompts.text_or_media(&text, media);
            Ok(())
        }
        b'[' => scanner.array(|scanner| add_value(scanner, prompts, media)),
        b'{' => add_members(scanner, prompts, media),
        _ => scanner.skip(),
    }
}

fn add_members(
    scanner: &mut Scanner<'_>,
    prompts: &mut Prompts<'_>,
    media: Option<MediaMember>,
) -> Result<(), JsonError> {
    let (mut kind, mut media_type): (&[u8], &[u8]) = (b"", b"");
    // The type of the object may come after them.
    let mut open: [Option<JsonText<'_>>; TYPED.len()] = [None; TYPED.len()];
    scanner.object(|scanner, key| {
        let name = key.name();
        let name = name.as_ref();
        let is_string = scanner.peek()? == b'"';
        if NAMES.contains(&name) && is_string {
            let text = scanner.string()?;
            let is_free = match name {
                b"type" => {
                    kind = text.raw;
                    is_part_type(kind)
                }
                b"role" => is_role(text.raw),
                _ => prompts.is_free_word(&text),
            };
            if name == b"media_type" {
                media_type = text.raw;
            }
            if !is_free {
                prompts.text(&text);
            }
            return Ok(());
        }
        // To a worker that ignores letter case these are the same; the value must look like one anyway.
        let lower = folded(name);
        let name = lower.as_ref().map_or(name, String::as_bytes);
        let mut typed = open.iter_mut().zip(TYPED).filter(|_| is_string && media.is_none());
        if let Some((place, known)) = typed.find(|(_, known)| known.as_bytes() == name) {
            // A worker may fetch the other one.
            if place.replace(scanner.string()?).is_some() {
                prompts.media.fault.get_or_insert(BodyFieldError::Duplicate { param: known.into() });
            }
            Ok(())
        } else if SHOWN.contains(&name) && !is_string {
            add_json(scanner, prompts)
        } else {
            add_value(scanner, prompts, media.or(MediaMember::of(name)))
        }
    })?;
    for text in open.iter().flatten() {
        prompts.text_or_media(text, MediaMember::in_object(kind, media_type));
    }
    Ok(())
}

/// Counts definitions (tools, functions) as written: chat templates give them to the model as JSON.
pub(super) fn add_json(scanner: &mut Scanner<'_>, prompts: &mut Prompts<'_>) -> Result<(), JsonError> {
    let structured = matches!(scanner.peek()?, b'{' | b'[');
    let start = scanner.at();
    scanner.skip()?;
    if structured {
        prompts.json(scanner.since(start));
    }
    Ok(())
}

/// Counts tools as [`add_json`] does, except for the pictures that some work on: no template shows them.
pub(super) fn add_tools(scanner: &mut Scanner<'_>, prompts: &mut Prompts<'_>) -> Result<(), JsonError> {
    if !matches!(scanner.peek()?, b'{' | b'[') {
        return scanner.skip();
    }
    let mut uncounted = scanner.at();
    add_tool(scanner, prompts, &mut uncounted, false)?;
    prompts.json(scanner.since(uncounted));
    Ok(())
}

/// Counts what is before each picture, from `uncounted` on, and moves that behind it.
fn add_tool(
    scanner: &mut Scanner<'_>,
    prompts: &mut Prompts<'_>,
    uncounted: &mut usize,
    is_mask: bool,
) -> Result<(), JsonError> {
    match scanner.peek()? {
        b'{' => scanner.object(|scanner, key| {
            let is_mask = is_mask || *key.name() == *b"input_image_mask";
            add_tool(scanner, prompts, uncounted, is_mask)
        }),
        b'[' => scanner.array(|scanner| add_tool(scanner, prompts, uncounted, is_mask)),
        b'"' if is_mask => {
            let before = scanner.since(*uncounted);
            let text = scanner.string()?;
            if !is_word(&text) && prompts.media.take(MediaMember::Picture, &text, &prompts.urls) {
                prompts.json(before);
                *uncounted = scanner.at();
            }
            Ok(())
        }
        _ => scanner.skip(),
    }
}

/// Counts a prompt of completions or embeddings: a string, token ids, or an array of these.
pub(super) fn add_prompts(scanner: &mut Scanner<'_>, prompts: &mut Prompts<'_>) -> Result<(), JsonError> {
    if scanner.peek()? != b'[' {
        prompts.count += 1;
        return add_text(scanner, prompts);
    }
    let before = prompts.tokens;
    scanner.array(|scanner| match scanner.peek()? {
        b'-' | b'0'..=b'9' => add_token(scanner, prompts),
        b'[' => {
            prompts.count += 1;
            scanner.array(|scanner| match scanner.peek()? {
                b'-' | b'0'..=b'9' => add_token(scanner, prompts),
                _ => add_text(scanner, prompts),
            })
        }
        _ => {
            prompts.count += 1;
            add_text(scanner, prompts)
        }
    })?;
    // Only token ids: one prompt.
    prompts.count += u64::from(prompts.count == 0 && prompts.tokens > before);
    Ok(())
}

fn add_token(scanner: &mut Scanner<'_>, prompts: &mut Prompts<'_>) -> Result<(), JsonError> {
    prompts.tokens += 1;
    scanner.number().map(drop)
}

#[cfg(test)]
mod tests;
