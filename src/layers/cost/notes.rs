//! What a request carries on to the layers within about its body and its model.

use std::sync::Arc;

use http::request;

use crate::models::ModelRoute;
use crate::request::{Explaining, RequestRecord};

/// Notes for `x-traffic-dam-explain` that the body is forwarded as it arrives.
pub(super) fn explain_streamed(parts: &request::Parts) {
    if let Some(explaining) = parts.extensions.get::<Explaining>() {
        explaining.set_body("\"(body)\";handling=streamed;retry=never");
    }
}

/// Adds the route of the request's model, and records under which name it is served.
pub(super) fn insert_route(parts: &mut request::Parts, route: ModelRoute) {
    if let (Some(record), Some(served)) = (parts.extensions.get::<Arc<RequestRecord>>(), route.served()) {
        record.set_served(served);
    }
    parts.extensions.insert(Arc::new(route));
}
