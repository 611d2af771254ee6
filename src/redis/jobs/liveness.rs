//! Liveness probe for jobs whose reply is silent.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use super::{Job, JobQueue, PiecePlace};

/// Silence before the job is checked. Meanwhile its reader polls the reply stream each second.
const QUIET: Duration = Duration::from_secs(3);

type ProbeFuture = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Checks a silent job every 3 s.
pub(crate) struct LivenessProbe {
    jobs: JobQueue,
    /// When the last entry came or the job was checked.
    heard: Instant,
    timer: Pin<Box<Sleep>>,
    looking: Option<ProbeFuture>,
}

impl fmt::Debug for LivenessProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LivenessProbe").field("heard", &self.heard).finish_non_exhaustive()
    }
}

impl LivenessProbe {
    /// Creates a probe; the silence counts from now.
    #[must_use]
    pub(crate) fn new(jobs: &JobQueue) -> Self {
        let (jobs, timer) = (jobs.clone(), Box::pin(sleep(QUIET)));
        Self { jobs, heard: Instant::now(), timer, looking: None }
    }

    /// Resets the silence, after an entry came.
    pub(crate) fn record_entry(&mut self) {
        self.heard = Instant::now();
        self.looking = None;
    }

    /// Completes when the job is lost, that is, its reply can get no more entries after that place.
    pub(crate) fn poll_lost(&mut self, (job, at): (Job, PiecePlace), cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(looking) = &mut self.looking {
                let lost = ready!(looking.as_mut().poll(cx));
                self.looking = None;
                self.heard = Instant::now();
                if lost {
                    return Poll::Ready(());
                }
            }
            // The timer is lazy: entries do not reset it, it is only checked when it fires.
            ready!(self.timer.as_mut().poll(cx));
            if self.heard.elapsed() >= QUIET {
                let jobs = self.jobs.clone();
                // An error counts as not lost: Redis may come back.
                self.looking = Some(Box::pin(async move { jobs.is_lost(job, at).await.unwrap_or(false) }));
            }
            self.timer.as_mut().reset(self.heard + QUIET);
        }
    }
}
