//! Bounded buffer of log lines.
//!
//! Loggers append lines to a buffer, and one thread writes them in batches.
//!
//! **Failure mode.** If the reader stops, as a container's log driver may, the buffer fills.
//! Further lines are lost and counted. Requests go on; a blocking write would stop all of them.
//!
//! **Trade-off.** A killed process loses the last few milliseconds of its log.
//!
//! The crate `tracing-appender` does the same with a message per line: each is an allocation of its
//! own, and the bound is a number of lines, not of bytes. Here a line costs a copy.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// Capacity of the buffer, in bytes: the log of a few seconds at high load.
const CAPACITY: usize = 8 << 20;
/// Delay that batches lines: a write per line would cost more than the rest of logging.
const BATCH_DELAY: Duration = Duration::from_millis(5);
/// Maximum time that dropping [`Writing`] waits for the last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Handle to the buffer. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct LineWriter(Arc<LineQueue>);

#[derive(Debug)]
struct LineQueue {
    waiting: Mutex<PendingLines>,
    not_empty: Condvar,
    lost: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct PendingLines {
    bytes: Vec<u8>,
    /// `true` once [`Writing`] is dropped: the thread ends when the buffer is empty.
    over: bool,
}

/// Handle to the thread that writes. Dropping it writes the remaining lines and ends the thread.
#[derive(Debug)]
pub(super) struct Writing {
    shared: Arc<LineQueue>,
    ended: Receiver<()>,
}

impl LineWriter {
    /// Starts a thread that writes lines to `out`.
    ///
    /// # Errors
    /// If the system cannot start a thread.
    pub(super) fn to(out: impl Write + Send + 'static) -> io::Result<(Self, Writing)> {
        let shared = Arc::new(LineQueue {
            waiting: Mutex::default(),
            not_empty: Condvar::new(),
            lost: Arc::default(),
        });
        let (end, ended) = sync_channel(1);
        let writing = Arc::clone(&shared);
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            writing.write(out);
            end.try_send(()).ok();
        })?;
        Ok((Self(Arc::clone(&shared)), Writing { shared, ended }))
    }

    /// Returns the counter of lost lines.
    pub(super) fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0.lost)
    }
}

impl LineQueue {
    /// Writes until the log has ended and the buffer is empty. Ignores errors: the reader is gone.
    #[expect(clippy::disallowed_methods, reason = "it sleeps in a thread that no task runs on")]
    fn write(&self, mut out: impl Write) {
        let mut bytes = Vec::new();
        loop {
            let mut waiting = self.waiting.lock();
            while waiting.bytes.is_empty() {
                if waiting.over {
                    return;
                }
                self.not_empty.wait(&mut waiting);
            }
            if !waiting.over {
                drop(waiting);
                thread::sleep(BATCH_DELAY);
                waiting = self.waiting.lock();
            }
            std::mem::swap(&mut bytes, &mut waiting.bytes);
            drop(waiting);
            out.write_all(&bytes).and_then(|()| out.flush()).ok();
            bytes.clear();
            // Frees the memory of a burst.
            bytes.shrink_to(CAPACITY / 16);
        }
    }
}

/// Each call writes one whole line.
impl Write for &LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.0.waiting.lock();
        if waiting.bytes.len() + line.len() > CAPACITY {
            drop(waiting);
            self.0.lost.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        let first = waiting.bytes.is_empty();
        waiting.bytes.extend_from_slice(line);
        drop(waiting);
        if first {
            self.0.not_empty.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.shared.waiting.lock().over = true;
        self.shared.not_empty.notify_one();
        // Lines that the reader has not accepted by then are lost.
        self.ended.recv_timeout(FLUSH_TIMEOUT).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// An output that accepts one write for each message on `take`.
    struct Slow {
        take: Receiver<()>,
        taken: Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.take.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.taken.send(bytes.to_vec()).ok();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_written_in_order_and_whole_and_the_rest_is_lost_and_counted() {
        let (take, told) = channel();
        let (taken, written) = channel();
        let (lines, writing) = LineWriter::to(Slow { take: told, taken }).unwrap();
        let mut out = &lines;
        out.write_all(b"first\n").unwrap();
        take.send(()).unwrap();
        assert_eq!(written.recv().unwrap(), b"first\n");
        // While the output blocks, one full buffer and the batch being written are kept.
        let line = [b'x'; 1024];
        for _ in 0..3 * CAPACITY / line.len() {
            out.write_all(&line).unwrap();
        }
        let lost = lines.lost().load(Ordering::Relaxed);
        let kept = 3 * CAPACITY / line.len() - usize::try_from(lost).unwrap();
        assert!((CAPACITY / line.len()..=2 * CAPACITY / line.len()).contains(&kept), "{kept}");
        take.send(()).unwrap();
        take.send(()).unwrap();
        drop(writing);
        assert_eq!(written.iter().map(|bytes| bytes.len()).sum::<usize>(), kept * line.len());
        assert_eq!(lines.lost().load(Ordering::Relaxed), lost);
    }

    #[test]
    fn the_end_writes_what_waits_and_does_not_wait_for_ever() {
        let (take, told) = channel();
        let (taken, written) = channel();
        let (lines, writing) = LineWriter::to(Slow { take: told, taken }).unwrap();
        (&lines).write_all(b"last\n").unwrap();
        take.send(()).unwrap();
        drop(writing);
        assert_eq!(written.recv().unwrap(), b"last\n");
        let (_never, told) = channel();
        let (taken, written) = channel();
        let (lines, writing) = LineWriter::to(Slow { take: told, taken }).unwrap();
        (&lines).write_all(b"unread\n").unwrap();
        drop(writing);
        assert!(written.try_recv().is_err(), "and still it ended");
    }
}
