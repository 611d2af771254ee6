//! Why the API server gave no answer, told to an operator.

use std::error::Error;

use kube::config::InferConfigError;
use thiserror::Error;

/// What is read from the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResourceName {
    /// Such as `endpointslices`.
    pub(super) plural: String,
    /// Such as `discovery.k8s.io`; empty for the core.
    pub(super) group: String,
    pub(super) namespace: String,
}

/// Why the API server gave no answer.
#[derive(Debug, Error)]
pub(super) enum KubernetesError {
    #[error(
        "where the API server is, is told neither by a service account's token in this pod nor by KUBECONFIG: {}",
        causes(.0)
    )]
    NoServer(#[source] InferConfigError),
    #[error("no client for the API server can be made: {}", causes(.0))]
    Client(#[source] kube::Error),
    #[error("the API server's name {host} has no address: {source}")]
    NoAddress { host: String, source: std::io::Error },
    #[error(
        "this account may not `{verb}` `{}` in namespace `{}` (403): bind it to a Role with get, list and watch \
         of them in API group \"{}\"",
        .resource.plural, .resource.namespace, .resource.group
    )]
    Forbidden { verb: &'static str, resource: ResourceName },
    #[error("the API server does not know this account (401): its token is invalid or has expired")]
    Unauthorized,
    #[error(
        "the API server has no `{}` in API group \"{}\" (404): is the resource definition installed?",
        .resource.plural, .resource.group
    )]
    Unknown { resource: ResourceName },
    #[error("{verb} `{}` in namespace `{}`: {problem}", .resource.plural, .resource.namespace)]
    Failed { verb: &'static str, resource: ResourceName, problem: String },
    #[error("{verb} `{}`: the API server does not answer", .resource.plural)]
    Silent { verb: &'static str, resource: ResourceName },
    #[error("there are more than {most} `{}` in namespace `{}`: select fewer", .resource.plural, .resource.namespace)]
    TooMany { resource: ResourceName, most: usize },
    #[error("the watch ended")]
    Ended,
    #[error("InferencePool `{0}`: its selector and target ports cannot be read")]
    Pool(String),
}

impl KubernetesError {
    /// Returns the error of a request for `resource`.
    pub(super) fn of(verb: &'static str, resource: &ResourceName, error: &kube::Error) -> Self {
        let resource = resource.clone();
        let kube::Error::Api(status) = error else {
            return Self::Failed { verb, resource, problem: causes(error) };
        };
        match status.code {
            401 => Self::Unauthorized,
            403 => Self::Forbidden { verb, resource },
            404 => Self::Unknown { resource },
            code => Self::Failed { verb, resource, problem: format!("{} ({code})", status.message) },
        }
    }
}

/// Returns an error with its causes.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        // Many errors repeat their cause.
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn what_an_account_may_not_do_is_named() {
        let resource = ResourceName {
            plural: "endpointslices".into(),
            group: "discovery.k8s.io".into(),
            namespace: "llm".into(),
        };
        for (code, expected) in [
            (
                403,
                "may not `watch` `endpointslices` in namespace `llm` (403): bind it to a Role with get, list and watch",
            ),
            (401, "does not know this account (401)"),
            (404, "no `endpointslices` in API group \"discovery.k8s.io\" (404)"),
            (500, "watch `endpointslices` in namespace `llm`: it is broken (500)"),
        ] {
            let status = Status::failure("it is broken", "Broken").with_code(code);
            let error = kube::Error::Api(status.boxed());
            let told = KubernetesError::of("watch", &resource, &error).to_string();
            assert!(told.contains(expected), "{told}");
        }
    }
}
