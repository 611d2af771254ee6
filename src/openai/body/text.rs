//! Counting the text of a prompt.

use super::media::{MediaCount, MediaMember, MediaUrls, is_name};
use crate::openai::scan::{JsonError, JsonText, Scanner};

/// Members whose values are names.
pub(super) const NAMES: [&[u8]; 7] =
    [b"type", b"role", b"id", b"call_id", b"tool_call_id", b"tool_use_id", b"media_type"];

/// Members whose objects a chat template gives to the model as JSON, names included.
pub(super) const SHOWN: [&[u8]; 3] = [b"arguments", b"input", b"parameters"];

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
    /// `None` if only the length is needed: then no text is read twice.
    pub(super) on_text: Option<&'h mut TextSink<'h>>,
}

impl Prompts<'_> {
    /// Counts a string: as media if it is some, in a member of media.
    fn text_or_media(&mut self, text: &JsonText<'_>, media: Option<MediaMember>) {
        if !media.is_some_and(|member| self.media.take(member, text, &self.urls)) {
            self.text(text);
        }
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

/// Counts every string in a value, except names, ids and media. Each of these must look like one:
/// text that a model reads must not pass for it.
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
    // Value that is media in objects of certain types only; the type may come after it.
    let mut open: Option<JsonText<'_>> = None;
    scanner.object(|scanner, key| {
        let name = key.name();
        let name = name.as_ref();
        let is_string = scanner.peek()? == b'"';
        if NAMES.contains(&name) && is_string {
            let text = scanner.string()?;
            match name {
                b"type" => kind = text.raw,
                b"media_type" => media_type = text.raw,
                _ => {}
            }
            if !is_name(&text) {
                prompts.text(&text);
            }
            Ok(())
        } else if matches!(name, b"result" | b"url" | b"data")
            && is_string
            && media.is_none()
            && open.is_none()
        {
            open = Some(scanner.string()?);
            Ok(())
        } else if SHOWN.contains(&name) && !is_string {
            add_json(scanner, prompts)
        } else {
            add_value(scanner, prompts, media.or(MediaMember::of(name)))
        }
    })?;
    if let Some(text) = open {
        prompts.text_or_media(&text, MediaMember::in_object(kind, media_type));
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

    fn text_bytes(json: &str) -> u64 {
        let mut prompts = Prompts::default();
        add_text(&mut Scanner::new(json.as_bytes()), &mut prompts).unwrap();
        prompts.bytes
    }

    #[test]
    fn names_ids_and_media_are_no_text() {
        let message = r#"[{"role":"user","content":[
            {"type":"text","text":"look"},
            {"type":"image_url","image_url":{"url":"https://example.org/cat.png","detail":"auto"}},
            {"type":"image_url","image_url":"data:image\/png;x=1;base64,iVBORw0K\u002BGg="},
            {"type":"image_embeds","image_embeds":{"a":"gASVAA-_"}},
            {"type":"input_file","file_data":"data:application/pdf;base64,JVBERi0xLjQ="},
            {"type":"input_file","file_data":"JVBERi0xLjQ="},
            {"type":"input_audio","input_audio":{"data":"UklGRg","format":"wav"}}]},
            {"role":"tool","tool_call_id":"call_1","content":"data: none"},
            {"result":"iVBORw0KGgo","type":"image_generation_call","id":"ig_1"},
            {"outputs":[{"type":"image","url":"data:image/png;base64,iVBORw0KGgo"}]},
            {"type":"reasoning","encrypted_content":"gAAAAABo=="}]"#;
        assert_eq!(text_bytes(message), ("look".len() + "data: none".len()) as u64);
        // Blocks of the Messages API.
        let message = r#"[{"role":"assistant","content":[
            {"type":"thinking","thinking":"hm","signature":"EqQBCgIYAhIM1gbcDa9GJwZA2b3h+/=="},
            {"type":"redacted_thinking","data":"EmwKAhgBEgy3va3pzix"},
            {"type":"tool_use","id":"toolu_01A09q90qw90lq917835lq9","name":"now","input":{"a": 1}}]},
            {"role":"user","content":[
            {"type":"tool_result","tool_use_id":"toolu_01A09q90qw90lq917835lq9","content":"noon"},
            {"type":"image","source":{"type":"base64","media_type":"image/png","data":"iVBORw0KGgo"}},
            {"type":"image","source":{"type":"url","url":"https://example.org/cat.png"}},
            {"type":"document","source":{"type":"text","media_type":"text/plain","data":"four"}},
            {"type":"text","text":"look","cache_control":{"type":"ephemeral"}}]}]"#;
        assert_eq!(
            text_bytes(message),
            ["hm", "now", r#"{"a": 1}"#, "noon", "four", "look"].concat().len() as u64
        );
    }

    #[test]
    fn text_is_counted_wherever_a_model_may_read_it() {
        let text = "lorem ipsum ".repeat(20);
        let data = format!("data:;base64,{text}");
        let plain = "lorem".repeat(20);
        for (what, json) in [
            ("a role", format!(r#"[{{"role":"{text}","content":""}}]"#)),
            ("a type", format!(r#"[{{"type":"{text}"}}]"#)),
            ("an id", format!(r#"[{{"tool_call_id":"{plain}"}}]"#)),
            ("a name", format!(r#"[{{"name":"{text}"}}]"#)),
            ("what says that it is data", format!(r#"[{{"content":"{data}"}}]"#)),
            ("data in its place, which is none", format!(r#"[{{"image_url":{{"url":"{data}"}}}}]"#)),
            ("data without a media type", format!(r#"[{{"image_url":"data:;base64,{plain}"}}]"#)),
            ("base64 elsewhere", format!(r#"[{{"content":"data:image/png;base64,{plain}"}}]"#)),
            ("a file's text", format!(r#"[{{"file":{{"file_data":"{text}"}}}}]"#)),
            ("an URL with text", format!(r#"[{{"image_url":"https://a/{text}"}}]"#)),
            ("a tool's result", format!(r#"[{{"type":"function_call_output","result":"{plain}"}}]"#)),
            (
                "a picture's result that is text",
                format!(r#"[{{"type":"image_generation_call","result":"{text}"}}]"#),
            ),
            ("what says that it is an URL", format!(r#"[{{"source":{{"type":"url","url":"{text}"}}}}]"#)),
            ("a signature that is text", format!(r#"[{{"signature":"{text}"}}]"#)),
            ("data of a text", format!(r#"[{{"source":{{"type":"text","data":"{plain}"}}}}]"#)),
            (
                "names within what a tool was told",
                format!(r#"[{{"type":"tool_use","input":{{"{text}":1}}}}]"#),
            ),
        ] {
            let counted = text_bytes(&json);
            assert!((100..=400).contains(&counted), "{what}: {counted}");
        }
        assert_eq!(prompts(&format!(r#""{data}""#)).0, data.len() as u64);
    }
}
