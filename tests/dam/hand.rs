//! A queue worker whose every step is made by the test.

use ::redis::aio::MultiplexedConnection;
use ::redis::{FromRedisValue, Script, Value, cmd};

use traffic_dam::fleet::heartbeat::SigningKey;

use super::client::PATIENCE;
use super::redis::{Redis, Speaker};
use super::rig::eventually;

const COMMON: &str = include_str!("../../crates/worker/lua/common.lua");
const TAKE: &str = include_str!("../../crates/worker/lua/take.lua");
const EMIT: &str = include_str!("../../crates/worker/lua/emit.lua");
const RENEW: &str = include_str!("../../crates/worker/lua/renew.lua");
const CLAIM: &str = include_str!("../../crates/worker/lua/claim.lua");
const BACK: &str = include_str!("../../crates/worker/lua/back.lua");
const END: &str = include_str!("../../crates/worker/lua/end.lua");

/// Three intervals, for tests that claim entries.
const CLAIM_MS: u64 = 300;

/// The head of a stream.
pub(crate) const SSE: &str = r#"{"worker":"w1","status":200,"headers":{"content-type":"text/event-stream"}}"#;
/// The head of a JSON answer.
pub(crate) const JSON: &str = r#"{"worker":"w1","status":200,"headers":{"content-type":"application/json"}}"#;

/// Returns an event with one token.
pub(crate) fn token(text: &str) -> String {
    format!(
        "data: {{\"object\":\"chat.completion.chunk\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"
    )
}

/// The last two events of a stream: the end of its choice, and its own.
pub(crate) const DONE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

pub(crate) struct Hand {
    connection: MultiplexedConnection,
    worker: String,
    colour: String,
    /// Key that signs its answers.
    key: Option<SigningKey>,
    _speaker: Option<Speaker>,
}

/// A job that was taken.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) entry: String,
    pub(crate) job: String,
    pub(crate) epoch: u64,
    pub(crate) attempt: u64,
    pub(crate) left_ms: u64,
    pub(crate) path: String,
    pub(crate) headers: String,
    pub(crate) body: String,
    pub(crate) signature: String,
    /// `true` if its answer must be signed.
    pub(crate) sealed: bool,
    /// The number of the next entry.
    pub(crate) next: u64,
}

fn text(value: &Value) -> String {
    String::from_redis_value_ref(value).unwrap()
}

impl Hand {
    /// Returns a worker of `slots` slots that sends heartbeats.
    pub(crate) async fn join(redis: &Redis, worker: &str, colour: &str, slots: u32) -> Self {
        let publisher = Speaker::start(redis, worker, format!(r#","slots":{slots},"colour":"{colour}""#));
        Self { _speaker: Some(publisher), ..Self::silent(redis, worker, colour).await }
    }

    /// Returns a worker that sends no heartbeats.
    pub(crate) async fn silent(redis: &Redis, worker: &str, colour: &str) -> Self {
        let client = ::redis::Client::open(redis.url()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        let hand =
            Self { connection, worker: worker.into(), colour: colour.into(), key: None, _speaker: None };
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(hand.stream()).arg("workers").arg(0).arg("MKSTREAM");
        create.query_async::<()>(&mut hand.connection.clone()).await.ok();
        hand
    }

    /// Returns the same worker, signing what must be signed.
    pub(crate) fn signing(mut self, key: &SigningKey) -> Self {
        self.key = Some(key.clone());
        self
    }

    pub(crate) fn stream(&self) -> String {
        format!("dam:jobs:{{default}}:{}", self.colour)
    }

    pub(crate) async fn run<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.connection.clone()).await.unwrap()
    }

    /// Reads a field of a job.
    pub(crate) async fn field(&self, job: &str, field: &str) -> Option<String> {
        self.run(&["HGET", &format!("dam:job:{{{job}}}"), field]).await
    }

    /// Reads the next new entry, if there is one.
    pub(crate) async fn read(&self) -> Option<(String, String)> {
        let stream = self.stream();
        let read: Value = self
            .run(&["XREADGROUP", "GROUP", "workers", &self.worker, "COUNT", "1", "STREAMS", &stream, ">"])
            .await;
        let Value::Array(streams) = read else { return None };
        let Value::Array(named) = &streams[0] else { panic!("{streams:?}") };
        let Value::Array(entries) = &named[1] else { panic!("{named:?}") };
        entries.first().map(entry)
    }

    /// Claims an entry that another worker did not renew.
    pub(crate) async fn claim(&self) -> Option<(String, String)> {
        self.claim_given().await.map(|(entry, job, _)| (entry, job))
    }

    /// Claims an entry, and returns how often it was delivered.
    pub(crate) async fn claim_given(&self) -> Option<(String, String, u64)> {
        let script = Script::new(CLAIM);
        let mut call = script.key(self.stream());
        call.arg(&self.worker).arg(CLAIM_MS).arg(1);
        let claimed: Vec<(String, String, u64)> =
            call.invoke_async(&mut self.connection.clone()).await.unwrap();
        claimed.into_iter().next()
    }

    /// Claims what anybody holds as a worker of that colour, one that ends misplaced entries.
    pub(crate) async fn claims_as(&self, colour: &str) -> Vec<(String, String, u64)> {
        let script = Script::new(CLAIM);
        let mut call = script.key(self.stream());
        call.arg(&self.worker).arg(0).arg(8).arg(colour).arg(1);
        call.invoke_async(&mut self.connection.clone()).await.unwrap()
    }

    /// Runs `take` without naming the entry.
    pub(crate) async fn begin(&self, job: &str) -> Vec<String> {
        self.begin_with(&self.colour, job, &[]).await
    }

    /// Runs `take` with the entry and its delivery count.
    pub(crate) async fn begin_given(&self, (entry, job, given): &(String, String, u64)) -> Vec<String> {
        self.begin_with(&self.colour, job, &[entry, &given.to_string()]).await
    }

    /// Runs `take` as a worker of that colour, whatever the stream.
    pub(crate) async fn begin_with(&self, colour: &str, job: &str, given: &[&str]) -> Vec<String> {
        let script = Script::new(&[COMMON, TAKE].concat());
        let mut call = self.of_job(&script, job);
        call.arg(&self.worker).arg(colour).arg(given);
        let answer: Vec<Value> = call.invoke_async(&mut self.connection.clone()).await.unwrap();
        answer.iter().map(text).collect()
    }

    /// Renews an entry; `true` if it is still this worker's.
    pub(crate) async fn keeps(&self, entry: &str) -> bool {
        self.renew(&[entry]).await.is_empty()
    }

    /// Returns an entry to the queue; `true` if it was still this worker's.
    pub(crate) async fn hand_back(&self, entry: &str) -> bool {
        let script = Script::new(BACK);
        let mut call = script.key(self.stream());
        let back: u64 =
            call.arg(&self.worker).arg(entry).invoke_async(&mut self.connection.clone()).await.unwrap();
        back == 1
    }

    fn of_job<'a>(&self, script: &'a Script, job: &str) -> ::redis::ScriptInvocation<'a> {
        let mut call = script.key(format!("dam:job:{{{job}}}"));
        call.key(format!("dam:reply:{{{job}}}")).arg("dam:replies:").arg(job);
        call
    }

    /// Begins a job that was read or claimed.
    pub(crate) async fn begun(&self, given: (String, String, u64)) -> Taken {
        let answer = self.begin_given(&given).await;
        let (entry, job, _) = given;
        let [run, epoch, attempt, left, path, headers, body, signature, sealed, _waited] =
            <[String; 10]>::try_from(answer).expect("it can be run");
        assert_eq!(run, "RUN");
        Taken {
            entry,
            job,
            epoch: epoch.parse().unwrap(),
            attempt: attempt.parse().unwrap(),
            left_ms: left.parse().unwrap(),
            path,
            headers,
            body,
            signature,
            sealed: sealed == "1",
            next: 1,
        }
    }

    /// Waits for a job, and begins it.
    pub(crate) async fn take(&self) -> Taken {
        let mut found = None;
        eventually("a job", async || {
            found = self.read().await;
            found.is_some()
        })
        .await;
        let (entry, job) = found.unwrap();
        self.begun((entry, job, 1)).await
    }

    /// Waits for a job abandoned by another worker, and begins it again.
    pub(crate) async fn take_over(&self) -> Taken {
        let mut found = None;
        eventually("a claim", async || {
            found = self.claim_given().await;
            found.is_some()
        })
        .await;
        self.begun(found.unwrap()).await
    }

    /// Adds to an answer.
    pub(crate) async fn emit(&self, taken: &mut Taken, pieces: &[(&str, &str)]) -> String {
        let script = Script::new(&[COMMON, EMIT].concat());
        let mut call = self.of_job(&script, &taken.job);
        call.arg(taken.epoch).arg(taken.next);
        for (n, (kind, data)) in (taken.next..).zip(pieces) {
            let place = format!("dam:reply:{}:{}-{n}:{kind}", taken.job, taken.epoch);
            let sealed = self.key.as_ref().filter(|_| taken.sealed).map(|key| key.signed_text(&place, data));
            call.arg(*kind).arg(sealed.as_deref().unwrap_or(data));
        }
        taken.next += pieces.len() as u64;
        tokio::time::timeout(PATIENCE, call.invoke_async(&mut self.connection.clone()))
            .await
            .unwrap()
            .unwrap()
    }

    /// Adds to an answer from the entry of this number on, whatever it is.
    pub(crate) async fn try_emit(
        &self,
        taken: &Taken,
        number: &str,
        pieces: &[(&str, &str)],
    ) -> ::redis::RedisResult<String> {
        let script = Script::new(&[COMMON, EMIT].concat());
        let mut call = self.of_job(&script, &taken.job);
        call.arg(taken.epoch).arg(number);
        for (kind, data) in pieces {
            call.arg(*kind).arg(*data);
        }
        call.invoke_async(&mut self.connection.clone()).await
    }

    /// Renews entries, and returns those that this worker has lost.
    pub(crate) async fn renew(&self, entries: &[&str]) -> Vec<String> {
        let script = Script::new(RENEW);
        let mut call = script.key(self.stream());
        call.arg(&self.worker).arg(entries);
        call.invoke_async(&mut self.connection.clone()).await.unwrap()
    }

    /// Removes the entry of a job that ended.
    pub(crate) async fn end(&self, taken: &Taken) {
        self.end_dead(&taken.entry, &taken.job, "").await;
    }

    pub(crate) async fn end_dead(&self, entry: &str, job: &str, error: &str) {
        let script = Script::new(END);
        let mut call = script.key(self.stream());
        call.key("dam:dead:{default}").arg(entry).arg(job).arg(error);
        call.invoke_async::<i64>(&mut self.connection.clone()).await.unwrap();
    }

    /// Writes an answer from its head to its end, and removes the entry.
    pub(crate) async fn answer(&self, taken: &mut Taken, pieces: &[(&str, &str)]) {
        assert_eq!(self.emit(taken, pieces).await, "OK");
        self.end(taken).await;
    }

    /// Returns the number of entries in the stream.
    pub(crate) async fn length(&self) -> u64 {
        self.run(&["XLEN", &self.stream()]).await
    }
}

fn entry(value: &Value) -> (String, String) {
    let Value::Array(parts) = value else { panic!("{value:?}") };
    let Value::Array(fields) = &parts[1] else { panic!("{parts:?}") };
    assert_eq!(text(&fields[0]), "job");
    (text(&parts[0]), text(&fields[1]))
}
