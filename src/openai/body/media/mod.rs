//! Media in a body: pictures, sound and video, which cost tokens that do not depend on text.
//!
//! Only members that hold media in the APIs in use count, and only text that looks like media:
//! elsewhere base64 is text that a model reads.

use std::sync::Arc;

use memchr::memchr;

use super::BodyFieldError;
use crate::openai::scan::JsonText;

/// Longest URL of media in bytes, as most servers accept.
const LONGEST_URL: usize = 8 * 1024;
/// Shortest line of wrapped base64: encoders write 64 or 76 letters. Shorter lines may be words.
const SHORTEST_LINE: usize = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MediaMember {
    Picture,
    Sound,
    File,
    /// Data that only the maker of a model can read, as signatures of thoughts. No part of its own.
    Opaque,
}

impl MediaMember {
    /// Returns what the member `name` holds; `None` if it is no media.
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"image" | b"images" | b"image_url" | b"image_embeds" | b"input_image" | b"multimodal_data" => {
                Self::Picture
            }
            b"audio" | b"audio_url" | b"audio_embeds" | b"input_audio" | b"video" | b"video_url" => {
                Self::Sound
            }
            b"file" | b"file_data" | b"file_url" | b"file_id" => Self::File,
            b"encrypted_content" | b"encrypted_index" | b"signature" | b"thought_signature" => Self::Opaque,
            _ => return None,
        })
    }

    /// Returns what an object with this `type` and `media_type` holds in `data`, `url` or `result`.
    pub(super) fn in_object(kind: &[u8], media_type: &[u8]) -> Option<Self> {
        let begins = |with: &[u8]| media_type.starts_with(with);
        Some(match kind {
            b"image_generation_call" | b"image" | b"url" => Self::Picture,
            b"base64" if begins(b"image") => Self::Picture,
            b"base64" if begins(b"audio") || begins(b"video") => Self::Sound,
            b"base64" => Self::File,
            b"redacted_thinking" | b"reasoning.encrypted" => Self::Opaque,
            _ => return None,
        })
    }
}

/// Which URLs of media may be passed on: a worker fetches them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MediaUrls {
    /// All with the scheme `http` or `https`.
    #[default]
    Allow,
    /// None.
    Deny,
    /// Those of these hosts and of their subdomains, in lower case.
    Domains(Arc<[Box<str>]>),
}

impl MediaUrls {
    /// Returns `true` if an `http` URL, without its scheme, may be passed on.
    fn allows(&self, rest: &str) -> bool {
        let domains = match self {
            Self::Allow => return true,
            Self::Deny => return false,
            Self::Domains(domains) => domains,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let authority = rest.get(..end).unwrap_or_default();
        // Parsers disagree on these: what is a user for one is a host for another.
        if authority.contains(['@', '\\', '[', '%']) {
            return false;
        }
        let host = authority.split(':').next().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        domains.iter().any(|domain| {
            host.strip_suffix(&**domain).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MediaCount {
    /// Pictures, sounds, videos and files.
    pub(super) parts: u64,
    pub(super) pictures: u64,
    pub(super) sound_bytes: u64,
    /// The first URL that may not be passed on.
    pub(super) fault: Option<BodyFieldError>,
}

impl MediaCount {
    /// Counts a string in a member of media. Returns `false` if it is text.
    pub(super) fn take(&mut self, member: MediaMember, text: &JsonText<'_>, urls: &MediaUrls) -> bool {
        // Some writers escape `/` and `+` of base64.
        let Some(text) = text.decode() else { return false };
        let Some(bytes) = self.data(&text, urls) else { return false };
        match member {
            MediaMember::Picture => self.pictures += 1,
            MediaMember::Sound => self.sound_bytes = self.sound_bytes.saturating_add(bytes),
            MediaMember::File => {}
            MediaMember::Opaque => return true,
        }
        self.parts += 1;
        true
    }

    /// Returns the bytes of data in a string, 0 for an URL; `None` if it is text.
    pub(super) fn data(&mut self, text: &str, urls: &MediaUrls) -> Option<u64> {
        let start = text.trim_start_matches(|letter: char| letter <= ' ');
        let scheme = start.split_once(':').map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
        match scheme.as_ref().map(|(scheme, rest)| (scheme.as_str(), *rest)) {
            Some(("http" | "https", rest)) => {
                let rest = rest.trim_start_matches(['/', '\\']);
                if !urls.allows(rest) {
                    self.fault.get_or_insert(BodyFieldError::MediaUrl);
                }
                let plain = text.len() <= LONGEST_URL && text.bytes().all(|byte| byte.is_ascii_graphic());
                plain.then_some(0)
            }
            Some(("file", _)) => {
                self.fault.get_or_insert(BodyFieldError::FileUrl);
                None
            }
            Some(("data", rest)) => {
                let (head, data) = rest.split_once(',')?;
                let named = head.find('/').is_some_and(|slash| slash > 0);
                let (_, coding) = head.rsplit_once(';')?;
                let data = data.strip_prefix(' ').unwrap_or(data);
                let is_base64 = named && coding.eq_ignore_ascii_case("base64");
                is_base64.then(|| base64_bytes(data.as_bytes())).flatten()
            }
            Some((_, rest)) if *urls != MediaUrls::Allow && rest.starts_with("//") => {
                self.fault.get_or_insert(BodyFieldError::MediaUrl);
                None
            }
            _ => base64_bytes(text.as_bytes()),
        }
    }
}

/// Returns the bytes that base64 stands for, in one line or wrapped; `None` if it is text.
///
/// An encoder writes as many letters in each line but the last. So text of one word a line does not
/// pass for it.
fn base64_bytes(data: &[u8]) -> Option<u64> {
    let data = data.strip_suffix(b"\n").unwrap_or(data);
    let bytes = |letters: usize| letters as u64 / 4 * 3;
    let Some(width) = memchr(b'\n', data) else {
        let line = without_return(data);
        return is_base64(line).then(|| bytes(line.len()));
    };
    let width = without_return(data.get(..width)?).len();
    if width < SHORTEST_LINE || !width.is_multiple_of(4) {
        return None;
    }
    let (mut letters, mut is_over) = (0, false);
    for line in data.split(|byte| *byte == b'\n').map(without_return) {
        if is_over || line.len() > width || !is_base64(line) {
            return None;
        }
        is_over = line.len() < width || line.ends_with(b"=");
        letters += line.len();
    }
    Some(bytes(letters))
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Returns `true` if every byte is of base64, in either alphabet, with padding at the end.
fn is_base64(data: &[u8]) -> bool {
    let bare = data.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    data.len() - bare <= 2
        && data[..bare]
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_'))
}

#[cfg(test)]
mod tests;
