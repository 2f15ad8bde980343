//! The child's processes: its leader, its successor, and all that they left behind.

use std::{
    collections::HashSet,
    ffi::OsString,
    io::IsTerminal,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::AbortHandle};

use crate::{
    config::{handler::HandlerBy, settings::Settings},
    protocol::{
        control::{one_line, shown_command},
        exit::ChildExit,
        signal::Signal,
    },
    sys::{
        clock, exit_watch,
        lock::{ChildLock, ChildRecord, LockError},
        process::{self, Launch, OutputTo, SpawnError, StdinFrom},
        process_id::ProcessId,
        reaper::{self, Peek, Reaped},
        signals,
        stage::{self, Stage},
        tree::{self, Member},
        whereabouts::{self, Found},
    },
};

mod probes;

pub(super) use self::probes::Watch;

use super::{
    super::event::{Handler, Handlers, Target},
    Report, orphan,
};

/// How many leftovers are named in the log.
const NAMED: usize = 5;

/// See the module.
pub(super) struct Processes {
    own: u32,
    boot_id: Option<String>,
    child_lock: Arc<ChildLock>,
    notify_path: PathBuf,
    control_path: PathBuf,
    stdin: StdinFrom,
    leader: Option<Leader>,
    last_end: (u32, Option<u64>),
    stage: Option<Slot>,
    /// Processes of ours that are no part of the child's tree: hooks, stages, and what was there
    /// before we began (a shell that `exec`s us may have jobs).
    left_out: Vec<u32>,
    /// Of these, those that were there before we began.
    strangers: Vec<u32>,
    watch: Option<AbortHandle>,
    /// The orphan was told to leave.
    struck_orphan: bool,
    /// Its end is waited for.
    awaits_orphan: bool,
    reporter: mpsc::Sender<Report>,
}

/// The living leader.
struct Leader {
    id: ProcessId,
    /// Another process of the tree that the child named as its main one.
    main: Option<ProcessId>,
    /// It was such a one, and goes on after the process that we had started: it need not be our own
    /// child, nor lead a group.
    adopted: bool,
    since: Instant,
    /// The same moment, on the clock that goes on in sleep.
    boot: Duration,
    /// It was told that it runs.
    announced: bool,
    /// It was written down who it is.
    recorded: bool,
}

/// A successor that is being prepared, or waits.
struct Slot {
    generation: u64,
    pid: u32,
    stage: Option<Stage>,
    task: AbortHandle,
}

/// How a child came up.
pub(super) enum Started {
    /// It runs.
    Running,
    /// The staged successor was told to become it; a [`Report::Released`] follows.
    Releasing,
}

/// How a leader ended.
pub(super) struct LeaderEnd {
    pub(super) exit: ChildExit,
    pub(super) ran: Duration,
}

/// Whether processes of ours are left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Rest {
    Some,
    None,
}

impl Processes {
    pub(super) fn new(
        child_lock: ChildLock,
        notify_path: PathBuf,
        control_path: PathBuf,
        reporter: mpsc::Sender<Report>,
    ) -> Self {
        let own = std::process::id();
        let stdin = if std::io::stdin().is_terminal() {
            // A background group that reads its terminal is stopped by it.
            StdinFrom::Null
        } else {
            StdinFrom::Inherit
        };
        let strangers: Vec<_> = tree::direct_children(own).iter().map(|m| m.id.pid).collect();
        Self {
            own,
            boot_id: clock::boot_id(),
            child_lock: Arc::new(child_lock),
            notify_path,
            control_path,
            stdin,
            leader: None,
            last_end: (0, None),
            stage: None,
            left_out: strangers.clone(),
            strangers,
            watch: None,
            struck_orphan: false,
            awaits_orphan: false,
            reporter,
        }
    }

    pub(super) fn notify_path(&self) -> &Path {
        &self.notify_path
    }

    pub(super) fn control_path(&self) -> &Path {
        &self.control_path
    }

    pub(super) fn lock_path(&self) -> &Path {
        self.child_lock.path()
    }

    pub(super) fn lock_fd(&self) -> i32 {
        self.child_lock.fd().as_raw_fd()
    }

    // --- coming up ---

    /// Hands this lock to the generations from now on. A successor that waits has the old one, and
    /// is given up.
    pub(super) fn change_child_lock(&mut self, lock: ChildLock) -> Result<(), LockError> {
        if !lock.try_lock()? {
            tracing::warn!("{} is held by a process of somebody else's", lock.path().display());
        }
        self.drop_stage();
        self.child_lock = Arc::new(lock);
        Ok(())
    }

    pub(super) fn spawn(
        &mut self,
        generation: u64,
        argv: &[String],
        env: &[(OsString, OsString)],
        output: OutputTo<'_>,
    ) -> Result<Started, SpawnError> {
        self.stop_watching();
        if let Some(started) = self.release(generation) {
            return Ok(started);
        }
        let child = process::spawn(&self.launch(argv, env, output))?;
        self.lead(child.pid());
        Ok(Started::Running)
    }

    fn launch<'a>(
        &'a self,
        argv: &'a [String],
        env: &'a [(OsString, OsString)],
        output: OutputTo<'a>,
    ) -> Launch<'a> {
        Launch { argv, env, stdin: self.stdin, output, child_lock: Some(self.child_lock.fd()) }
    }

    fn lead(&mut self, pid: u32) {
        self.leader = Some(Leader {
            // The start time is looked up when it is written down, by which exec is over.
            id: ProcessId { pid, start_time: 0 },
            recorded: false,
            main: None,
            adopted: false,
            since: clock::now(),
            boot: clock::boot_now(),
            announced: false,
        });
    }

    /// Lets the successor go that waits for this generation, if there is one.
    fn release(&mut self, generation: u64) -> Option<Started> {
        let slot = self.stage.take()?;
        let waits = slot.generation == generation;
        let Some(mut stage) = slot.stage.filter(|_| waits) else {
            slot.task.abort();
            return None;
        };
        // It may have died while it waited: the ordinary way is still open.
        stage.release().ok()?;
        self.left_out.retain(|pid| *pid != slot.pid);
        self.lead(slot.pid);
        let reporter = self.reporter.clone();
        tokio::spawn(async move {
            let released = stage.released().await;
            let _ = reporter.send(Report::Released { generation, released }).await;
        });
        Some(Started::Releasing)
    }

    pub(super) fn stage(
        &mut self,
        generation: u64,
        argv: &[String],
        env: &[(OsString, OsString)],
        output: OutputTo<'_>,
    ) -> Result<(), SpawnError> {
        self.drop_stage();
        let mut stage = stage::stage(&self.launch(argv, env, output), &stage::own_exe())?;
        let pid = stage.pid();
        self.left_out.push(pid);
        let reporter = self.reporter.clone();
        let task = tokio::spawn(async move {
            let staged = stage.checked().await.map(|()| stage);
            let _ = reporter.send(Report::Staged { generation, pid, staged }).await;
        });
        let task = task.abort_handle();
        self.stage = Some(Slot { generation, pid, stage: None, task });
        Ok(())
    }

    /// Whether this is the successor that is being prepared.
    pub(super) fn is_staging(&self, pid: u32) -> bool {
        self.stage.as_ref().is_some_and(|slot| slot.pid == pid)
    }

    /// Whether a successor is being prepared, or waits.
    pub(super) fn has_stage(&self) -> bool {
        self.stage.is_some()
    }

    /// The successor waits.
    pub(super) fn keep_stage(&mut self, stage: Stage) {
        if let Some(slot) = &mut self.stage {
            slot.stage = Some(stage);
        }
    }

    /// Whether a hook or a successor was started and not reaped yet.
    pub(super) fn has_others(&self) -> bool {
        self.left_out.len() > self.strangers.len()
    }

    /// Reaps all that is dead. Tells whether any process is left that is ours to end.
    pub(super) fn reap_all(&mut self) -> Rest {
        while let Peek::Dead(pid) = self.peek() {
            self.reap_other(pid);
        }
        let is_ours = |member: &Member| !self.strangers.contains(&member.id.pid);
        if tree::direct_children(self.own).iter().any(is_ours) { Rest::Some } else { Rest::None }
    }

    /// Gives the successor up: its socket closes, and it ends by itself.
    pub(super) fn drop_stage(&mut self) {
        if let Some(slot) = self.stage.take() {
            slot.task.abort();
        }
    }

    /// Whether this call is the first to tell that the leader runs.
    pub(super) fn announce(&mut self) -> bool {
        let leader = self.leader.as_mut().filter(|leader| !leader.announced);
        leader.map(|leader| leader.announced = true).is_some()
    }

    /// What was to become the leader did not. If it was reaped before this was heard, the leader
    /// is the next one already, and runs.
    pub(super) fn forget_leader(&mut self) {
        self.leader.take_if(|leader| !leader.announced);
    }

    /// Writes down who the child is, for a supervisor that comes after a SIGKILL of this one. Once
    /// for each child that was told to run.
    pub(super) fn record_child(&mut self, generation: u64, command: &[String]) {
        let unrecorded = |leader: &&mut Leader| leader.announced && !leader.recorded;
        let Some(leader) = self.leader.as_mut().filter(unrecorded) else { return };
        // Not known while no descriptor is to spare: a record without it would name nobody.
        let Some(id) = ProcessId::now_at(leader.id.pid) else { return };
        leader.id = id;
        leader.recorded = true;
        let record = ChildRecord {
            pid: leader.id.pid,
            start_time: leader.id.start_time,
            boot_id: self.boot_id.clone(),
            generation,
            command: shown_command(command),
        };
        if let Err(error) = self.child_lock.record(&record) {
            tracing::debug!("{}: {error}", self.child_lock.path().display());
        }
    }

    // --- alive ---

    pub(super) fn leader_pid(&self) -> Option<u32> {
        self.leader.as_ref().map(|leader| leader.id.pid)
    }

    pub(super) fn ready_after(&self, now: Instant) -> Duration {
        self.leader.as_ref().map_or(Duration::ZERO, |l| now.saturating_duration_since(l.since))
    }

    /// How long the leader lives, sleep included.
    pub(super) fn up(&self) -> Option<Duration> {
        self.leader.as_ref().map(|l| clock::boot_now().saturating_sub(l.boot))
    }

    pub(super) fn memory(&self) -> Option<u64> {
        tree::resident_bytes(self.main()?.pid)
    }

    fn main(&self) -> Option<ProcessId> {
        let leader = self.leader.as_ref()?;
        Some(leader.main.filter(|main| lives(*main)).unwrap_or(leader.id))
    }

    /// The child says that another of its processes is the main one. False: it is not its own.
    pub(super) fn set_main(&mut self, pid: u32) -> bool {
        let is_own = self.owns(pid);
        let id = ProcessId::now_at(pid).filter(|_| is_own);
        match (&mut self.leader, id) {
            (Some(leader), Some(id)) => {
                leader.main = Some(id).filter(|id| id.pid != leader.id.pid);
                true
            }
            (None, _) | (_, None) => false,
        }
    }

    /// Whether a process belongs to the child's tree.
    pub(super) fn owns(&self, pid: u32) -> bool {
        self.leader_pid() == Some(pid) || tree::contains(self.own, &self.left_out, pid)
    }

    pub(super) fn handlers(&self, settings: &Settings) -> Handlers {
        let set = self.main().and_then(|main| signals::handlers(main.pid));
        let of = |signal, by| match (set, by) {
            (None, _) | (_, HandlerBy::Ready) => Handler::Unknown,
            (Some(set), HandlerBy::Auto) if set.contains(signal) => Handler::Caught,
            (Some(set), HandlerBy::Signal(shown)) if set.contains(shown) => Handler::Caught,
            (Some(_), HandlerBy::Auto | HandlerBy::Signal(_)) => Handler::Absent,
        };
        let Settings { stop, restart, .. } = settings;
        Handlers {
            stop: of(stop.signal, stop.handler),
            restart: of(restart.signal, restart.handler),
            in_process: of(restart.in_process_signal, restart.handler),
        }
    }

    pub(super) fn signal(&self, signal: Signal, to: Target) {
        let Some(leader) = &self.leader else { return };
        let sent = match (to, leader.main.filter(|main| lives(*main))) {
            (Target::Leader, Some(main)) => signals::send_verified(main, signal),
            (Target::Leader, None) if leader.adopted => signals::send_verified(leader.id, signal),
            (Target::Leader, None) => signals::send(leader.id.pid, signal),
            // The group was that of the process before it, whose number may be another's.
            (Target::Group | Target::Tree, _) if leader.adopted => {
                tree::signal_members(&self.members(), signal);
                Ok(())
            }
            (Target::Group, _) => signals::send_group(leader.id.pid, signal),
            (Target::Tree, _) => {
                tree::signal_members(&self.members(), signal);
                // Where the tree is not known, the group is the next best.
                signals::send_group(leader.id.pid, signal)
            }
        };
        if let Err(error) = sent {
            // Gone already, most likely: its exit is on the way.
            tracing::debug!("{signal} to pid {}: {error}", leader.id.pid);
        }
    }

    // --- gone ---

    /// Who is dead, if anyone.
    pub(super) fn peek(&self) -> Peek {
        let known: Vec<_> = self.leader_pid().into_iter().chain(self.left_out.clone()).collect();
        reaper::peek(&known)
    }

    /// Reaps a dead process. Gives the end of the leader, if it was the leader.
    pub(super) fn reap(&mut self, pid: u32) -> Option<LeaderEnd> {
        let reaped = reaper::reap(pid);
        self.left_out.retain(|other| *other != pid);
        let leader = self.leader.take_if(|leader| leader.id.pid == pid)?;
        if let Some(main) = leader.main.filter(|main| lives(*main)) {
            // A launcher that has done its part.
            tracing::info!(
                "pid {pid} ended by {}; pid {} goes on as the child",
                reaped.exit,
                main.pid
            );
            self.leader =
                Some(Leader { id: main, main: None, adopted: true, recorded: false, ..leader });
            self.watch_end(main);
            return None;
        }
        Some(self.end(leader, reaped))
    }

    fn end(&mut self, leader: Leader, reaped: Reaped) -> LeaderEnd {
        self.stop_watching();
        self.last_end = (leader.id.pid, reaped.peak_rss_bytes);
        let ran = clock::boot_now().saturating_sub(leader.boot);
        LeaderEnd { exit: reaped.exit, ran }
    }

    /// Another of the tree's processes may be its parent, and reap it without our knowing.
    fn watch_end(&self, main: ProcessId) {
        const PAUSE: Duration = Duration::from_secs(1);
        let reporter = self.reporter.clone();
        tokio::spawn(async move {
            loop {
                match exit_watch::exit_watch(main) {
                    Ok(watch) => break watch.gone().await,
                    Err(error) => tracing::debug!("pid {}: {error}", main.pid),
                }
                // No descriptor left.
                tokio::time::sleep(PAUSE).await;
            }
            let _ = reporter.send(Report::MainGone { main }).await;
        });
    }

    /// An adopted leader has gone. Gives its end, unless we are its parent and SIGCHLD tells it.
    pub(super) fn main_gone(&mut self, main: ProcessId) -> Option<LeaderEnd> {
        let own = Some(self.own);
        let leader = self.leader.take_if(|l| l.id == main && tree::parent(main.pid) != own)?;
        Some(self.end(leader, Reaped { exit: ChildExit::Unknown, peak_rss_bytes: None }))
    }

    /// Reaps a dead process that is no part of the tree.
    pub(super) fn reap_other(&mut self, pid: u32) -> ChildExit {
        self.left_out.retain(|other| *other != pid);
        reaper::reap(pid).exit
    }

    /// Passes a signal on to the child.
    pub(super) fn forward(&self, signal: Signal) {
        self.signal(signal, Target::Leader);
    }

    /// The last leader's pid and peak memory.
    pub(super) fn last_end(&self) -> (u32, Option<u64>) {
        self.last_end
    }

    fn members(&self) -> Vec<Member> {
        tree::members(self.own, &self.left_out)
    }

    /// Whether nothing is left of the tree.
    pub(super) fn is_empty(&self) -> bool {
        self.members().iter().all(Member::is_dead)
    }

    /// Where the leader and the others of the tree are at this moment.
    pub(super) fn whereabouts(&self) -> Found {
        whereabouts::of_tree(self.leader_pid(), &self.members())
    }

    /// Signals what is left of the tree. Gives where it was before that; `None`: nothing is left.
    pub(super) fn sweep(&self, signal: Signal) -> Option<Found> {
        if self.peek() == Peek::NoChildren {
            return None;
        }
        let left: Vec<_> = self.members().into_iter().filter(|m| !m.is_dead()).collect();
        if left.is_empty() {
            return None;
        }
        let found = whereabouts::of_tree(None, &left);
        let mut names: Vec<_> = left
            .iter()
            .take(NAMED)
            .map(|m| format!("{} ({})", m.id.pid, one_line(&m.name)))
            .collect();
        if left.len() > NAMED {
            names.push(format!("and {} more", left.len() - NAMED));
        }
        tracing::info!("left behind by the child, {signal} to: {}", names.join(", "));
        tree::signal_members(&left, signal);
        Some(found)
    }

    /// A process of ours that is no part of the tree.
    pub(super) fn leave_out(&mut self, pid: u32) {
        self.left_out.push(pid);
    }

    pub(super) fn remove_sockets(&self) {
        for path in [&self.notify_path, &self.control_path] {
            let _ = std::fs::remove_file(path);
        }
    }

    // --- the child of an earlier supervisor ---

    pub(super) fn find_orphan(&self) -> Option<orphan::Outlived> {
        let locked = match self.child_lock.try_lock() {
            Ok(locked) => locked,
            Err(error) => {
                tracing::warn!("{error}");
                false
            }
        };
        orphan::look(&self.child_lock, !locked)
    }

    /// Whether this process belongs to it.
    pub(super) fn is_of_orphan(&self, pid: u32) -> bool {
        orphan::find(&self.child_lock).iter().any(|id| id.pid == pid)
    }

    /// The first call asks the leader; each later one strikes all. Gives where they were before.
    pub(super) fn evict(&mut self, signal: Signal) -> Found {
        let (found, who) = orphan::signal(&self.child_lock, signal, self.struck_orphan);
        self.struck_orphan = true;
        self.await_end_of(who);
        found
    }

    /// Waits until nothing is left of it.
    pub(super) fn await_orphan(&mut self) {
        self.await_end_of(orphan::find(&self.child_lock));
    }

    fn await_end_of(&mut self, who: HashSet<ProcessId>) {
        if !std::mem::replace(&mut self.awaits_orphan, true) {
            let gone = orphan::gone(Arc::clone(&self.child_lock), who);
            let reporter = self.reporter.clone();
            tokio::spawn(async move {
                gone.await;
                let _ = reporter.send(Report::OrphanGone).await;
            });
        }
    }
}

/// Whether this very process has not ended.
fn lives(id: ProcessId) -> bool {
    ProcessId::now_at(id.pid) == Some(id) && !tree::is_dead(id.pid)
}
