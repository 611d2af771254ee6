//! Relays bytes in both directions after an HTTP upgrade (`101`).
//!
//! The tunnel holds the request's permit. It ends when either side closes or fails, when both are
//! silent for `timeouts.idle`, or when one side accepts no bytes for that long.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::socket::WorkerSocket;
use crate::clock::{Clock, Nanos};
use crate::shed::Permit;
use crate::upstream::deadline::Deadline;
use crate::upstream::lazy_timer::LazyTimer;

/// Buffer size per direction, in bytes.
const BUFFER: usize = 16 * 1024;

/// Relays bytes between client and worker; `early` are those that came with the worker's `101`.
pub(crate) async fn tunnel(
    client: OnUpgrade,
    (worker, early): (WorkerSocket, Bytes),
    idle: Duration,
    permit: Option<Permit>,
    clock: Clock,
) {
    let outcome = match timeout(idle, client).await {
        Ok(Ok(client)) => pass(TokioIo::new(client), worker, &early, idle, &clock).await,
        // The client left before it received the `101`, or did not receive it within `idle`.
        Ok(Err(_)) | Err(_) => Ok(()),
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "an upgraded connection failed");
    }
    drop(permit);
}

async fn pass<C, W>(
    mut client: C,
    mut worker: W,
    early: &[u8],
    idle: Duration,
    clock: &Clock,
) -> io::Result<()>
where
    C: AsyncReadExt + AsyncWrite + Unpin,
    W: AsyncReadExt + AsyncWrite + Unpin,
{
    put(&mut client, early, idle).await?;
    let (mut from_client, mut from_worker) = (vec![0; BUFFER], vec![0; BUFFER]);
    let silence = || Deadline { since: clock.now(), wait: idle, total: (Duration::MAX, Nanos::MAX) };
    let mut silent = silence();
    let mut timer = LazyTimer::default();
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => match from_client.get(..read?) {
                Some(bytes) if !bytes.is_empty() => put(&mut worker, bytes, idle).await?,
                _ => return worker.shutdown().await,
            },
            read = worker.read(&mut from_worker) => match from_worker.get(..read?) {
                Some(bytes) if !bytes.is_empty() => put(&mut client, bytes, idle).await?,
                _ => return client.shutdown().await,
            },
            () = timer.overdue(&silent, clock) => return Ok(()),
        }
        silent = silence();
    }
}

async fn put<T: AsyncWrite + Unpin>(to: &mut T, bytes: &[u8], idle: Duration) -> io::Result<()> {
    let write = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    timeout(idle, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
