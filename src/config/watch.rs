//! Reload: SIGHUP, or a change of the settings file or of a file that it names.
//!
//! Directories are watched, not files: editors and Kubernetes put a new file or link in the place of the old one, and
//! a watch on the old one would see nothing more. What an event says is not trusted either; it only makes us compare
//! what the files hold now with what they held before. So a busy directory costs a few reads, a missed event (network
//! file systems send none) is made up for by comparing every few seconds, and an unchanged file is never reloaded.
//!
//! Start watching first, then [`Watch::load`]: a change between the two is then seen, too.

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

use super::fault::Faults;
use super::load::{LARGEST, Overrides, load, read_bounded};
use super::settings::Settings;

/// How often files are compared even if no event came.
const POLL: Duration = Duration::from_secs(10);
/// How long it must be quiet before files are read: whoever writes one file is likely to write the next.
const QUIET: Duration = Duration::from_millis(100);
/// The longest that a stream of events may delay the reading.
const RESTLESS: Duration = Duration::from_secs(1);

/// Why settings were read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// SIGHUP: they were read even if no file changed.
    Signal,
    /// A file changed.
    Change,
}

impl Cause {
    /// The cause, for the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "SIGHUP",
            Self::Change => "a file changed",
        }
    }
}

/// Settings that were read again.
#[derive(Debug)]
pub struct Reload {
    /// Why.
    pub cause: Cause,
    /// What the file says now, or what is wrong with it; then the settings in use stay.
    pub settings: Result<Settings, Faults>,
}

/// Waits for reasons to read the settings again.
#[derive(Debug)]
pub struct Watch {
    overrides: Overrides,
    files: WatchedFiles,
    /// What the files held when they were last read.
    seen: Snapshot,
    hangup: Signal,
    event: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl Watch {
    /// Begins to watch the settings file `path`. Needs a tokio runtime.
    ///
    /// # Errors
    /// SIGHUP cannot be received. A file system that cannot be watched is no error: it is then only polled.
    pub fn start(path: &Path, overrides: Overrides) -> io::Result<Self> {
        let hangup = signal(SignalKind::hangup())?;
        let event = Arc::new(Notify::new());
        let notified = Arc::clone(&event);
        let watcher = notify::recommended_watcher(move |change: notify::Result<notify::Event>| {
            // Reading is an event as well; our own reading would otherwise wake us again and again.
            if change.map_or(true, |change| is_change(change.kind)) {
                notified.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "changed files are only found by comparing them"))
            .ok();
        let files = WatchedFiles { settings: path.to_owned(), named: Vec::new() };
        let mut watch = Self {
            overrides,
            seen: Snapshot::of(&files),
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
    /// Every fault of the file.
    pub fn load(&mut self) -> Result<Settings, Faults> {
        self.seen = Snapshot::of(&self.files);
        let settings = load(&self.files.settings, self.overrides)?;
        self.adopt(&settings);
        Ok(settings)
    }

    /// Waits until there is a reason to read the settings again, and reads them. A change that leads to the same
    /// fault as before is told again; an unchanged file is not. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Reload {
        loop {
            let cause = tokio::select! {
                Some(()) = self.hangup.recv() => Cause::Signal,
                () = self.event.notified() => {
                    self.settle().await;
                    Cause::Change
                }
                () = sleep(POLL) => Cause::Change,
            };
            let (files, overrides, seen) = (self.files.clone(), self.overrides, self.seen.clone());
            let look = move || {
                let (now, directories) = (Snapshot::of(&files), directories(&files));
                let changed = cause == Cause::Signal || now != seen;
                (changed.then(|| load(&files.settings, overrides)), now, directories)
            };
            let Ok((settings, now, directories)) = tokio::task::spawn_blocking(look).await else { continue };
            self.follow(directories);
            self.seen = now;
            if let Some(settings) = settings {
                if let Ok(settings) = &settings {
                    self.adopt(settings);
                }
                return Reload { cause, settings };
            }
        }
    }

    async fn settle(&self) {
        let quiet = async { while timeout(QUIET, self.event.notified()).await.is_ok() {} };
        // Either it became quiet or it has been restless for long enough: both are reasons to go on.
        timeout(RESTLESS, quiet).await.unwrap_or_default();
    }

    /// Takes up the files that `settings` name. They are compared from now on; whoever uses them reads them later, so
    /// no change of theirs goes unseen.
    fn adopt(&mut self, settings: &Settings) {
        let files = WatchedFiles { settings: self.files.settings.clone(), named: settings.files() };
        if files != self.files {
            let own = self.seen.0.first().copied();
            self.seen = Snapshot::of(&files);
            // The settings themselves were read before: what they hold now may be newer than what was read.
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
            // A directory that was deleted is watched no more: that is what was wanted.
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

/// The files that settings come from.
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

/// What files hold: a hash of each, or nothing for one that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snapshot(Vec<Option<[u8; 32]>>);

impl Snapshot {
    fn of(files: &WatchedFiles) -> Self {
        let hash =
            |path: &PathBuf| read_bounded(path, LARGEST).ok().map(|bytes| Sha256::digest(bytes).into());
        Self(files.iter().map(hash).collect())
    }
}

/// The directories in which a change of these files shows: where each is named, and where it really is if that name
/// is a link.
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
        let nothing = Snapshot::of(&files);
        fs::write(&files.named[0], "x").unwrap();
        let one = Snapshot::of(&files);
        fs::write(&files.named[0], "y").unwrap();
        let other = Snapshot::of(&files);
        assert!(nothing != one && one != other && nothing != other);
        fs::write(&files.named[0], "x").unwrap();
        assert_eq!(Snapshot::of(&files), one);
    }
}
