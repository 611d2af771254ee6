//! Names within a prompt: members, roles, types of parts, and ids.

use super::BodyFieldError;
use crate::openai::kinds::{BodyMember, KindRow, folded};
use crate::openai::scan::JsonText;

/// Ids in use are shorter, in bytes; a longer one is text in disguise.
const LONGEST_WORD: usize = 64;

/// Members whose values are names.
pub(super) const NAMES: [&[u8]; 7] =
    [b"type", b"role", b"id", b"call_id", b"tool_call_id", b"tool_use_id", b"media_type"];

/// Members whose objects a chat template gives to the model as JSON, names included.
pub(super) const SHOWN: [&[u8]; 3] = [b"arguments", b"input", b"parameters"];

/// Members whose strings are media in objects of certain types only.
pub(super) const TYPED: [&str; 3] = ["result", "url", "data"];

/// Returns `true` for a role that chat templates know. They show any other one as it is written.
pub(super) const fn is_role(name: &[u8]) -> bool {
    matches!(name, b"system" | b"user" | b"assistant" | b"tool" | b"developer" | b"function" | b"model")
}

/// Returns `true` for a `type` that an API in use defines, of a part, an item or what is in them.
pub(super) const fn is_part_type(name: &[u8]) -> bool {
    matches!(
        name,
        // Chat completions, with what vLLM and others add.
        b"text" | b"refusal" | b"function" | b"custom" | b"file" | b"image" | b"image_url" | b"image_embeds"
            | b"image_pil" | b"audio" | b"audio_url" | b"audio_embeds" | b"input_audio" | b"video"
            | b"video_url" | b"prompt_embeds" | b"content" | b"reasoning.text" | b"reasoning.summary"
            | b"reasoning.encrypted"
        // Responses.
            | b"message" | b"input_text" | b"input_image" | b"input_file" | b"output_text"
            | b"output_audio" | b"reasoning" | b"reasoning_text" | b"summary_text" | b"item_reference"
            | b"compaction" | b"function_call" | b"function_call_output" | b"custom_tool_call"
            | b"custom_tool_call_output" | b"computer_call" | b"computer_call_output"
            | b"computer_screenshot" | b"image_generation_call" | b"web_search_call" | b"file_search_call"
            | b"code_interpreter_call" | b"local_shell_call" | b"local_shell_call_output" | b"mcp_call"
            | b"mcp_list_tools" | b"mcp_approval_request" | b"mcp_approval_response" | b"url_citation"
            | b"file_citation" | b"file_path"
        // The Messages API.
            | b"base64" | b"url" | b"document" | b"ephemeral" | b"thinking" | b"redacted_thinking"
            | b"tool_use" | b"tool_result" | b"tool_reference" | b"server_tool_use" | b"mcp_tool_use"
            | b"mcp_tool_result" | b"search_result" | b"web_search_result" | b"web_search_tool_result"
            | b"web_fetch_result" | b"web_fetch_tool_result" | b"container_upload" | b"char_location"
            | b"page_location" | b"content_block_location" | b"search_result_location"
            | b"web_search_result_location"
    )
}

/// Returns `true` if a string looks like an id, or like a value of an enumeration: one short word.
pub(super) fn is_word(text: &JsonText<'_>) -> bool {
    let raw = text.raw;
    let begins =
        |scheme: &[u8]| raw.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    let is_url = || {
        [&b"http:"[..], b"https:", b"file:"].into_iter().any(begins)
            || raw.windows(3).any(|letters| letters == b"://")
    };
    raw.len() <= LONGEST_WORD
        && raw.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:/|".contains(byte))
        && !is_url()
}

/// Checks the name of a member of the body that is none of those that the gateway reads.
///
/// # Errors
/// If it is one of them to a worker that ignores letter case. That worker may follow this member
/// instead of the one that the gateway has read.
pub(super) fn check_letter_case(key: &JsonText<'_>, row: &KindRow) -> Result<(), BodyFieldError> {
    let name = key.name();
    let Some(lower) = folded(&name) else { return Ok(()) };
    match BodyMember::named(lower.as_bytes()).filter(|member| member.is_read(row)) {
        Some(member) => Err(BodyFieldError::LetterCase {
            param: String::from_utf8_lossy(&name).into_owned().into(),
            right: member.name(),
        }),
        None => Ok(()),
    }
}
