//! One request on one connection, up to the response head.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::alarm::Alarm;
use super::fault::Fault;
use super::headers::is_websocket;
use super::link::Link;
use super::vigil::Vigil;
use crate::clock::Clock;
use crate::request::Payload;

/// Sends a request and waits for the response head. The error returns a request never written.
pub(crate) async fn exchange(
    link: &mut Link,
    request: Request<Payload>,
    alarm: &mut Alarm,
    vigil: &mut Vigil,
    clock: &Clock,
) -> Result<Response<Incoming>, (Fault, Option<Box<Request<Payload>>>)> {
    let may_switch = link.may_switch();
    let mut answer = pin!(link.send(request));
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(match answer {
                Ok(answer)
                    if answer.status() == StatusCode::SWITCHING_PROTOCOLS
                        && !(may_switch && is_websocket(answer.headers())) =>
                {
                    Err((Fault::Switched, None))
                }
                Ok(answer) => Ok(answer),
                Err(mut error) => {
                    let unsent = error.take_message().map(Box::new);
                    Err((Fault::of_exchange(error.into_error()), unsent))
                }
            });
        }
        vigil.poll_vain(alarm, clock, cx).map(|wait| Err((Fault::Silent(wait), None)))
    })
    .await
}
