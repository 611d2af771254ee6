//! Checks that the process behind a new connection is still the worker that was discovered.
//!
//! While a discovery source is away, another process may get a worker's address, and the gateway does
//! not hear of it. So the first request on a new connection is the gateway's own: it asks for the
//! list of models, and compares it with what the worker listed before.

use std::future::poll_fn;

use http::header::HOST;
use http::{HeaderValue, Method, Request, Uri};

use super::endpoints::Endpoint;
use super::error::ConnectError;
use super::link::WorkerLink;
use crate::openai::model_list::{LARGEST_LIST, MODELS_PATH, model_names};
use crate::request::Payload;

/// Asks for the models on a new connection to `endpoint`, if it must be verified.
///
/// # Errors
/// If the request fails, or the answer names none of the expected models. There is no timeout: the
/// caller sets one.
pub(super) async fn verify(link: &mut WorkerLink, endpoint: &Endpoint) -> Result<(), ConnectError> {
    let Some(expected) = endpoint.expects() else { return Ok(()) };
    let mut request = Request::new(Payload::empty());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = endpoint.target_of(&Uri::from_static(MODELS_PATH));
    let host: HeaderValue = endpoint.authority.clone();
    request.headers_mut().extend(endpoint.spec().headers.clone());
    request.headers_mut().insert(HOST, host);
    let answer = link.send(request).await.map_err(|_| ConnectError::Unverified)?;
    if !answer.status.is_success() {
        return Err(ConnectError::Unverified);
    }
    let mut page = Vec::new();
    while let Some(frame) = poll_fn(|cx| link.poll_frame(cx)).await {
        let frame = frame.map_err(|_| ConnectError::Unverified)?;
        page.extend_from_slice(frame.data_ref().map_or(&[][..], AsRef::as_ref));
        if page.len() > LARGEST_LIST {
            return Err(ConnectError::Unverified);
        }
    }
    let listed = model_names(&page);
    let same = expected.iter().any(|model| listed.contains(model));
    if same { Ok(()) } else { Err(ConnectError::Unverified) }
}
