//! One request on one connection, up to the response head.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use http::{Request, StatusCode, response};

use super::error::AttemptError;
use super::first_token::FirstTokenWait;
use super::headers::is_websocket;
use super::lazy_timer::LazyTimer;
use super::link::WorkerLink;
use crate::clock::Clock;
use crate::request::Payload;

/// Sends a request and waits for the response head. The error returns a request never written.
pub(crate) async fn exchange(
    link: &mut WorkerLink,
    request: Request<Payload>,
    timer: &mut LazyTimer,
    first_token_wait: &mut FirstTokenWait,
    clock: &Clock,
) -> Result<response::Parts, (AttemptError, Option<Box<Request<Payload>>>)> {
    let may_switch = link.may_switch();
    let mut answer = pin!(link.send(request));
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(match answer {
                Ok(answer)
                    if answer.status == StatusCode::SWITCHING_PROTOCOLS
                        && !(may_switch && is_websocket(&answer.headers)) =>
                {
                    Err((AttemptError::Switched, None))
                }
                Ok(answer) => Ok(answer),
                Err((error, unsent)) => Err((AttemptError::of_exchange(error), unsent)),
            });
        }
        first_token_wait.poll_give_up(timer, clock, cx).map(|wait| Err((AttemptError::Silent(wait), None)))
    })
    .await
}
