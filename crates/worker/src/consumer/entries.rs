//! Entries of the streams: reading new ones, and claiming those that were left.
//!
//! Anybody can write to a stream. An entry that names no job, or that is in the stream of another
//! colour, takes a place that belongs to a job, so it is ended and named in the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, cmd};

use super::{BLOCK, Consumer, GROUP, StreamEntry, millis, text};

/// An entry as Redis returns it: its id, its fields.
type RawEntry = (String, HashMap<Vec<u8>, Vec<u8>>);

impl Consumer {
    /// Waits for a new entry, for at most 1 s; one for this worker alone comes first. Returns at most
    /// one of each stream, so perhaps more than there are slots for: hand those back.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer, or has lost the stream or its group.
    pub async fn read(&self) -> RedisResult<Vec<StreamEntry>> {
        let own = self.streams.get(..1).filter(|_| !self.place.colour.is_empty()).unwrap_or_default();
        let entries = if own.is_empty() { Vec::new() } else { self.read_from(own, None).await? };
        if entries.is_empty() { self.read_from(&self.streams, Some(BLOCK)).await } else { Ok(entries) }
    }

    async fn read_from(
        &self,
        from: &[(Arc<str>, String)],
        block: Option<Duration>,
    ) -> RedisResult<Vec<StreamEntry>> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(&*self.place.worker);
        // One at a time, so that workers that are free together share new entries.
        read.arg("COUNT").arg(1);
        if let Some(block) = block {
            read.arg("BLOCK").arg(millis(block));
        }
        read.arg("STREAMS");
        from.iter().for_each(|(_, stream)| {
            read.arg(stream);
        });
        from.iter().for_each(|_| {
            read.arg(">");
        });
        let streams: Option<Vec<(String, Vec<RawEntry>)>> = self.reading.call(&read).await?;
        let mut read = Vec::new();
        for (stream, entries) in streams.into_iter().flatten() {
            let Some((side, _)) = self.streams.iter().find(|(_, key)| *key == stream) else { continue };
            for (id, mut fields) in entries {
                let job = fields.remove(&b"job"[..]).unwrap_or_default();
                let Some(entry) = self.of_a_job(id, side, job, 1).await else { continue };
                match fields.remove(&b"colour"[..]) {
                    Some(colour) if colour != side.as_bytes() => self.refuse(&entry, &text(&colour)).await,
                    _ => read.push(entry),
                }
            }
        }
        Ok(read)
    }

    /// Hands back an entry that names another colour than its stream's. `take` refuses its job too, but
    /// knows no colour yet of one that has just become startable.
    async fn refuse(&self, entry: &StreamEntry, colour: &str) {
        let (side, job) = (&*entry.side, &*entry.job);
        tracing::warn!(side, colour, job, "handed back a job of another colour");
        // If this fails, it is claimed later; the other entries that were read must not be lost over it.
        self.hand_back(entry).await.unwrap_or_default();
    }

    /// Claims up to `most` entries that were not renewed for three intervals.
    ///
    /// # Errors
    /// As [`Consumer::read`].
    pub async fn claim(&self, most: usize) -> RedisResult<Vec<StreamEntry>> {
        let mut entries = Vec::new();
        for (side, stream) in &self.streams {
            let left = most.saturating_sub(entries.len());
            if left == 0 {
                break;
            }
            let mut claim = self.claim.key(stream);
            claim.arg(&*self.place.worker).arg(millis(self.claim_after())).arg(left).arg(&**side).arg(1);
            let claimed: Vec<(String, Vec<u8>, u64)> = self.line.run(&claim).await?;
            for (id, job, given) in claimed {
                let Some(entry) = self.of_a_job(id, side, job, given).await else { continue };
                if given == 0 {
                    self.end_foreign(&entry).await;
                } else {
                    entries.push(entry);
                }
            }
        }
        Ok(entries)
    }

    /// Returns the entry, or ends it if it names no job.
    async fn of_a_job(&self, id: String, side: &Arc<str>, job: Vec<u8>, given: u64) -> Option<StreamEntry> {
        let of = |job| StreamEntry { id, side: Arc::clone(side), job, given };
        let entry = match String::from_utf8(job) {
            Ok(job) if !job.is_empty() => return Some(of(job)),
            Ok(job) => of(job),
            Err(error) => of(text(error.as_bytes())),
        };
        let (side, id, job) = (&**side, &*entry.id, &*entry.job);
        tracing::warn!(side, entry = id, job, "removed an entry that names no job");
        // If this fails, it is claimed later; the other entries must not be lost over it.
        self.end(&entry, None).await.unwrap_or_default();
        None
    }

    /// Ends an entry that was written to the stream of another colour, and its job unless it runs.
    async fn end_foreign(&self, entry: &StreamEntry) {
        let (side, job) = (&*entry.side, &*entry.job);
        tracing::warn!(side, job, "ended a job whose entry names another colour than its stream");
        let error = format!("The job's entry is in the stream of {side}, and names another colour.");
        // As above.
        self.discard(entry, &error, false).await.unwrap_or_default();
    }
}
