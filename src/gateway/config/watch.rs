//! Watches the config file, and has the [`Store`] take it up when it has come to rest.
//!
//! Not the file is watched but the folders in which the name is found, and each symlink on the way:
//! a rename over the file, a deletion, and the swap of `..data` by which Kubernetes changes a whole
//! volume are all events of a folder. Where the system gives no watches, the file is looked at every
//! five seconds, and the log says so once.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::{BTreeSet, VecDeque},
    ffi::{OsStr, OsString},
    fs,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    file::ConfigFile,
    settle::{Action, Event, Sample, Settle},
    store::{Looked, Store},
};

/// A watch on the file of a [`Store`]. Dropped, it ends.
#[derive(Debug)]
pub struct Watch(JoinHandle<()>);

impl Watch {
    /// Begins to watch. What has changed since the store was opened is seen, too. Must be called in
    /// a tokio runtime.
    pub fn start(store: &Store) -> Self {
        Self::run(store, Eyes::open)
    }

    /// Watches by a look every so often, for file systems that tell of no changes, such as NFS.
    pub fn polling(store: &Store, every: Duration) -> Self {
        Self::run(store, move |_| Eyes { watcher: None, sight: Arc::default(), every })
    }

    fn run(store: &Store, eyes: impl FnOnce(Arc<Notify>) -> Eyes + Send + 'static) -> Self {
        let store = store.clone();
        Self(tokio::spawn(async move {
            let touched = Arc::new(Notify::new());
            let eyes = Arc::new(Mutex::new(eyes(Arc::clone(&touched))));
            Driver { store, touched, eyes, settle: Settle::default(), poll: None }.run().await;
        }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Driver {
    store: Store,
    /// Told by the watcher's thread.
    touched: Arc<Notify>,
    eyes: Arc<Mutex<Eyes>>,
    settle: Settle,
    /// When to look without having been told; none while the system tells.
    poll: Option<Instant>,
}

impl Driver {
    async fn run(mut self) {
        // The first look opens the eyes.
        self.tell(Event::Touched);
        loop {
            while let Some(action) = self.settle.poll_action() {
                self.carry_out(action).await;
            }
            let settled = self.settle.poll_timeout().map(Instant::from_std);
            tokio::select! {
                () = self.touched.notified() => self.tell(Event::Touched),
                () = sleep_until(settled.unwrap_or_else(Instant::now)), if settled.is_some() => {
                    self.settle.handle_timeout(Instant::now().into_std());
                }
                () = sleep_until(self.poll.unwrap_or_else(Instant::now)), if self.poll.is_some() => {
                    // The next look sets it anew.
                    self.poll = None;
                    self.tell(Event::Touched);
                }
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.settle.handle_event(Instant::now().into_std(), event);
    }

    async fn carry_out(&mut self, action: Action) {
        match action {
            Action::Look => {
                let (eyes, file) = (Arc::clone(&self.eyes), self.store.file().clone());
                let look = move || eyes.lock().unwrap_or_else(PoisonError::into_inner).look(&file);
                let Ok((sample, poll)) = tokio::task::spawn_blocking(look).await else {
                    // The runtime ends, and this task with it.
                    return std::future::pending().await;
                };
                self.poll = poll.map(|every| Instant::now() + every);
                self.tell(Event::Seen(sample));
            }
            Action::TakeUp(hash) => match self.store.look(hash).await {
                Looked::Moving => self.tell(Event::Touched),
                looked @ (Looked::Known | Looked::New | Looked::Unusable) => {
                    debug!(?looked, "the config file has settled");
                }
            },
        }
    }
}

/// What sees the file.
struct Eyes {
    /// None where the system gives none.
    watcher: Option<RecommendedWatcher>,
    sight: Arc<Mutex<Sight>>,
    /// Between looks, where the system does not tell of changes.
    every: Duration,
}

/// Where to look, and whether it is known that nothing is told of.
#[derive(Default)]
struct Sight {
    /// Each folder with a name in it that matters.
    spots: BTreeSet<Spot>,
    /// Whether the log has been told that there is no watch.
    is_blind: bool,
}

/// A name in a folder.
type Spot = (PathBuf, OsString);

impl Eyes {
    fn open(touched: Arc<Notify>) -> Self {
        let sight = Arc::new(Mutex::new(Sight::default()));
        let seen = Arc::clone(&sight);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let matters = match event {
                Ok(event) => seen.lock().unwrap_or_else(PoisonError::into_inner).matters(&event),
                // Events were lost.
                Err(_) => true,
            };
            if matters {
                touched.notify_one();
            }
        });
        let mut eyes = Self { watcher: None, sight, every: POLL };
        match watcher {
            Ok(watcher) => eyes.watcher = Some(watcher),
            Err(error) => eyes.blind(&error),
        }
        eyes
    }

    /// What there is, and after what time to look without being told. The watches are renewed
    /// *before* the look: what comes after it is told of.
    fn look(&mut self, file: &ConfigFile) -> (Sample, Option<Duration>) {
        let poll = match self.aim(file.path()) {
            Ok(()) if self.watcher.is_some() => None,
            Ok(()) => Some(self.every),
            Err(error) => {
                self.blind(&error);
                Some(self.every)
            }
        };
        (sample(file), poll)
    }

    fn aim(&mut self, path: &Path) -> notify::Result<()> {
        let Some(watcher) = &mut self.watcher else { return Ok(()) };
        let spots = spots(path);
        let old = {
            let mut sight = self.sight.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut sight.spots, spots.clone())
        };
        let folders = |spots: &BTreeSet<Spot>| -> BTreeSet<PathBuf> {
            spots.iter().map(|(folder, _)| folder.clone()).collect()
        };
        let new = folders(&spots);
        for gone in folders(&old).difference(&new) {
            // It may be gone by itself.
            let _ = watcher.unwatch(gone);
        }
        // All of them: a folder of the same name may be another one by now.
        new.iter().try_for_each(|folder| watcher.watch(folder, RecursiveMode::NonRecursive))?;
        let mut sight = self.sight.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut sight.is_blind) {
            info!("changes of the config file are seen at once again");
        }
        Ok(())
    }

    fn blind(&self, error: &notify::Error) {
        let mut sight = self.sight.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut sight.is_blind, true) {
            warn!(
                "the system does not tell of changes of the config file ({error}); it is looked at \
                 every {} s. On Linux, fs.inotify.max_user_watches and max_user_instances may be \
                 too small",
                self.every.as_secs()
            );
        }
    }
}

impl Sight {
    fn matters(&self, event: &notify::Event) -> bool {
        // That somebody reads the file is told, too: we ourselves do, at each look.
        let is_reading = matches!(event.kind, EventKind::Access(kind)
            if kind != AccessKind::Close(AccessMode::Write));
        let concerns = |path: &PathBuf| {
            self.spots.iter().any(|(folder, name)| {
                // By the name alone: FSEvents tells of folders as they are really called.
                path.file_name() == Some(name) || path == folder
            })
        };
        !is_reading && (event.need_rescan() || event.paths.iter().any(concerns))
    }
}

/// Where a change can give the path another content: its own name, each symlink on the way, and the
/// first name that is not there.
fn spots(path: &Path) -> BTreeSet<Spot> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let parts = |path: &Path| -> VecDeque<OsString> {
        path.components().filter(|part| *part != Component::CurDir).map(own).collect()
    };
    let (mut here, mut todo, mut spots) = (PathBuf::new(), parts(&path), BTreeSet::new());
    let mut links = 0;
    while let Some(part) = todo.pop_front() {
        if part == OsStr::new("..") {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        match fs::read_link(&next) {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                spots.insert((here.clone(), part));
                // An absolute one begins with the root, by which `join` begins anew.
                todo = parts(&target).into_iter().chain(todo).collect();
            }
            _ if todo.is_empty() || fs::symlink_metadata(&next).is_err() => {
                spots.insert((here, part));
                return spots;
            }
            _ => here = next,
        }
    }
    spots
}

fn own(part: Component<'_>) -> OsString {
    part.as_os_str().to_owned()
}

fn sample(file: &ConfigFile) -> Sample {
    match file.read() {
        Ok(content) => match content.bytes {
            None => Sample::Missing,
            Some(bytes) => Sample::Present {
                size: bytes.len() as u64,
                modified: fs::metadata(file.path()).and_then(|found| found.modified()).ok(),
                hash: content.hash,
            },
        },
        Err(error) => Sample::Unusable(error.to_string()),
    }
}

/// Between looks where the system gives no watches.
const POLL: Duration = Duration::from_secs(5);
/// As many as Linux follows.
const MAX_LINKS: u32 = 40;

#[cfg(test)]
mod tests;
