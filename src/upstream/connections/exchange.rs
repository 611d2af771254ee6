//! One request on one connection, up to the response head.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use http::{Request, StatusCode, response};

use super::error::ExchangeError;
use super::link::WorkerLink;
use crate::clock::Clock;
use crate::request::Payload;
use crate::upstream::first_token::FirstTokenWait;
use crate::upstream::headers::is_websocket;
use crate::upstream::lazy_timer::LazyTimer;

/// Sends a request and waits for the response head. The error returns a request never written.
pub(crate) async fn exchange(
    link: &mut WorkerLink,
    request: Request<Payload>,
    timer: &mut LazyTimer,
    first_token_wait: &mut FirstTokenWait,
    clock: &Clock,
) -> Result<response::Parts, (ExchangeError, Option<Box<Request<Payload>>>)> {
    let may_switch = link.may_switch();
    let mut answer = pin!(link.send(request));
    poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(match answer {
                Ok(answer)
                    if answer.status == StatusCode::SWITCHING_PROTOCOLS
                        && !(may_switch && is_websocket(&answer.headers)) =>
                {
                    Err((ExchangeError::Switched, None))
                }
                Ok(answer) => Ok(answer),
                Err((error, unsent)) => Err((ExchangeError::Link(error), unsent)),
            });
        }
        first_token_wait.poll_give_up(timer, clock, cx).map(|wait| Err((ExchangeError::Silent(wait), None)))
    })
    .await
}
