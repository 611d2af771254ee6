//! Forms: reads the model and passes the rest on as it arrives.
//!
//! A form may hold a file that is larger than all memory for bodies, so no more of it is kept than
//! its beginning up to the model (`bounds.held`). It can be sent only once.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body;
use http_body_util::BodyExt;
use smallvec::SmallVec;

use super::buffers::{BufferHold, Buffers};
use super::followed::followed;
use super::intake::no_room;
use crate::openai::form::{FormError, FormTap, boundary};
use crate::refusal::{Reason, Refusal};
use crate::request::{ModelPart, Payload, PayloadError};

/// The beginning of a form, as far as it was read.
#[derive(Debug)]
pub(super) struct FormStart {
    /// The model, if the form names one.
    pub(super) model: Option<Arc<str>>,
    tap: FormTap,
    read: Bytes,
}

/// Returns the boundary of the form that these headers announce; `None` for another body.
///
/// # Errors
/// `bad_request` for a form without a boundary.
pub(super) fn boundary_of(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let named = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    boundary(named.unwrap_or_default()).map_err(refusal)
}

fn refusal(error: FormError) -> Refusal {
    let param =
        if matches!(error, FormError::TwoModels | FormError::Model) { "model" } else { "content-type" };
    Refusal::new(Reason::BadRequest, error.to_string()).with_param(param)
}

/// Reads a form up to its model, at most `held` bytes of it, for `caller`.
///
/// # Errors
/// `body_too_large` if the model comes later; `bad_request` for a malformed form; errors of the
/// body; `overloaded` if there is no memory.
pub(super) async fn read_start<B>(
    body: &mut B,
    boundary: &str,
    held: u64,
    buffers: &Arc<Buffers>,
    caller: &Arc<str>,
) -> Result<(FormStart, BufferHold), Refusal>
where
    B: Body<Data = Bytes, Error = PayloadError> + Unpin,
{
    let mut tap = FormTap::new(boundary);
    let mut hold = buffers.enter(caller);
    let mut read = BytesMut::new();
    while tap.model().is_none() && !tap.is_over() {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame.map_err(|error| error.refusal())?.into_data() else { continue };
        let room = usize::try_from(held).unwrap_or(usize::MAX).saturating_sub(read.len());
        let (within, beyond) = data.split_at(room.min(data.len()));
        tap.feed(within).map_err(refusal)?;
        if tap.model().is_none() && !tap.is_over() && !beyond.is_empty() {
            return Err(Refusal::new(
                Reason::BodyTooLarge,
                format!(
                    "The form does not name its `model` within its first {held} bytes (`bounds.held`); \
                     put `model` before the file."
                ),
            )
            .with_param("model"));
        }
        tap.feed(beyond).map_err(refusal)?;
        if !hold.grow(data.len() as u64) {
            return Err(no_room());
        }
        read.extend_from_slice(&data);
    }
    let model = tap.model().filter(|name| !name.is_empty()).map(Into::into);
    Ok((FormStart { model, tap, read: read.freeze() }, hold))
}

impl FormStart {
    /// Returns the form with the model named `served`, if that is another name, and its piece that
    /// names the model. `rest` is what follows the beginning.
    pub(super) fn payload<B>(self, rest: B, served: Option<&str>) -> (Payload, Option<ModelPart>)
    where
        B: Body<Data = Bytes, Error = PayloadError> + Send + Unpin + 'static,
    {
        let Self { model, mut tap, read } = self;
        let at = tap.model_at();
        let mut pieces: SmallVec<[Bytes; 3]> = SmallVec::new();
        let part = model.map(|_| ModelPart { index: usize::from(at.start > 0), json: false });
        match part {
            Some(part) => {
                let name = served.map_or_else(|| read.slice(at.clone()), |served| part.write(served));
                pieces.extend([read.slice(..at.start), name, read.slice(at.end..)]);
            }
            None => pieces.push(read),
        }
        pieces.retain(|piece| !piece.is_empty());
        (Payload::streaming(pieces, followed(rest, move |data| tap.feed(data))), part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    type Pieces = StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, PayloadError>>>>;

    fn pieces(form: &str, length: usize) -> Pieces {
        let frames =
            form.as_bytes().chunks(length).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))));
        StreamBody::new(stream::iter(frames.collect::<Vec<_>>()))
    }

    fn part(name: &str, value: &str) -> String {
        format!("--b\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    }

    async fn start(body: &mut Pieces, held: u64) -> Result<(FormStart, BufferHold), Refusal> {
        read_start(body, "b", held, &Arc::new(Buffers::new(1 << 20)), &"key:a".into()).await
    }

    #[tokio::test]
    async fn no_more_is_held_than_up_to_the_model_and_all_of_it_is_passed_on() {
        let model_part = |name: &str| part("model", name);
        let form =
            [part("language", "de"), part("model", "m"), part("file", &"x".repeat(10_000)), "--b--".into()];
        let form = form.concat();
        for length in [1, 7, 100, 20_000] {
            let mut body = pieces(&form, length);
            let (start, hold) = start(&mut body, 1000).await.expect("the model comes early");
            assert_eq!(start.model.as_deref(), Some("m"));
            assert!(start.read.len() <= 150 + length, "{}", start.read.len());
            let served = (length == 7).then_some("another");
            let (mut sent, part) = start.payload(body, served);
            let part = part.expect("the model has a piece of its own");
            if length == 100 {
                *sent.piece_mut(part.index).expect("it is held") = part.write("third");
            }
            let name = if length == 100 { "third" } else { served.unwrap_or("m") };
            let form = form.replace(&model_part("m"), &model_part(name));
            assert_eq!(sent.collect().await.expect("it is whole").to_bytes(), form.as_bytes());
            drop(hold);
        }
    }

    #[tokio::test]
    async fn a_model_that_comes_late_twice_or_never() {
        let file = part("file", &"x".repeat(2000));
        let late = [file.clone(), part("model", "m"), "--b--".into()].concat();
        for length in [1, 900, 5000] {
            let refused = start(&mut pieces(&late, length), 1000).await.expect_err("it is too late");
            assert_eq!((refused.reason, refused.param.as_deref()), (Reason::BodyTooLarge, Some("model")));
        }
        let none = [part("file", "x"), "--b--".into()].concat();
        assert_eq!(start(&mut pieces(&none, 7), 1000).await.expect("it is short").0.model, None);

        let twice = [part("model", "m"), file, part("model", "n"), "--b--".into()].concat();
        let mut body = pieces(&twice, 500);
        let (start, _hold) = start(&mut body, 1000).await.expect("the first comes early");
        let error = start.payload(body, None).0.collect().await.expect_err("the second cuts the upload");
        assert_eq!(error.refusal().reason, Reason::BadRequest);
    }
}
