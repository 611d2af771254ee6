use proptest::prelude::*;

use super::*;
use crate::openai::tap::{JsonTap, SseTap, StreamFacts, Usage};

#[test]
fn the_table_has_every_kind_at_its_place_and_every_path_once() {
    let mut paths = Vec::new();
    for (place, row) in TABLE.iter().enumerate() {
        assert_eq!(row.kind as usize, place);
        assert!(std::ptr::eq(super::row(row.kind), row));
        let works = row.body != BodyUse::Passed && row.beside.is_none();
        assert_eq!(row.kind.has_demand(), works, "{:?}", row.kind);
        paths.extend(row.endpoints);
    }
    paths.sort_by_key(|(method, path)| (*path, method.as_str()));
    let all = paths.len();
    paths.dedup();
    assert_eq!(paths.len(), all);
}

#[test]
fn an_answer_in_one_piece_reports_its_usage() {
    for (kind, answer, prompt, output) in [
        (Kind::Chat, r#"{"choices":[{}],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#, 7, 2),
        (
            Kind::Messages,
            r#"{"type":"message","content":[{"type":"text","text":"\"usage\":{}"}],"usage":{"input_tokens":7,
                "cache_creation_input_tokens":20,"cache_read_input_tokens":100,"output_tokens":2}}"#,
            127,
            2,
        ),
        (Kind::Response, r#"{"output":[],"usage":{"input_tokens":7,"output_tokens":2}}"#, 7, 2),
        (Kind::Rerank, r#"{"results":[{"index":0}],"usage":{"total_tokens":7}}"#, 7, 0),
        (
            Kind::Rerank,
            r#"{"data":[],"usage":{"prompt_tokens":7,"total_tokens":7,"completion_tokens":0}}"#,
            7,
            0,
        ),
        (
            Kind::Images,
            r#"{"data":[{"b64_json":"iVBOR"}],"usage":{"input_tokens":7,"output_tokens":200}}"#,
            7,
            200,
        ),
        (Kind::Audio, r#"{"text":"Hi","usage":{"type":"tokens","input_tokens":7,"output_tokens":2}}"#, 7, 2),
    ] {
        for size in 1..answer.len() {
            let mut tap = JsonTap::new();
            answer.as_bytes().chunks(size).for_each(|chunk| tap.feed(chunk));
            let cached = (kind == Kind::Messages).then_some(100);
            assert_eq!(tap.usage(), Some(Usage { prompt, output, cached }), "{kind:?} in pieces of {size}");
        }
    }
}

/// A stream of a kind, the text of its first content, and the facts at its end.
struct Sample {
    kind: Kind,
    stream: String,
    first: &'static str,
    tokens: u64,
    usage: Usage,
}

/// Writes named events, each with its name as its `type`.
fn events(events: &[(&str, &str)]) -> String {
    let event =
        |(name, rest): &(&str, &str)| format!("event: {name}\ndata: {{\"type\":\"{name}\"{rest}}}\n\n");
    events.iter().map(event).collect()
}

fn samples() -> Vec<Sample> {
    let start = r#","message":{"role":"assistant","content":[],"usage":{"input_tokens":7,"cache_creation_input_tokens":20,"cache_read_input_tokens":100,"output_tokens":1}}"#;
    let message = events(&[
        ("message_start", start),
        ("ping", ""),
        (
            "content_block_start",
            r#","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}"#,
        ),
        ("content_block_delta", r#","index":0,"delta":{"type":"thinking_delta","thinking":""}"#),
        ("content_block_delta", r#","index":0,"delta":{"type":"thinking_delta","thinking":"so"}"#),
        ("content_block_delta", r#","index":0,"delta":{"type":"signature_delta","signature":"EqQB"}"#),
        ("content_block_stop", r#","index":0"#),
        ("content_block_start", r#","index":1,"content_block":{"type":"text","text":""}"#),
        ("content_block_delta", r#","index":1,"delta":{"type":"text_delta","text":"déjà\n"}"#),
        ("content_block_stop", r#","index":1"#),
        (
            "message_delta",
            r#","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":0,"output_tokens":57}"#,
        ),
        ("message_delta", r#","delta":{},"usage":{"output_tokens":0}"#),
        ("message_stop", ""),
    ]);
    let tool = events(&[
        ("message_start", start),
        (
            "content_block_start",
            r#","index":0,"content_block":{"type":"tool_use","id":"t","name":"now","input":{}}"#,
        ),
        ("content_block_delta", r#","index":0,"delta":{"type":"input_json_delta","partial_json":""}"#),
        ("content_block_delta", r#","index":0,"delta":{"type":"input_json_delta","partial_json":"{}"}"#),
        ("message_delta", r#","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":9}"#),
        ("message_stop", ""),
    ]);
    let response = events(&[
        ("response.created", r#","response":{"usage":null}"#),
        ("response.output_text.delta", r#","delta":"Hi""#),
        ("response.completed", r#","response":{"usage":{"input_tokens":3,"output_tokens":1}}"#),
    ]);
    let spoken = events(&[
        ("transcript.text.delta", r#","delta":"Hi""#),
        (
            "transcript.text.done",
            r#","text":"Hi","usage":{"type":"tokens","input_tokens":14,"output_tokens":2}"#,
        ),
    ]);
    let picture = events(&[
        ("image_generation.partial_image", r#","b64_json":"iVBOR""#),
        (
            "image_generation.completed",
            r#","b64_json":"iVBOR","usage":{"input_tokens":5,"output_tokens":200}"#,
        ),
    ]);
    let chat = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
        data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n";
    let sample = |kind, stream, first, tokens, (prompt, output)| Sample {
        kind,
        stream,
        first,
        tokens,
        usage: Usage { prompt, output, cached: (kind == Kind::Messages).then_some(100) },
    };
    vec![
        sample(Kind::Chat, chat.to_owned(), "Hi", 1, (3, 1)),
        sample(Kind::Messages, message, "so", 3, (127, 57)),
        sample(Kind::Messages, tool, "tool_use", 2, (127, 9)),
        sample(Kind::Response, response, "Hi", 1, (3, 1)),
        sample(Kind::Audio, spoken, "Hi", 1, (14, 2)),
        sample(Kind::Images, picture, "iVBOR", 2, (5, 200)),
    ]
}

fn read<'a>(kind: Kind, chunks: impl Iterator<Item = &'a [u8]>) -> StreamFacts {
    let mut tap = SseTap::expecting(super::row(kind).events);
    chunks.for_each(|chunk| {
        tap.feed(chunk);
    });
    tap.seen()
}

#[test]
fn the_first_content_of_a_stream_is_seen_with_its_line_and_not_before() {
    for Sample { kind, stream, first, .. } in samples() {
        let start = stream.find(first).unwrap();
        let line_end = start + stream[start..].find('\n').unwrap();
        let mut tap = SseTap::expecting(super::row(kind).events);
        for (at, byte) in stream.bytes().enumerate() {
            assert_eq!(tap.feed(&[byte]).content, at >= line_end, "{kind:?} at {at}");
        }
    }
}

#[test]
fn a_message_that_is_cut_off_has_cost_its_prompt_and_what_was_seen() {
    let Sample { stream, .. } = samples().swap_remove(1);
    let cut = stream.find("event: message_delta").unwrap();
    let seen = read(Kind::Messages, std::iter::once(&stream.as_bytes()[..cut]));
    // The start reports one token, and three pieces have come after it.
    assert_eq!(seen.usage, Some(Usage { prompt: 127, output: 4, cached: Some(100) }));
    assert!(!seen.done);
}

#[test]
fn an_error_is_told_in_the_format_of_the_kind_before_any_event_has_come() {
    for row in &TABLE {
        assert_eq!(SseTap::expecting(row.events).stream_format(), row.events);
    }
    let mut tap = SseTap::expecting(StreamFormat::Bare);
    tap.feed(b"event: message_start\ndata: {\"type\":\"message_start\"}\n\n");
    assert_eq!(tap.stream_format(), StreamFormat::Messages);
}

proptest! {
    #[test]
    fn a_stream_of_any_kind_reads_the_same_in_any_pieces(
        which in 0..6_usize,
        lengths in prop::collection::vec(1..120_usize, 1..8),
    ) {
        let Sample { kind, stream, tokens, usage, .. } = samples().swap_remove(which);
        let mut rest = stream.as_bytes();
        let mut lengths = lengths.iter().cycle();
        let pieces = std::iter::from_fn(|| {
            let length = *lengths.next()?;
            let (piece, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        });
        let seen = read(kind, pieces);
        prop_assert_eq!((seen.tokens, seen.usage), (tokens, Some(usage)));
    }
}
