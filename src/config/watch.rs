//! Reload: SIGHUP, or a change of the settings file or of a file that it names.
//!
//! The watch is on directories, not files: editors and Kubernetes replace a file or link by a new
//! one, and a watch on the old one would see nothing more. The content of an event is not trusted
//! either; an event only triggers a comparison of the files' current contents with the previous
//! ones. So a busy directory costs a few reads, a missed event (network file systems send none) is
//! found by a comparison every 10 s, and an unchanged file is never reloaded.
//!
//! Start watching first, then call [`ConfigWatch::load`], so that a change between the two is seen, too.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use sha2::{Digest, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::error::ConfigErrors;
use super::load::{LARGEST, Overrides, load, read_bounded};
use super::settings::Settings;

/// Interval of comparisons without an event.
const POLL: Duration = Duration::from_secs(10);
/// Time without events before files are read: whoever writes one file is likely to write another.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Maximum delay of the reading by a stream of events.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// Reason for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadCause {
    /// SIGHUP; the settings are read even if no file changed.
    Signal,
    /// A file changed.
    Change,
}

impl ReloadCause {
    /// Returns the cause, for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "SIGHUP",
            Self::Change => "a file changed",
        }
    }
}

/// Result of a reload.
#[derive(Debug)]
pub struct Reload {
    /// Reason for the reload.
    pub cause: ReloadCause,
    /// The new settings, or the errors of the file; then the settings in use stay.
    pub settings: Result<Settings, ConfigErrors>,
}

/// Watches the settings file and the files that it names.
#[derive(Debug)]
pub struct ConfigWatch {
    overrides: Overrides,
    files: WatchedFiles,
    /// Hashes of the files when they were last read.
    seen: FileHashes,
    hangup: Signal,
    event: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl ConfigWatch {
    /// Starts to watch the settings file `path`. Needs a tokio runtime.
    ///
    /// # Errors
    /// If SIGHUP cannot be received. A file system that cannot be watched is only polled.
    pub fn start(path: &Path, overrides: Overrides) -> io::Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        let event = Arc::new(Notify::new());
        let notified = Arc::clone(&event);
        let watcher = notify::recommended_watcher(move |change: notify::Result<notify::Event>| {
            // Reading is an event too; our own reads would otherwise wake us again and again.
            if change.map_or(true, |change| is_change(change.kind)) {
                notified.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "cannot watch files; they are compared instead"))
            .ok();
        let files = WatchedFiles { settings: path.to_owned(), named: Vec::new() };
        let mut watch = Self {
            overrides,
            seen: FileHashes::of(&files),
            files,
            hangup,
            event,
            watcher,
            watched: BTreeSet::new(),
        };
        watch.follow(directories(&watch.files));
        Ok(watch)
    }

    /// Reads the settings for the first time. Blocks for as long as the file system does.
    ///
    /// # Errors
    /// All errors of the file.
    pub fn load(&mut self) -> Result<Settings, ConfigErrors> {
        self.seen = FileHashes::of(&self.files);
        let settings = load(&self.files.settings, self.overrides)?;
        self.watch_files_of(&settings);
        Ok(settings)
    }

    /// Waits for a reason to read the settings again, and reads them. A change that leads to the
    /// same error as before is reported again; an unchanged file is not. Cancel safe.
    pub async fn next(&mut self) -> Reload {
        loop {
            let cause = tokio::select! {
                Some(()) = self.hangup.recv() => ReloadCause::Signal,
                () = self.event.notified() => {
                    self.debounce().await;
                    ReloadCause::Change
                }
                () = sleep(POLL) => ReloadCause::Change,
            };
            let (files, overrides, seen) = (self.files.clone(), self.overrides, self.seen.clone());
            let look = move || {
                let (now, directories) = (FileHashes::of(&files), directories(&files));
                let changed = cause == ReloadCause::Signal || now != seen;
                (changed.then(|| load(&files.settings, overrides)), now, directories)
            };
            let Ok((settings, now, directories)) = tokio::task::spawn_blocking(look).await else { continue };
            self.follow(directories);
            self.seen = now;
            if let Some(settings) = settings {
                if let Ok(settings) = &settings {
                    self.watch_files_of(settings);
                }
                return Reload { cause, settings };
            }
        }
    }

    async fn debounce(&self) {
        let quiet = async { while timeout(DEBOUNCE, self.event.notified()).await.is_ok() {} };
        // Either it is quiet, or events have come for long enough: both end the wait.
        timeout(MAX_DELAY, quiet).await.unwrap_or_default();
    }

    /// Watches the files that `settings` name. Their users read them later, so no change is missed.
    fn watch_files_of(&mut self, settings: &Settings) {
        let files = WatchedFiles { settings: self.files.settings.clone(), named: settings.files() };
        if files != self.files {
            let own = self.seen.0.first().copied();
            self.seen = FileHashes::of(&files);
            // The settings file was read before: its content may be newer than the loaded one.
            if let (Some(first), Some(own)) = (self.seen.0.first_mut(), own) {
                *first = own;
            }
            self.files = files;
            self.follow(directories(&self.files));
        }
    }

    fn follow(&mut self, directories: BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.watched.difference(&directories) {
            // A deleted directory is no longer watched anyway.
            watcher.unwatch(gone).unwrap_or_default();
        }
        self.watched.retain(|directory| directories.contains(directory));
        for new in directories {
            if !self.watched.contains(&new) && watcher.watch(&new, RecursiveMode::NonRecursive).is_ok() {
                self.watched.insert(new);
            }
        }
    }
}

fn is_change(kind: EventKind) -> bool {
    !kind.is_access() || kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct WatchedFiles {
    settings: PathBuf,
    named: Vec<PathBuf>,
}

impl WatchedFiles {
    fn iter(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.settings).chain(&self.named)
    }
}

/// Contents of files: a hash of each; `None` for a file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileHashes(Vec<Option<[u8; 32]>>);

impl FileHashes {
    fn of(files: &WatchedFiles) -> Self {
        let hash =
            |path: &PathBuf| read_bounded(path, LARGEST).ok().map(|bytes| Sha256::digest(bytes).into());
        Self(files.iter().map(hash).collect())
    }
}

/// Returns the directories in which a change of these files shows: the directory of each name, and
/// if the name is a link, the directory of its target too.
fn directories(files: &WatchedFiles) -> BTreeSet<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(PathBuf::from(".")),
        parent => parent.map(Path::to_owned),
    };
    let both = |path: &PathBuf| [parent(path), path.canonicalize().ok().and_then(|real| parent(&real))];
    files.iter().flat_map(both).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, ModifyKind};
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn reading_is_no_change() {
        assert!(
            is_change(EventKind::Create(CreateKind::Any)) && is_change(EventKind::Modify(ModifyKind::Any))
        );
        assert!(is_change(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(!is_change(EventKind::Access(AccessKind::Open(AccessMode::Read))));
        assert!(!is_change(EventKind::Access(AccessKind::Close(AccessMode::Read))));
    }

    #[test]
    fn a_link_is_watched_where_it_is_and_where_it_leads() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(there.path().join("real.yaml"), "a").unwrap();
        symlink(there.path().join("real.yaml"), here.path().join("dam.yaml")).unwrap();
        let files = WatchedFiles { settings: here.path().join("dam.yaml"), named: vec!["cert.pem".into()] };
        let expected = [here.path().into(), there.path().canonicalize().unwrap(), PathBuf::from(".")];
        assert_eq!(directories(&files), expected.into());
    }

    #[test]
    fn a_snapshot_tells_contents_apart() {
        let directory = tempfile::tempdir().unwrap();
        let files =
            WatchedFiles { settings: directory.path().join("a"), named: vec![directory.path().join("b")] };
        let nothing = FileHashes::of(&files);
        fs::write(&files.named[0], "x").unwrap();
        let one = FileHashes::of(&files);
        fs::write(&files.named[0], "y").unwrap();
        let other = FileHashes::of(&files);
        assert!(nothing != one && one != other && nothing != other);
        fs::write(&files.named[0], "x").unwrap();
        assert_eq!(FileHashes::of(&files), one);
    }
}
