//! Jobs: requests that workers take from Redis, and replies; see `docs/queue-protocol.md`.
//!
//! | file | what |
//! | --- | --- |
//! | `keys` `script` | job ids, key names, and the scripts in `lua/` |
//! | `request` `entry` `head` `fault` | the request; reply entries, as published and kept (pure) |
//! | `desk` | bounded mailboxes, one for each reader of a reply |
//! | `sealed` | signatures of reply entries (pure) |
//! | `listen` | the subscription that fills the mailboxes |
//! | `reader` | a reply in order: from the mailbox, gaps from the stream |
//! | `submit` | enqueues jobs for workers |
//! | `pending` | asynchronous jobs, which wait for room in Redis |
//! | `own` | jobs that this gateway runs itself |
//! | `dead` | dead letters: jobs that used up their attempts |
//! | `look` `again` | job status; idempotent requests |
//! | `lookout` | liveness probe for jobs whose reply is silent |
//! | `afterwards` | cancels and cleanup |
//!
//! **Failure mode.** Redis is away: new jobs are refused at once. Replies in progress wait for
//! Redis until their deadline and lose nothing, because the stream keeps what was published
//! meanwhile. If Redis comes back without a job, its reply ends with an error within some seconds.
//!
//! **Trade-off.** Every reply entry is written to Redis, though nearly all are only read from the
//! channel. The stream serves slow clients, restarted gateways and late readers.

mod afterwards;
mod again;
mod dead;
mod desk;
mod entry;
mod fault;
mod head;
mod keys;
mod listen;
mod look;
mod lookout;
mod own;
mod pending;
mod reader;
mod request;
mod script;
mod sealed;
mod submit;

pub use again::{Before, Known, Trial};
pub use dead::Dead;
pub use entry::{Entry, Kind, Place};
pub use fault::Fault;
pub use head::{for_worker, read_head};
pub use keys::{Job, Side, nameless};
pub use look::Standing;
pub use lookout::Lookout;
pub use pending::{LIVES, Pending};
pub use reader::Reader;
pub use request::{Request, Ticket};
pub use sealed::seal;
pub use submit::{Awaited, Refused};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::afterwards::Afterwards;
use self::desk::Desk;
use self::keys::Keys;
use self::script::Scripts;
use super::dams::Dams;
use super::link::Link;
use super::sealing::Sealing;

/// Time limit of a job command. An admitted request that cannot be enqueued has no alternative, so
/// the limit suits a disk, unlike that of rules.
const PATIENCE: Duration = Duration::from_secs(1);

/// Handle to the jobs in Redis. Clones share it.
#[derive(Clone)]
pub struct Jobs(Arc<Inner>);

struct Inner {
    link: Link,
    dams: Arc<Dams>,
    keys: Keys,
    scripts: Scripts,
    desk: Desk,
    afterwards: Afterwards,
    sealing: Sealing,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("link", &self.0.link).finish_non_exhaustive()
    }
}

impl Jobs {
    /// Creates the handle, and the future that must run with it (subscription and cleanup). With a
    /// key in `sealing`, only signed replies are accepted.
    pub fn new(
        link: Link,
        dams: Arc<Dams>,
        sealing: Sealing,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (afterwards, errands) = Afterwards::new();
        let keys = Keys::new(&link.settings().prefix);
        let jobs = Self(Arc::new(Inner {
            link,
            dams,
            keys,
            scripts: Scripts::default(),
            desk: Desk::default(),
            afterwards,
            sealing,
        }));
        let running = jobs.clone();
        (jobs, async move {
            tokio::join!(running.listen(), running.do_errands(errands));
        })
    }

    /// Returns the prefix of all keys.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0.link.settings().prefix
    }
}
