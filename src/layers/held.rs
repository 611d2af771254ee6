//! Large bodies: the beginning is held, and the rest passes as it arrives.
//!
//! Memory for bodies is then `bounds.held` for each connection, whatever the clients send. Bodies
//! whose beginning does not tell what they cost are read whole.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;

use super::buffers::{BufferHold, Buffers};
use super::followed::followed;
use super::intake::{BoundedBody, IntakeBounds, no_room};
use crate::openai::body::{BodyStart, Facts, Shape, StartNeeds, parse_start};
use crate::openai::tap::without_mark;
use crate::refusal::Refusal;
use crate::request::PayloadError;

/// When bodies are streamed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldBounds {
    /// Bytes of a body that are held (`bounds.held`); a body that announces more may be streamed.
    pub bytes: u64,
    /// Facts that must be known before the rest of a body is streamed; `None` if JSON is always read
    /// whole, because it does not only go to HTTP workers.
    pub json: Option<StartNeeds>,
}

/// A body of JSON, of which at least the beginning was read.
#[derive(Debug)]
pub(super) struct HeldBody {
    pub(super) bytes: Bytes,
    pub(super) hold: BufferHold,
    /// The cost, and what follows the beginning; `None` if this is the whole body.
    pub(super) rest: Option<(Facts, UnsyncBoxBody<Bytes, PayloadError>)>,
}

/// Reads the beginning of a large body, or all of it if its beginning does not tell the cost.
///
/// # Errors
/// Errors of the body; `bad_request` if its beginning is malformed; `overloaded` if there is no
/// memory.
pub(super) async fn read_held<B>(
    body: B,
    shape: &Shape,
    (limits, held, needs): (IntakeBounds, u64, StartNeeds),
    buffers: &Arc<Buffers>,
    caller: &Arc<str>,
) -> Result<HeldBody, Refusal>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let length = body.size_hint().lower();
    let mut body = BoundedBody::new(body, limits)?.boxed_unsync();
    let mut hold = buffers.enter(caller);
    let mut read = BytesMut::new();
    read_more(&mut body, &mut read, &mut hold, held).await?;
    let start = without_mark(&read);
    let mark = (read.len() - start.len()) as u64;
    if let Some(BodyStart { facts, mut follower }) = parse_start(shape, start, length - mark, needs)? {
        let rest = followed(body, move |data| follower.feed(data));
        return Ok(HeldBody { bytes: read.freeze(), hold, rest: Some((facts, rest)) });
    }
    read_more(&mut body, &mut read, &mut hold, u64::MAX).await?;
    Ok(HeldBody { bytes: read.freeze(), hold, rest: None })
}

/// Reads until more than `most` bytes are there, or the body ends.
async fn read_more(
    body: &mut UnsyncBoxBody<Bytes, PayloadError>,
    read: &mut BytesMut,
    hold: &mut BufferHold,
    most: u64,
) -> Result<(), Refusal> {
    while read.len() as u64 <= most {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame.map_err(|error| error.refusal())?.into_data() else { continue };
        if !hold.grow(data.len() as u64) {
            return Err(no_room());
        }
        read.extend_from_slice(&data);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::Reason;
    use crate::request::Kind;
    use futures_util::stream;
    use http_body::{Frame, SizeHint};
    use http_body_util::StreamBody;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;

    const LIMITS: IntakeBounds =
        IntakeBounds { bytes: 1 << 20, time: Duration::from_secs(15), setting: "bounds.body" };

    /// A body in pieces of 500 bytes, which announces its length.
    struct Pieces(Vec<u8>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let length = self.0.len().min(500);
            let piece: Vec<u8> = self.0.drain(..length).collect();
            Poll::Ready((length > 0).then(|| Ok(Frame::data(piece.into()))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.0.len() as u64)
        }
    }

    async fn held(body: &str, buffers: u64) -> Result<HeldBody, Refusal> {
        let (shape, buffers) = (Shape::of_kind(Kind::Messages), Arc::new(Buffers::new(buffers)));
        let bounds = (LIMITS, 1000, StartNeeds::default());
        read_held(Pieces(body.into()), &shape, bounds, &buffers, &"key:a".into()).await
    }

    fn body(first: &str, last: &str) -> String {
        format!(r#"{{{first}"messages":[{{"role":"user","content":"{}"}}]{last}}}"#, "word ".repeat(4000))
    }

    #[tokio::test]
    async fn no_more_is_held_than_the_beginning_and_all_of_it_is_passed_on() {
        for mark in ["", "\u{feff}"] {
            let sent = format!("{mark}{}", body(r#""model":"m","#, r#","stream":true"#));
            let HeldBody { bytes, rest, .. } = held(&sent, 2000).await.expect("it fits");
            let (facts, rest) = rest.expect("the beginning is enough");
            assert_eq!((facts.model.as_deref(), bytes.len()), (Some("m"), 1500));
            let rest = rest.collect().await.expect("it is whole").to_bytes();
            assert_eq!([bytes, rest].concat(), sent.as_bytes());
        }
    }

    #[tokio::test]
    async fn a_model_after_the_messages_needs_the_whole_body_in_memory() {
        let late = body("", r#","model":"m""#);
        let whole = held(&late, 1 << 20).await.expect("it fits");
        assert!(whole.rest.is_none() && whole.bytes == late.as_bytes());
        assert_eq!(held(&late, 2000).await.expect_err("no memory").reason, Reason::Overloaded);
    }

    #[tokio::test]
    async fn a_second_model_cuts_the_rest() {
        let twice = body(r#""model":"m","#, r#","model":"n""#);
        let (_, rest) = held(&twice, 2000).await.expect("the first comes early").rest.expect("it streams");
        let refusal = rest.collect().await.expect_err("the second cuts it").refusal();
        assert_eq!(
            (refusal.reason, &*refusal.message),
            (Reason::BadRequest, "'model' is given more than once.")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_is_not_waited_for_forever() {
        let silent = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        let (shape, buffers) = (Shape::of_kind(Kind::Messages), Arc::new(Buffers::new(9)));
        let bounds = (LIMITS, 1000, StartNeeds::default());
        let refusal =
            read_held(silent, &shape, bounds, &buffers, &"key:a".into()).await.expect_err("silence");
        assert_eq!(refusal.reason, Reason::BodyTimeout);
    }
}
