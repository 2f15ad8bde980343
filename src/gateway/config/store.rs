//! The config of a running gateway: what the file says, what is in force, and what is between.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::Notify;
use tracing::warn;

pub use super::rewrite::ConfigRefused;
use super::{
    check::Warning,
    diff::{self, graft},
    document::Document,
    error::{ConfigError, Fault},
    file::{ConfigFile, Content, ContentHash, Loaded},
    merge::{self, Comments, Merged},
    plan::Plan,
    rewrite::rewrite,
    schema::Config,
};

/// The config of a running gateway. Clones are the same store.
///
/// The file and what is in force are kept apart. A change goes from the file ([`Self::patch`],
/// [`Self::apply`], the [watch](super::watch)) to [`Changes`]; the gateway reloads what the plan
/// calls hot, and says [`Self::in_force`]. What needs a restart stays a difference until the next
/// life, which begins with [`Self::begin`].
#[derive(Clone)]
pub struct Store(Arc<Shared>);

/// What the gateway must know of its config, in order. There is one for a store.
pub struct Changes(Arc<Shared>);

/// One thing that the gateway must know of its config.
#[derive(Clone, Debug)]
pub enum News {
    /// The file says something else than what is in force.
    Changed(Change),
    /// What needed a restart was taken back: for
    /// [`Restarts::edit_reverted`](crate::restart::driver::Restarts::edit_reverted).
    Reverted {
        /// The [`Change::id`] of what was pending.
        id: u64,
    },
    /// The file cannot be used; what was in force stays. Told once for each content of the file.
    Refused(Arc<ConfigError>),
}

/// The way from the config in force to the one in the file.
#[derive(Clone, Debug)]
pub struct Change {
    /// What is in force.
    pub old: Arc<Config>,
    /// What the file says.
    pub new: Arc<Config>,
    /// What that needs, the mode of `new` considered.
    pub plan: Plan,
    /// The hash of the file.
    pub hash: ContentHash,
    /// Who wrote the file.
    pub source: Source,
    /// For [`RestartRequest::for_change`](crate::restart::driver::RestartRequest::for_change). All
    /// changes while a restart is pending have the same: taking back the last of them takes back
    /// the restart.
    pub id: u64,
}

/// Who wrote the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// This process, for a client.
    Own,
    /// Somebody else.
    File,
}

/// What [`Store::get`] shows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// All settings, defaults too, of the file; of the last valid one if it cannot be used. Secrets
    /// are hidden.
    pub config: Value,
    /// The hash of what is in the file now; the base for the next patch.
    pub hash: ContentHash,
    /// Where the file is.
    pub path: PathBuf,
    /// Why the file cannot be used, if it cannot.
    pub problem: Option<String>,
}

/// The file was written, or said already what it was to say.
#[derive(Clone, Debug)]
pub struct Written {
    /// What that changes. For the one who asked: the gateway is told by [`Changes`].
    pub change: Change,
    /// What became of the comments in the file.
    pub comments: Comments,
}

/// A whole config.
#[derive(Clone, Debug, PartialEq)]
pub enum Whole {
    /// As a text in the file's format, with comments.
    Text(String),
    /// As an object.
    Value(Value),
}

/// What a look at the file found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Looked {
    /// What is known already; also what this process itself wrote.
    Known,
    /// Another config: [`Changes`] tells.
    New,
    /// Something that cannot be used; [`Changes`] tells, unless it did.
    Unusable,
    /// Another content than the one that had settled.
    Moving,
}

struct Shared {
    file: ConfigFile,
    /// Held while the file is read and written, so that nobody takes an own write for another's.
    disk: Mutex<()>,
    state: Mutex<State>,
    news: Notify,
}

struct State {
    /// The file's last valid content.
    accepted: Loaded,
    source: Source,
    in_force: Arc<Config>,
    /// The content that is in force as a whole; none after a part of a change.
    whole: Option<ContentHash>,
    /// The content that [`Changes`] has told.
    told: ContentHash,
    /// The change for which a restart is pending.
    pending: Option<u64>,
    refused: Option<Refusal>,
}

/// A content that cannot be used.
struct Refusal {
    /// The content's hash, or what the system said.
    what: String,
    error: Arc<ConfigError>,
    told: bool,
}

impl Store {
    /// Reads the file, and takes what it says to be in force. If it cannot be used, what was last in
    /// force is so again, and [`Changes`] tells of the file: an edit that went wrong does not keep
    /// the gateway from starting. Blocks for a moment.
    ///
    /// # Errors
    ///
    /// As [`ConfigFile::load`], where there is no last good copy.
    pub fn open(file: ConfigFile) -> Result<(Self, Changes), ConfigError> {
        let (accepted, refused) = match file.load() {
            Ok(loaded) => (loaded, None),
            Err(error) => match file.load_last_good() {
                Some(kept) => {
                    let content = file.read().map(|content| content.hash.to_string());
                    let what = content.unwrap_or_else(|unread| unread.to_string());
                    (kept, Some(Refusal { what, error: Arc::new(error), told: false }))
                }
                None => return Err(error),
            },
        };
        let state = State {
            source: Source::File,
            in_force: Arc::clone(&accepted.config),
            whole: Some(accepted.hash.clone()),
            told: accepted.hash.clone(),
            pending: None,
            refused,
            accepted,
        };
        let shared = Arc::new(Shared {
            file,
            disk: Mutex::new(()),
            state: Mutex::new(state),
            news: Notify::new(),
        });
        Ok((Self(Arc::clone(&shared)), Changes(shared)))
    }

    /// What is in force.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.0.state().in_force)
    }

    /// The file.
    pub fn file(&self) -> &ConfigFile {
        &self.0.file
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        self.0.file.path()
    }

    /// What the operator should be told of the file's last valid content.
    pub fn warnings(&self) -> Vec<Warning> {
        self.0.state().accepted.warnings.clone()
    }

    /// Why the file cannot be used, if it cannot.
    pub fn problem(&self) -> Option<Arc<ConfigError>> {
        self.0.state().refused.as_ref().map(|refusal| Arc::clone(&refusal.error))
    }

    /// What the file says needs a restart, or the next start, to be in force.
    pub fn outstanding(&self) -> Plan {
        let state = self.0.state();
        Plan::between(&state.in_force, &state.accepted.config)
    }

    /// What is in the file, for clients. Cancel-safe.
    pub async fn get(&self) -> Shown {
        self.blocking(Shared::shown).await
    }

    /// Applies a merge patch (RFC 7396) to the file whose hash is `base`. A secret that is sent back
    /// [hidden](super::schema::Secret::HIDDEN) stays as it is. Dropped before it resolves, the file
    /// may be written all the same.
    ///
    /// # Errors
    ///
    /// The file is not that of `base` any more; the result cannot be used; it cannot be written.
    pub async fn patch(
        &self,
        base: ContentHash,
        mut patch: Value,
    ) -> Result<Written, ConfigRefused> {
        self.blocking(move |shared| {
            shared.write(&base, |text| {
                let format = shared.file.format();
                merge::unhide(&mut patch, Document::parse(text, format)?.value());
                merge::patch(text, format, &patch)
            })
        })
        .await
    }

    /// Writes a whole config in the place of the one whose hash is `base`. Else as [`Self::patch`].
    ///
    /// # Errors
    ///
    /// As [`Self::patch`].
    pub async fn apply(&self, base: ContentHash, whole: Whole) -> Result<Written, ConfigRefused> {
        self.blocking(move |shared| {
            shared.write(&base, |text| match whole {
                Whole::Text(text) => Ok(Merged { text, comments: Comments::Kept }),
                Whole::Value(mut value) => {
                    let format = shared.file.format();
                    // A file that cannot be read is replaced, too; it holds no secret that we know.
                    if let Ok(old) = Document::parse(text, format) {
                        merge::unhide(&mut value, old.value());
                    }
                    merge::render(&value, format)
                }
            })
        })
        .await
    }

    /// The gateway has taken up what the change's plan calls hot. If the whole change is thereby in
    /// force, the file is kept as the last good one. Dropped before it resolves, that may be missing.
    pub async fn in_force(&self, change: &Change) {
        let whole = {
            let mut state = self.0.state();
            state.in_force = match change.plan.is_whole() {
                true => Arc::clone(&change.new),
                false => Arc::new(graft(&state.in_force, &change.new, change.plan.taken_up())),
            };
            state.whole = change.plan.is_whole().then(|| change.hash.clone());
            state.whole.is_some()
        };
        if whole {
            self.keep_last_good().await;
        }
    }

    /// A new life of the gateway begins in this process: what the file says now is in force.
    /// Nothing is pending any more.
    pub async fn begin(&self) -> Arc<Config> {
        self.look(None).await;
        let mut state = self.0.state();
        state.in_force = Arc::clone(&state.accepted.config);
        state.whole = Some(state.accepted.hash.clone());
        state.told = state.accepted.hash.clone();
        state.pending = None;
        Arc::clone(&state.in_force)
    }

    /// The gateway is up with its config: the file is kept as the last good one.
    pub async fn started(&self) {
        self.keep_last_good().await;
    }

    /// Looks at the file now. `settled`: the content that is expected; with another, nothing is done.
    /// Dropped before it resolves, the content may be taken up all the same.
    pub async fn look(&self, settled: Option<ContentHash>) -> Looked {
        self.blocking(move |shared| shared.look(settled.as_ref())).await
    }

    async fn keep_last_good(&self) {
        let kept = self.blocking(|shared| {
            let text = {
                let state = shared.state();
                let is_whole = state.whole.as_ref() == Some(&state.accepted.hash);
                is_whole.then(|| Arc::clone(&state.accepted.text))
            };
            // No file at all is nothing to keep.
            text.filter(|text| !text.is_empty()).map_or(Ok(()), |t| shared.file.keep_last_good(&t))
        });
        if let Err(error) = kept.await {
            let path = self.0.file.last_good();
            warn!("cannot keep a copy of the config in {}: {error}", path.display());
        }
    }

    /// Where files may be touched.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> T {
        let shared = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&shared)).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime ends; whoever waits here ends with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

impl Changes {
    /// Waits for the next. Several changes of the file become one, from what is in force to what is
    /// there now. Cancel-safe.
    pub async fn next(&mut self) -> News {
        loop {
            if let Some(news) = self.0.state().next_news() {
                return news;
            }
            self.0.news.notified().await;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> MutexGuard<'_, ()> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown(&self) -> Shown {
        let _disk = self.disk();
        let accepted = || {
            let state = self.state();
            (Arc::clone(&state.accepted.config), state.accepted.hash.clone())
        };
        let (config, hash, problem) = match self.file.read() {
            Ok(content) => {
                let hash = content.hash.clone();
                match self.settings(content) {
                    Ok(loaded) => (loaded.config, hash, None),
                    Err(error) => (accepted().0, hash, Some(error.to_string())),
                }
            }
            Err(error) => {
                let (config, hash) = accepted();
                (config, hash, Some(error.to_string()))
            }
        };
        let config = diff::value_of(&config.redacted());
        Shown { config, hash, path: self.file.path().to_owned(), problem }
    }

    /// The settings of a content. A file that was there and is gone says nothing.
    fn settings(&self, content: Content) -> Result<Loaded, ConfigError> {
        if content.bytes.is_none() && self.state().accepted.hash != content.hash {
            return Err(ConfigError::Missing { path: self.file.path().to_owned() });
        }
        self.file.settings(content)
    }

    fn look(&self, settled: Option<&ContentHash>) -> Looked {
        let _disk = self.disk();
        let (what, error) = match self.file.read() {
            Ok(content) if settled.is_some_and(|hash| hash != &content.hash) => {
                return Looked::Moving;
            }
            Ok(content) => {
                let hash = content.hash.clone();
                if hash == self.state().accepted.hash {
                    self.state().refused = None;
                    return Looked::Known;
                }
                match self.settings(content) {
                    Ok(loaded) => {
                        self.accept(loaded, Source::File);
                        return Looked::New;
                    }
                    Err(error) => (hash.to_string(), error),
                }
            }
            Err(error) => (error.to_string(), error),
        };
        let mut state = self.state();
        if state.refused.as_ref().is_none_or(|refusal| refusal.what != what) {
            state.refused = Some(Refusal { what, error: Arc::new(error), told: false });
            self.news.notify_one();
        }
        Looked::Unusable
    }

    fn accept(&self, loaded: Loaded, source: Source) {
        let mut state = self.state();
        state.accepted = loaded;
        state.source = source;
        state.refused = None;
        self.news.notify_one();
    }

    fn write(
        &self,
        base: &ContentHash,
        make: impl FnOnce(&str) -> Result<Merged, Fault>,
    ) -> Result<Written, ConfigRefused> {
        let _disk = self.disk();
        let (loaded, comments) = rewrite(&self.file, base, make)?;
        if self.state().accepted.hash != loaded.hash {
            self.accept(loaded, Source::Own);
        }
        Ok(Written { change: self.state().change(), comments })
    }
}

impl State {
    fn change(&self) -> Change {
        Change {
            old: Arc::clone(&self.in_force),
            new: Arc::clone(&self.accepted.config),
            plan: Plan::between(&self.in_force, &self.accepted.config),
            hash: self.accepted.hash.clone(),
            source: self.source,
            id: self.pending.unwrap_or_else(|| self.accepted.hash.short()),
        }
    }

    fn next_news(&mut self) -> Option<News> {
        if let Some(refusal) = self.refused.as_mut().filter(|refusal| !refusal.told) {
            refusal.told = true;
            return Some(News::Refused(Arc::clone(&refusal.error)));
        }
        if self.told == self.accepted.hash {
            return None;
        }
        let change = self.change();
        if !change.plan.needs_restart()
            && let Some(id) = self.pending.take()
        {
            // What else has changed is told by the next call.
            return Some(News::Reverted { id });
        }
        self.told = self.accepted.hash.clone();
        if change.plan.is_empty() {
            // Another comment, or back to what is in force.
            self.whole = Some(change.hash);
            return None;
        }
        if change.plan.needs_restart() {
            self.pending = Some(change.id);
        }
        Some(News::Changed(change))
    }
}

impl Change {
    /// Whether the file says what is in force.
    pub fn is_empty(&self) -> bool {
        self.plan.is_empty()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.path()).finish()
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Changes").field(&self.0.file.path()).finish()
    }
}
