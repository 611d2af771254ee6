//! The cost of a body of which only the beginning is in memory.

use super::follow::BodyFollower;
use super::media::MediaMember;
use super::needs::StartNeeds;
use super::read::parse_beginning;
use super::{BodyFieldError, Facts, Shape};
use crate::openai::kinds::Output;

/// The beginning of a body.
#[derive(Debug)]
pub(crate) struct BodyStart {
    /// The facts that decide the cost. The rest of the body counts by its length: as media if the body
    /// was cut inside media, otherwise as text.
    pub facts: Facts,
    /// Checks the rest as it passes.
    pub follower: BodyFollower,
}

/// Reads the beginning of a body of `length` bytes; `None` if more of it must be read to know the
/// cost.
///
/// # Errors
/// As [`parse`](super::parse), for the part that is here.
pub(crate) fn parse_start(
    shape: &Shape,
    body: &[u8],
    length: u64,
    needs: StartNeeds,
) -> Result<Option<BodyStart>, BodyFieldError> {
    let row = shape.row();
    // A route's own body may mean something else, and a session could come later.
    if !row.cost_from_start || !shape.strict || shape.session.is_some() {
        return Ok(None);
    }
    let Some(mut facts) = parse_beginning(shape, body)? else { return Ok(None) };
    let mut follower = BodyFollower::new(shape);
    follower.feed(body)?;
    let media = follower.open_media();
    let reports_usage = row.output == Output::One || facts.include_usage;
    let is_known = facts.model.is_some()
        && (!needs.tokens || (media.is_some() && reports_usage))
        && (!needs.bound || facts.max_tokens.is_some() || facts.unbounded);
    if !is_known {
        return Ok(None);
    }
    let rest = length.saturating_sub(follower.token_at() as u64);
    match media {
        None => facts.prompt_bytes += rest,
        Some(MediaMember::Picture) => facts.pictures += 1,
        Some(MediaMember::Sound) => facts.sound_bytes += rest / 4 * 3,
        Some(MediaMember::File | MediaMember::Opaque) => {}
    }
    follower.mark_sent(needs);
    Ok(Some(BodyStart { facts, follower }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::body::parse;
    use crate::request::Kind;

    const NEEDS: StartNeeds = StartNeeds { tokens: false, bound: false };

    /// Reads a body cut after `held` bytes.
    fn cut(kind: Kind, body: &str, held: usize, needs: StartNeeds) -> Option<BodyStart> {
        let start = body.as_bytes().get(..held).unwrap();
        parse_start(&Shape::of_kind(kind), start, body.len() as u64, needs).unwrap()
    }

    #[test]
    fn what_follows_the_beginning_counts_as_what_it_was_cut_in() {
        let text = format!(
            r#"{{"model":"m","max_tokens":123,"messages":[{{"role":"user","content":"{}é"}}]}}"#,
            "word ".repeat(999)
        );
        let whole = parse(&Shape::of_kind(Kind::Messages), text.as_bytes()).unwrap();
        for held in [100, 2000, text.len() - 7, text.len() - 6, text.len() - 5, text.len() - 1] {
            let facts = cut(Kind::Messages, &text, held, NEEDS).unwrap().facts;
            assert_eq!((facts.model.as_deref(), facts.max_tokens), (Some("m"), Some(123)), "{held}");
            let over = facts.prompt_bytes - whole.prompt_bytes;
            assert!(over < 16, "{held}: {over} bytes too many");
        }
        // The number goes on after the cut.
        assert_eq!(cut(Kind::Messages, &text, 29, NEEDS).unwrap().facts.max_tokens, None);
        assert!(cut(Kind::Messages, &text, 11, NEEDS).is_none(), "no model yet");

        let data = "A".repeat(40_000);
        let picture = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"look"}},{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}]}}],"stream":true}}"#
        );
        let facts = cut(Kind::Chat, &picture, 2000, NEEDS).unwrap().facts;
        assert_eq!((facts.pictures, facts.prompt_bytes), (1, 4));
        let sound = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"input_audio","input_audio":{{"format":"wav","data":"{data}"}}}}]}}]}}"#
        );
        let whole = parse(&Shape::of_kind(Kind::Chat), sound.as_bytes()).unwrap();
        let facts = cut(Kind::Chat, &sound, 2000, NEEDS).unwrap().facts;
        assert!(facts.sound_bytes.abs_diff(whole.sound_bytes) < 16, "{}", facts.sound_bytes);
    }

    #[test]
    fn a_body_is_read_whole_where_its_beginning_cannot_tell_the_cost() {
        let data = "A".repeat(4000);
        let text = format!(r#"{{"model":"m","stream":true,"messages":["{}"]}}"#, "word ".repeat(999));
        let picture = format!(r#"{{"model":"m","messages":[{{"image_url":"{data}"}}]}}"#);
        let asked = picture.replacen(',', r#","stream":true,"stream_options":{"include_usage":true},"#, 1);
        let tokens = StartNeeds { tokens: true, bound: false };
        for (kind, body, needs, streams) in [
            (Kind::Chat, &text, NEEDS, true),
            (Kind::Messages, &text, NEEDS, true),
            (Kind::Response, &text, NEEDS, false),
            (Kind::Embedding, &text, NEEDS, false),
            (Kind::Messages, &text, tokens, false),
            (Kind::Messages, &picture, tokens, true),
            (Kind::Chat, &picture, tokens, false),
            (Kind::Chat, &asked, tokens, true),
            (Kind::Messages, &picture, StartNeeds { tokens: true, bound: true }, false),
        ] {
            assert_eq!(cut(kind, body, 2000, needs).is_some(), streams, "{kind:?} {needs:?} {body:.60}");
        }
        let route = Shape::route(Kind::Chat, None, None);
        assert!(parse_start(&route, &text.as_bytes()[..2000], text.len() as u64, NEEDS).unwrap().is_none());
        let spaces = format!(r#"{{"model":"m","messages":[]}}{}"#, " ".repeat(99));
        assert!(cut(Kind::Chat, &spaces, 60, NEEDS).is_none(), "this is all of it");
        assert!(cut(Kind::Chat, &(" ".repeat(99) + &text), 60, NEEDS).is_none(), "it has not begun");
    }
}
