//! Jobs: requests that workers take from Redis, and their answers; `docs/queue-protocol.md` is what both sides hold to.
//!
//! | file | what |
//! | --- | --- |
//! | `keys` `script` | names, and the scripts in `lua/` |
//! | `request` `entry` `head` `fault` | what is asked; an answer's pieces, as they are published and kept (pure) |
//! | `desk` | who waits for which answer, with a bounded box for each |
//! | `sealed` | signatures of an answer's pieces (pure) |
//! | `listen` | the subscription that fills the boxes |
//! | `reader` | an answer in order, from the box and, where it has a gap, from the stream |
//! | `submit` | putting a job where workers find it |
//! | `pending` | asynchronous jobs, which wait for room in Redis |
//! | `own` | those that this gateway runs itself |
//! | `dead` | those that failed as often as they may |
//! | `look` `again` | how a job stands, and which job a repeated request is |
//! | `lookout` | whether anything can still come of a job of which nothing comes |
//! | `afterwards` | cancels, and what is cleared away |
//!
//! **Failure mode.** Redis is away: nothing new is put there, and who asks hears so at once. Answers under way wait for it
//! to come back, as long as their time allows, and lose nothing: what was published meanwhile is in the stream. Where Redis
//! comes back without the job, its answer ends with an error within some seconds.
//!
//! **Trade-off.** Every piece of an answer is written to Redis, though nearly all are only ever read from the channel. That
//! is what a slow client, a restarted gateway and a late reader are served from.

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

/// How long a command about a job may take. A request that is admitted and cannot be put there has nowhere else to go, so
/// this is a disk's patience and not a rule's.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to jobs. Clones share it.
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
    /// A way over `link`, and what has to run beside it. With a key only signed answers count.
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

    /// What every key begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.0.link.settings().prefix
    }
}
