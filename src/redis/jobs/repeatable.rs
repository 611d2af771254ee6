//! What Redis stores under an `Idempotency-Key`.

use super::keys::Job;
use crate::redis::signing::Signing;

/// Marker after the job and the body digest while there is no job yet; the gateway follows it.
const WAITS: &str = "waits";

/// Identity of a repeatable request.
#[derive(Debug)]
pub(super) struct Repeatable {
    pub(super) key: String,
    pub(super) body: String,
    pub(super) gateway: String,
    /// Signs the value, together with the key.
    pub(super) signing: Signing,
}

impl Repeatable {
    pub(super) fn trying(&self, job: Job) -> String {
        self.signing.sign(&self.key, format!("{job} {} {WAITS} {}", self.body, self.gateway))
    }

    pub(super) fn accepted(&self, job: Job) -> String {
        self.signing.sign(&self.key, format!("{job} {}", self.body))
    }

    pub(super) fn forms(&self, job: Job) -> [String; 2] {
        [self.trying(job), self.accepted(job)]
    }

    pub(super) fn read(&self, text: String) -> KnownRequest {
        let Ok(value) = self.signing.verify(&self.key, &text) else { return KnownRequest::Unsigned(text) };
        let mut words = value.split(' ');
        let job = words.next().and_then(Job::parse);
        match job.filter(|_| words.next() == Some(&self.body)) {
            Some(job) => {
                let (accepted, gateway) = (words.next().is_none(), words.next().map(str::to_owned));
                KnownRequest::Same(EarlierRequest { job, accepted, gateway, text })
            }
            None => KnownRequest::Other,
        }
    }
}

/// An earlier request with the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EarlierRequest {
    /// Its job.
    pub job: Job,
    /// `true` if the request became that job; `false` if it still tries to.
    pub accepted: bool,
    /// The gateway that handles the request; `None` once it is a job.
    pub gateway: Option<String>,
    /// Value of the key, for compare-and-set.
    pub(super) text: String,
}

/// Result of looking up an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KnownRequest {
    /// The key is new. The request now owns it and may become a job.
    New,
    /// The same request was sent before.
    Same(EarlierRequest),
    /// The key was used with another body.
    Other,
    /// The value has no valid signature, as if there were none.
    Unsigned(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::heartbeat::SigningKey;

    fn request(key: &str, secret: Option<&str>) -> Repeatable {
        let (body, gateway) = ("b".repeat(64), "g1".to_owned());
        Repeatable { key: key.to_owned(), body, gateway, signing: secret.map(SigningKey::new).into() }
    }

    #[test]
    fn a_value_is_believed_under_its_own_key_only() {
        let job = Job::random().unwrap();
        for secret in [None, Some("s")] {
            let ours = request("dam:idem:x", secret);
            let same = |text: String| match ours.read(text) {
                KnownRequest::Same(known) => (known.job, known.accepted, known.gateway),
                other => panic!("{other:?}"),
            };
            assert_eq!(same(ours.trying(job)), (job, false, Some("g1".to_owned())));
            assert_eq!(same(ours.accepted(job)), (job, true, None));
            let longer = Repeatable { body: "c".repeat(64), ..request("dam:idem:x", secret) };
            assert_eq!(ours.read(longer.accepted(job)), KnownRequest::Other);
        }
        let ours = request("dam:idem:x", Some("s"));
        for forged in
            [request("dam:idem:x", None), request("dam:idem:y", Some("s")), request("dam:idem:x", Some("t"))]
        {
            let text = forged.accepted(job);
            assert_eq!(ours.read(text.clone()), KnownRequest::Unsigned(text));
        }
    }
}
