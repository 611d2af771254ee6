//! Recognizes events that differ from an earlier one only in their text.
//!
//! Nearly all events of a stream do. Then the whole event need not be read again: what is before the
//! text and behind it is the same, and between them is text that cannot end the string.

use std::ops::Range;

use super::event::StreamEvent;
use crate::openai::scan::plain_until;

/// Longest event that is kept for comparison, in bytes: thousands of streams are open at once.
const LONGEST: usize = 1024;

/// The latest event with text, to compare others with.
#[derive(Debug, Default)]
pub(super) struct RepeatedEvent {
    data: Vec<u8>,
    /// Its text: the inside of a string that is content. Empty if there is no such event.
    text: Range<usize>,
    event: StreamEvent,
}

impl RepeatedEvent {
    /// Returns what `data` says if it is the kept event with another text that is not empty.
    pub(super) fn read(&self, data: &[u8]) -> Option<StreamEvent> {
        if self.text.is_empty() {
            return None;
        }
        let rest = data.strip_prefix(self.data.get(..self.text.start)?)?;
        let text = rest.strip_suffix(self.data.get(self.text.end..)?)?;
        // Neither a quote nor an escape nor a control character: the string is read as before.
        (!text.is_empty() && plain_until(text, 0) == text.len()).then_some(self.event)
    }

    /// Keeps an event that was read, if others like it may follow.
    pub(super) fn keep(&mut self, data: &[u8], event: StreamEvent, text: Range<usize>) {
        let plain = StreamEvent { usage: None, finished: 0, error: None, done: false, ..event };
        if event.deltas > 0 && event == plain && !text.is_empty() && data.len() <= LONGEST {
            self.data.clear();
            self.data.extend_from_slice(data);
            (self.text, self.event) = (text, event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an event after another one.
    fn after(first: &str, next: &str) -> Option<StreamEvent> {
        let mut repeated = RepeatedEvent::default();
        let (event, text) = StreamEvent::read_text(first.as_bytes()).unwrap();
        repeated.keep(first.as_bytes(), event, text);
        repeated.read(next.as_bytes())
    }

    #[test]
    fn another_text_says_the_same_as_if_it_were_read() {
        // `@` is the text that differs: the last one of the event.
        let events = [
            (r#"{"id":"c","choices":[{"index":0,"delta":{"content":"@"},"finish_reason":null}]}"#, 1),
            (r#"{"choices":[{"delta":{"role":"assistant","content":"a\n"}},{"delta":{"content":"@"}}]}"#, 2),
            (r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"@"}}"#, 1),
            (r#"{"type":"response.output_text.delta","delta":"@"}"#, 1),
            (r#"{"choices":[{"text":"@"}]}"#, 1),
        ];
        for (first, deltas) in events {
            for text in ["b", " long text of many words", "ü", "{}", ","] {
                let next = first.replace('@', text);
                let read = StreamEvent::read(next.as_bytes()).unwrap();
                assert_eq!((read.deltas, after(first, &next)), (deltas, Some(read)), "{next}");
            }
        }
    }

    #[test]
    fn what_is_not_the_same_but_for_its_text_is_read() {
        let first = r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}"#;
        for next in [
            r#"{"choices":[{"delta":{"content":""},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"delta":{"content":"\n"},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"content":"a","x":"b"},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[{"delta":{"content":"a"#,
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}]}{"#,
            "{\"choices\":[{\"delta\":{\"content\":\"a\u{1}\"},\"finish_reason\":null}]}",
        ] {
            assert_eq!(after(first, next), None, "{next}");
        }
        // An event that ends a choice, or that reports usage or an error, is kept for no other.
        for first in [
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[{"delta":{"content":"a"}}],"error":{"message":"x"}}"#,
            r#"{"choices":[{"delta":{"content":""}}]}"#,
        ] {
            assert_eq!(after(first, first), None, "{first}");
        }
    }
}
