//! Turns of sessions: requests of one session run one after the other.

use std::sync::Arc;

use http::Request;

use super::body::unreachable;
use super::{JobHandling, JobsSettings};
use crate::models::ModelRoute;
use crate::redis::jobs::{SubmitRefused, TurnRefused};
use crate::refusal::{Reason, Refusal};
use crate::request::RequestCost;

impl JobsSettings {
    /// Returns the session of a model call whose workers take from a queue, and its pool.
    pub(super) fn session<B>(&self, request: &Request<B>) -> Option<(Arc<str>, u64)> {
        let request_cost = request.extensions().get::<RequestCost>()?;
        let session = request_cost
            .session
            .filter(|_| request_cost.kind.has_demand() && self.handling == JobHandling::All)?;
        let route = request.extensions().get::<Arc<ModelRoute>>();
        let served = route.and_then(|route| route.served()).or(request_cost.model.as_ref());
        let fleet = self.fleet.load();
        Some((Arc::clone(&fleet.route(served.map(|served| &**served))?.name), session))
    }

    /// Waits until it is the request's turn in its session, if it has one. The turn ends with the
    /// answer.
    pub(super) async fn take_turn<B>(&self, request: &mut Request<B>) -> Result<(), Refusal> {
        let Some((pool, session)) = self.session(request) else { return Ok(()) };
        let turn = self.jobs.turn(&pool, session, self.turn_wait).await.map_err(|refused| match refused {
            TurnRefused::Late => {
                Refusal::new(Reason::QueueTimeout, format!("The request waited: {refused}."))
            }
            TurnRefused::Many => Refusal::new(Reason::Overloaded, format!("No room: {refused}.")),
            TurnRefused::Lost(loss) => unreachable(&loss),
            TurnRefused::NoName => unreachable(&SubmitRefused::NoName),
        })?;
        request.extensions_mut().insert(Arc::new(turn));
        Ok(())
    }
}
