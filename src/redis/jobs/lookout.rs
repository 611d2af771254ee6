//! Whether anything can still come of a job of which nothing comes.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::{Job, Jobs};

/// How long nothing may come until the job itself is looked at: its answer is read from Redis each second meanwhile.
const QUIET: Duration = Duration::from_secs(3);

type Looking = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Looks at a job now and then.
pub struct Lookout {
    jobs: Jobs,
    /// When something came, or the job was looked at.
    heard: Instant,
    timer: Pin<Box<Sleep>>,
    looking: Option<Looking>,
}

impl fmt::Debug for Lookout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookout").field("heard", &self.heard).finish_non_exhaustive()
    }
}

impl Lookout {
    /// Begins to look out.
    #[must_use]
    pub fn new(jobs: &Jobs) -> Self {
        let (jobs, timer) = (jobs.clone(), Box::pin(sleep(QUIET)));
        Self { jobs, heard: Instant::now(), timer, looking: None }
    }

    /// Something came.
    pub fn hear(&mut self) {
        self.heard = Instant::now();
        self.looking = None;
    }

    /// Ready when no more can come.
    pub fn poll_lost(&mut self, job: Job, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(looking) = &mut self.looking {
                let lost = ready!(looking.as_mut().poll(cx));
                self.looking = None;
                self.heard = Instant::now();
                if lost {
                    return Poll::Ready(());
                }
            }
            // The timer is left where it is while pieces come, and asked only when it rings.
            ready!(self.timer.as_mut().poll(cx));
            if self.heard.elapsed() >= QUIET {
                let jobs = self.jobs.clone();
                // Redis may be away, and come back.
                self.looking = Some(Box::pin(async move { jobs.is_lost(job).await.unwrap_or(false) }));
            }
            self.timer.as_mut().reset(self.heard + QUIET);
        }
    }
}
