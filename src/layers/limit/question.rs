//! What the rules are asked about a request.

use std::sync::Arc;

use http::{Extensions, Uri};

use super::served::ServedBy;
use crate::limit::{Decision, ExpectedCost, Explained, Subject};
use crate::openai::dialect::Dialect;
use crate::request::{Caller, DecodedPath, Explaining, Forwarding, RequestCost, RequestRecord};

/// Input of the rules for one request.
pub(super) struct RuleQuestion<'a> {
    pub(super) subject: Subject<'a>,
    pub(super) cost: ExpectedCost,
    pub(super) record: Option<Arc<RequestRecord>>,
    /// `Some` if an administrator asked for an explanation.
    pub(super) explaining: Option<&'a Explaining>,
    pub(super) dialect: Dialect,
}

impl<'a> RuleQuestion<'a> {
    pub(super) fn of(uri: &'a Uri, extensions: &'a Extensions, served: &'a ServedBy) -> Self {
        let caller = extensions.get::<Caller>();
        let request_cost = extensions.get::<RequestCost>();
        let record = extensions.get::<Arc<RequestRecord>>();
        // Rules match the decoded path, so that escapes do not lead past a rule.
        let path = extensions.get::<DecodedPath>().map_or(uri.path(), |decoded| &decoded.0);
        let subject = Subject {
            caller: caller.map_or("anonymous", |caller| &caller.id),
            team: caller.and_then(|caller| caller.team.as_deref()),
            ip: extensions.get::<Forwarding>().map(|forwarding| forwarding.client_ip),
            model: request_cost.and_then(|request_cost| request_cost.model.as_deref()),
            served: served.served(),
            route: record.and_then(|record| record.route()).map_or(path, |route| route),
            path,
            class: caller.map(|caller| caller.class).unwrap_or_default(),
            own: caller.and_then(|caller| caller.limits.as_ref()),
        };
        let cost = request_cost.map_or_else(ExpectedCost::default, ExpectedCost::from);
        Self {
            subject,
            cost,
            record: record.cloned(),
            explaining: extensions.get::<Explaining>(),
            dialect: extensions.get::<Dialect>().copied().unwrap_or_default(),
        }
    }

    /// Writes a line on each rule's quota status and on the decision that it made, if any.
    pub(super) fn explain(
        &self,
        explaining: &Explaining,
        rules: &[Explained],
        decided: &[(usize, Decision)],
    ) {
        explaining.set(rules.iter().map(|rule| {
            let said = decided.iter().find(|(index, _)| *index == rule.index).map(|(_, decision)| *decision);
            rule.line(&self.subject, said)
        }));
    }
}
