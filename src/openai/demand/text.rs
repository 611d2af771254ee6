//! How much of a prompt is text.

use memchr::memmem;

use crate::openai::scan::{Flaw, Scanner, Text};

/// Members of messages that a model does not read as text. Media cost tokens too, but not by their bytes.
const NOT_TEXT: [&[u8]; 13] = [
    b"type",
    b"role",
    b"id",
    b"call_id",
    b"tool_call_id",
    b"image",
    b"image_url",
    b"audio",
    b"audio_url",
    b"input_audio",
    b"video_url",
    b"file",
    b"encrypted_content",
];

/// How far into a string the mark of a data URL is looked for: longer than any media type.
const DATA_URL_HEAD: usize = 128;

/// Who is told the text of prompts, piece by piece.
pub(super) type Hear<'h> = dyn FnMut(&str) + 'h;

/// The prompts of one request.
#[derive(Default)]
pub(super) struct Prompts<'h> {
    /// Bytes of text, decoded.
    pub(super) bytes: u64,
    /// Prompt tokens that were given as token ids.
    pub(super) tokens: u64,
    /// Separate prompts. An array of token ids is one.
    pub(super) count: u64,
    /// Nobody, where the length is enough: then no text is looked at twice.
    pub(super) hear: Option<&'h mut Hear<'h>>,
}

impl Prompts<'_> {
    fn text(&mut self, text: &Text<'_>) {
        self.bytes += text.decoded_len as u64;
        if let Some(hear) = &mut self.hear {
            hear(&text.decode().unwrap_or_else(|| String::from_utf8_lossy(text.raw)));
        }
    }

    fn json(&mut self, raw: &[u8]) {
        self.bytes += raw.len() as u64;
        if let Some(hear) = &mut self.hear {
            hear(&String::from_utf8_lossy(raw));
        }
    }
}

/// Counts every string in a value, except names, ids and media (data URLs and [`NOT_TEXT`] members).
pub(super) fn add_text(scanner: &mut Scanner<'_>, prompts: &mut Prompts<'_>) -> Result<(), Flaw> {
    match scanner.peek()? {
        b'"' => {
            let text = scanner.string()?;
            if !is_data_url(&text) {
                prompts.text(&text);
            }
            Ok(())
        }
        b'[' => scanner.array(|scanner| add_text(scanner, prompts)),
        b'{' => scanner.object(|scanner, key| {
            if NOT_TEXT.contains(&key.name().as_ref()) { scanner.skip() } else { add_text(scanner, prompts) }
        }),
        _ => scanner.skip(),
    }
}

/// Counts definitions (of tools, functions) as they stand there: a chat template shows them to the model as JSON.
pub(super) fn add_json(scanner: &mut Scanner<'_>, prompts: &mut Prompts<'_>) -> Result<(), Flaw> {
    let structured = matches!(scanner.peek()?, b'{' | b'[');
    let start = scanner.at();
    scanner.skip()?;
    if structured {
        prompts.json(scanner.since(start));
    }
    Ok(())
}

/// Counts a prompt in the form of completions and embeddings: a string, token ids, or an array of these.
pub(super) fn add_prompts(scanner: &mut Scanner<'_>, prompts: &mut Prompts<'_>) -> Result<(), Flaw> {
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
    // Token ids and nothing else: one prompt.
    prompts.count += u64::from(prompts.count == 0 && prompts.tokens > before);
    Ok(())
}

fn add_token(scanner: &mut Scanner<'_>, prompts: &mut Prompts<'_>) -> Result<(), Flaw> {
    prompts.tokens += 1;
    scanner.number().map(drop)
}

fn is_data_url(text: &Text<'_>) -> bool {
    let head = text.raw.get(..DATA_URL_HEAD).unwrap_or(text.raw);
    head.starts_with(b"data:") && memmem::find(head, b";base64,").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(json: &str) -> (u64, u64, u64) {
        let mut prompts = Prompts::default();
        add_prompts(&mut Scanner::new(json.as_bytes()), &mut prompts).unwrap();
        (prompts.bytes, prompts.tokens, prompts.count)
    }

    #[test]
    fn every_form_of_a_prompt_is_counted() {
        assert_eq!(prompts(r#""four""#), (4, 0, 1));
        assert_eq!(prompts(r#"["four","\u00e9",""]"#), (6, 0, 3));
        assert_eq!(prompts("[1,2,3]"), (0, 3, 1));
        assert_eq!(prompts("[[1,2,3],[4]]"), (0, 4, 2));
        assert_eq!(prompts(r#"[{"content":[{"type":"text","text":"four"}]}]"#), (4, 0, 1));
        assert_eq!(prompts("[]"), (0, 0, 0));
        assert_eq!(prompts("null"), (0, 0, 1));
    }

    #[test]
    fn names_ids_and_media_are_no_text() {
        let message = r#"[{"role":"user","content":[
            {"type":"text","text":"look"},
            {"type":"image_url","image_url":{"url":"https://example.org/cat.png"}},
            {"type":"input_file","file_data":"data:application/pdf;base64,JVBERi0xLjQ="},
            {"type":"input_audio","input_audio":{"data":"UklGRg","format":"wav"}}]},
            {"role":"tool","tool_call_id":"call_1","content":"data: none"}]"#;
        let mut prompts = Prompts::default();
        add_text(&mut Scanner::new(message.as_bytes()), &mut prompts).unwrap();
        assert_eq!(prompts.bytes, ("look".len() + "data: none".len()) as u64);
    }
}
