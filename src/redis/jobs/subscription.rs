//! Subscription to the replies of jobs.
//!
//! Messages are lost when the connection breaks or when this gateway cannot keep up. Then every
//! reader reads its stream. So the subscription need not be reliable, only fast.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::{PushInfo, PushKind, RedisResult, Value};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::JobQueue;
use super::piece::AnswerPiece;
use super::signature;
use crate::redis::pushes;

/// Limit for connecting, and for the answer to a `PING`.
const PATIENCE: Duration = Duration::from_secs(1);
/// Pause between connection attempts; up to half of it is random.
const PAUSE: Duration = Duration::from_millis(200);
/// Messages queued between connection and mailboxes: what one gateway can pass on in 0.1 s.
const WAITING: usize = 8192;

impl JobQueue {
    /// Listens forever, and reconnects after each outage.
    pub(super) async fn listen(&self) {
        let mut down_logged = false;
        loop {
            let Err(error) = self.listen_once(&mut down_logged).await;
            if !down_logged {
                tracing::warn!(%error, "reply subscription is down; reading reply streams instead");
                down_logged = true;
            }
            sleep(PAUSE.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }

    async fn listen_once(&self, down_logged: &mut bool) -> RedisResult<ListenNeverEnds> {
        let (sender, mut messages) = mpsc::channel(WAITING);
        let lost = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&lost);
        let lose = move || flag.store(true, Ordering::Release);
        let mut connection = pushes::connect(self.0.link.settings(), PATIENCE, sender, lose).await?;
        connection.subscribe(format!("{}{}", self.0.keys.replies, self.0.gateways.id())).await?;
        self.0.mailboxes.fall_behind();
        if std::mem::take(down_logged) {
            tracing::info!("reply subscription is up again");
        }
        let mut ask = std::pin::pin!(pushes::until_silent(connection, self.0.link.clock()));
        loop {
            tokio::select! {
                biased;
                push = messages.recv() => match push {
                    Some(PushInfo { kind: PushKind::Message, data }) => self.deliver(data),
                    Some(PushInfo { kind: PushKind::Disconnection, .. }) | None => return Err(pushes::gone()),
                    Some(_) => {}
                },
                error = &mut ask => return Err(error),
            }
            if lost.load(Ordering::Acquire) && messages.is_empty() && lost.swap(false, Ordering::AcqRel) {
                self.0.mailboxes.fall_behind();
            }
        }
    }

    fn deliver(&self, mut data: Vec<Value>) {
        if let Some(Value::BulkString(text)) = data.pop()
            && let Some((job, entry)) = AnswerPiece::from_message(text)
            && let Some(entry) = signature::verify(&self.0.signing, self.prefix(), job, entry)
        {
            self.0.mailboxes.put(job, entry);
        }
    }
}

/// Uninhabited: listening ends only with an error.
enum ListenNeverEnds {}
