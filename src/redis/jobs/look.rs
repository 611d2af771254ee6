//! How a job stands, for who asks; and ending it, for who may.

use redis::cmd;

use super::afterwards::Why;
use super::keys::{Job, Side};
use super::{Jobs, PATIENCE};
use crate::clock::unix_millis;
use crate::metrics::RedisOp;
use crate::redis::dams::alive_key;
use crate::redis::link::Loss;

/// How a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// `queued`, `running`, or how it ended.
    pub state: String,
    /// Who asked, by [`nameless`](super::nameless) name.
    pub caller: String,
    /// The pool it was put to.
    pub pool: String,
    /// The run.
    pub epoch: u64,
    /// The number of the last piece of its answer.
    pub n: u64,
    /// How often it was begun.
    pub attempt: u64,
    /// Whether its answer is a stream.
    pub stream: bool,
    /// When it came and when it ended, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// Why a run failed.
    pub last_error: Option<String>,
    deadline_ms: Option<u64>,
    colour: String,
    entry: Option<String>,
    /// The gateways that wait for its answer.
    gateways: String,
    /// It waits for no gateway, or for none in particular.
    alone: bool,
}

impl Standing {
    /// Whether nothing will come any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        !matches!(&self.state[..], "queued" | "running")
    }

    /// Whether its time seems to be over, by this gateway's clock.
    fn is_late(&self) -> bool {
        !self.has_ended() && self.deadline_ms.is_some_and(|deadline| deadline <= unix_millis())
    }
}

const FIELDS: [&str; 15] = [
    "state",
    "caller",
    "pool",
    "epoch",
    "attempt",
    "stream",
    "created_ms",
    "ended_ms",
    "last_error",
    "colour",
    "entry",
    "n",
    "deadline_ms",
    "dam",
    "async",
];

impl Jobs {
    /// How `job` stands; nothing if there is none. One whose time is over ends with that, if nobody ended it before.
    ///
    /// # Errors
    /// When Redis does not say.
    pub async fn look(&self, job: Job) -> Result<Option<Standing>, Loss> {
        let found = self.standing(job).await?;
        if found.as_ref().is_some_and(Standing::is_late) {
            self.lapse(job).await?;
            return self.standing(job).await;
        }
        Ok(found)
    }

    async fn standing(&self, job: Job) -> Result<Option<Standing>, Loss> {
        let mut look = cmd("HMGET");
        look.arg(self.0.keys.job(job)).arg(&FIELDS);
        let fields: [Option<String>; FIELDS.len()] =
            self.0.link.call_within(RedisOp::Jobs, PATIENCE, &look).await?;
        let [
            state,
            caller,
            pool,
            epoch,
            attempt,
            stream,
            created,
            ended,
            last_error,
            colour,
            entry,
            n,
            deadline,
            gateways,
            alone,
        ] = fields;
        let number = |field: Option<String>| field.and_then(|digits| digits.parse().ok());
        Ok(state.map(|state| Standing {
            state,
            caller: caller.unwrap_or_default(),
            pool: pool.unwrap_or_default(),
            epoch: number(epoch).unwrap_or(0),
            n: number(n).unwrap_or(0),
            attempt: number(attempt).unwrap_or(0),
            stream: stream.as_deref() == Some("1"),
            created_ms: number(created).unwrap_or(0),
            ended_ms: number(ended),
            last_error,
            deadline_ms: number(deadline),
            colour: colour.unwrap_or_default(),
            entry,
            gateways: gateways.unwrap_or_default(),
            alone: alone.as_deref() == Some("1"),
        }))
    }

    /// Whether a gateway was heard of within the last seconds.
    ///
    /// # Errors
    /// When Redis does not say.
    pub async fn is_at_work(&self, gateway: &str) -> Result<bool, Loss> {
        if gateway == self.0.dams.id() {
            return Ok(true);
        }
        let key = alive_key(self.prefix(), gateway);
        self.0.link.call_within(RedisOp::Jobs, PATIENCE, cmd("EXISTS").arg(key)).await
    }

    /// Ends a job that nobody has begun and whose gateways are all gone: it may never have been put where workers find it.
    /// Says whether it is one, and ended. A worker that finds it after that does not begin it.
    ///
    /// # Errors
    /// When Redis does not say or do it.
    pub async fn give_up_orphan(&self, job: Job, standing: &Standing) -> Result<bool, Loss> {
        if standing.state != "queued" || standing.alone {
            return Ok(false);
        }
        for gateway in standing.gateways.split_whitespace() {
            if self.is_at_work(gateway).await? {
                return Ok(false);
            }
        }
        Ok(self.drop_queued(job).await? == "QUEUED")
    }

    /// Whether anything of the answer of `job` is there.
    ///
    /// # Errors
    /// When Redis does not say.
    pub async fn has_answer(&self, job: Job) -> Result<bool, Loss> {
        let key = self.0.keys.reply(job);
        self.0.link.call_within(RedisOp::Jobs, PATIENCE, cmd("EXISTS").arg(key)).await
    }

    /// Whether no more can come of the answer of `job`, though its last piece never came. Ends it if its time is over:
    /// then that piece comes.
    ///
    /// # Errors
    /// When Redis does not say.
    pub async fn is_lost(&self, job: Job) -> Result<bool, Loss> {
        Ok(match &self.lapse(job).await?[..] {
            "GONE" => true,
            "ENDED" => !self.has_answer(job).await?,
            _ => false,
        })
    }

    /// Ends a job that stands so, wherever it is.
    ///
    /// # Errors
    /// When Redis does not do it.
    pub async fn stop(&self, job: Job, standing: &Standing) -> Result<(), Loss> {
        let side = Side { pool: standing.pool.as_str().into(), colour: standing.colour.as_str().into() };
        self.cancel(job, &side, standing.entry.as_deref(), Why::Cancelled).await?;
        if standing.entry.is_none() {
            self.take_out(&standing.pool, job, &standing.caller).await?;
        }
        Ok(())
    }
}
