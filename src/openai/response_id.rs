//! The id that a worker gives to a response, read from the beginning of its answer.

use super::scan::{JsonError, JsonText, Scanner};

/// Bytes of an answer that are searched: the id is among the first members of a response.
const SEARCHED: usize = 4096;
/// Longest id, in bytes.
const LONGEST: usize = super::body::MAX_RESPONSE_ID_BYTES as usize;

/// Finds the id in an answer of the Responses API, which comes in pieces.
#[derive(Debug)]
pub(crate) struct ResponseIdTap {
    events: bool,
    /// What was read so far; `None` once the search is over.
    begun: Option<Vec<u8>>,
}

enum Stop {
    Found(Option<String>),
    Json,
}

impl From<JsonError> for Stop {
    fn from(_: JsonError) -> Self {
        Self::Json
    }
}

impl ResponseIdTap {
    /// Creates a tap for an answer that is a document or, with `events`, an event stream.
    #[must_use]
    pub(crate) const fn new(events: bool) -> Self {
        Self { events, begun: Some(Vec::new()) }
    }

    /// Reads the next bytes. Returns the id when it is complete, once.
    pub(crate) fn feed(&mut self, data: &[u8]) -> Option<String> {
        let begun = self.begun.as_mut()?;
        let room = SEARCHED - begun.len();
        begun.extend_from_slice(data.get(..room).unwrap_or(data));
        let found = if self.events {
            let lines = begun.split(|byte| *byte == b'\n');
            lines.filter_map(|line| line.strip_prefix(b"data:")).find_map(|data| read(data, true))
        } else {
            read(begun, false)
        };
        if found.is_some() || begun.len() >= SEARCHED {
            self.begun = None;
        }
        found
    }
}

/// Returns the id in an object that may be cut off: of the object itself, or of its `response`.
fn read(data: &[u8], inside: bool) -> Option<String> {
    let mut scanner = Scanner::new(data);
    let stop = scanner.object::<Stop>(|scanner, key: JsonText<'_>| match (key.raw, inside) {
        (b"id", false) => Err(Stop::Found(id(scanner)?)),
        (b"response", true) if scanner.peek()? == b'{' => {
            scanner.object::<Stop>(|scanner, key: JsonText<'_>| match key.raw {
                b"id" => Err(Stop::Found(id(scanner)?)),
                _ => Ok(scanner.skip()?),
            })
        }
        _ => Ok(scanner.skip()?),
    });
    match stop {
        Err(Stop::Found(id)) => id,
        Ok(()) | Err(Stop::Json) => None,
    }
}

fn id(scanner: &mut Scanner<'_>) -> Result<Option<String>, Stop> {
    if scanner.peek()? != b'"' {
        scanner.skip()?;
        return Ok(None);
    }
    let text = scanner.string()?.decode();
    Ok(text.filter(|text| (1..=LONGEST).contains(&text.len())).map(|text| text.into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(events: bool, answer: &str, piece: usize) -> Option<String> {
        let mut tap = ResponseIdTap::new(events);
        let ids: Vec<String> = answer.as_bytes().chunks(piece).filter_map(|data| tap.feed(data)).collect();
        assert!(ids.len() <= 1, "an id is told once");
        ids.into_iter().next()
    }

    #[test]
    fn the_id_is_found_wherever_the_answer_is_cut() {
        let document = r#" {"object":"response","id":"resp_\u0031","output":[{"id":"msg_0"}]}"#;
        let events = "event: response.created\r\ndata: {\"type\":\"response.created\",\"id\":\"no\",\"response\":\
                      {\"object\":\"response\",\"id\":\"resp_1\",\"tools\":[{\"id\":\"x\"}]}}\r\n\r\n";
        for piece in [1, 2, 3, 7, 1000] {
            assert_eq!(found(false, document, piece).as_deref(), Some("resp_1"), "{piece}");
            assert_eq!(found(true, events, piece).as_deref(), Some("resp_1"), "{piece}");
        }
    }

    #[test]
    fn an_answer_without_an_id_has_none() {
        let (late, long) = (format!(r#"{{"a":"{}","id":"r"}}"#, "x".repeat(5000)), "r".repeat(300));
        for document in
            ["", "{}", r#"{"id":null}"#, r#"{"id":""}"#, r#"{"error":{"id":"r"}}"#, "<html>", &late]
        {
            assert_eq!(found(false, document, 3), None, "{document}");
        }
        assert_eq!(found(false, &format!(r#"{{"id":"{long}"}}"#), 100), None);
        assert_eq!(found(true, ": ping\n\ndata: [DONE]\n\ndata: {\"id\":\"r\"}\n\n", 3), None);
        assert_eq!(found(false, r#"{"id":"half"#, 3), None, "it is not whole");
    }
}
