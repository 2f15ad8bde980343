//! What the machine is told (facts, past tense) and what it asks for (actions, imperative).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::{
    control::{Mode, RestartId, Verdict},
    exit::{ChildExit, SpawnFailure},
    signal::Signal,
};

/// A fact. Each one about a child carries that child's generation; one that does not fit the
/// present generation is late, and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    /// The lock is held and the sockets are open: begin.
    Started {
        /// A child of an earlier supervisor, which was killed, still lives.
        orphan: bool,
    },
    /// That child and its tree have gone.
    OrphanGone,
    /// The child runs.
    Spawned {
        /// Which one.
        generation: u64,
    },
    /// The child could not be started.
    SpawnFailed {
        /// Which one.
        generation: u64,
        /// Why.
        failure: SpawnFailure,
        /// When, on the clock that goes on in sleep.
        boot: Duration,
    },
    /// The child's signal handlers were looked at.
    HandlersSeen {
        /// Whose.
        generation: u64,
        /// What was seen.
        handlers: Handlers,
    },
    /// The child said that it is ready, or its port answers.
    ReadySeen {
        /// Which one.
        generation: u64,
    },
    /// The child said that it builds itself anew.
    ReloadingSeen {
        /// Which one.
        generation: u64,
    },
    /// The child's heart beat: it said so, or its port answered.
    HeartSeen {
        /// Whose.
        generation: u64,
    },
    /// The child's port was asked for a sign of life, and gave none.
    HeartMissed {
        /// Whose.
        generation: u64,
    },
    /// The child's port was to be asked, and it cannot be known whether it would answer: the system
    /// has nothing to spare.
    HeartUnknown {
        /// Whose.
        generation: u64,
    },
    /// The child asked to be treated as hung (`WATCHDOG=trigger`).
    HeartTriggered {
        /// Which one.
        generation: u64,
    },
    /// The child asked for more time (`EXTEND_TIMEOUT_USEC=`), and has come further since it last
    /// did.
    ExtendRequested {
        /// Which one.
        generation: u64,
        /// So long from now.
        by: Duration,
    },
    /// The child's leader was reaped.
    LeaderExited {
        /// Which one.
        generation: u64,
        /// How it ended.
        exit: ChildExit,
        /// How long it lived, sleep included.
        ran: Duration,
        /// When, on the clock that goes on in sleep.
        boot: Duration,
    },
    /// A process that the child left behind was reaped; others may be left.
    LeftoverReaped {
        /// Of which one.
        generation: u64,
    },
    /// Nothing of the child's tree is left.
    TreeEmpty {
        /// Of which one.
        generation: u64,
    },
    /// A restart is due. The scheduler has coalesced, delayed and authorised it.
    RestartRequested {
        /// Its id.
        id: RestartId,
        /// How the child is to come back.
        mode: Mode,
        /// Without the `check` command.
        force: bool,
    },
    /// The restart was called off.
    RestartWithdrawn,
    /// The supervisor is to stop. Each one counts: the second hurries, the third is now.
    StopRequested,
    /// The `check` command ended.
    CheckFinished {
        /// For which restart.
        id: RestartId,
        /// Whether it allows the restart.
        passed: bool,
    },
    /// The successor waits to be released, or cannot be prepared.
    StageFinished {
        /// The generation that it will be.
        generation: u64,
        /// Whether it waits.
        ok: bool,
    },
    /// The judge has spoken on an exit that nobody asked for.
    Judged {
        /// Whose exit.
        generation: u64,
        /// What it meant.
        judgement: Judgement,
    },
    /// The recovery command ended, whichever way.
    RecoveryFinished {
        /// Whose config it mended.
        generation: u64,
    },
}

impl Event {
    /// The generation of a child's event.
    pub(super) fn generation(&self) -> Option<u64> {
        match *self {
            Self::Spawned { generation }
            | Self::SpawnFailed { generation, .. }
            | Self::HandlersSeen { generation, .. }
            | Self::ReadySeen { generation }
            | Self::ReloadingSeen { generation }
            | Self::HeartSeen { generation }
            | Self::HeartMissed { generation }
            | Self::HeartUnknown { generation }
            | Self::HeartTriggered { generation }
            | Self::ExtendRequested { generation, .. }
            | Self::LeaderExited { generation, .. }
            | Self::LeftoverReaped { generation }
            | Self::TreeEmpty { generation }
            | Self::Judged { generation, .. }
            | Self::RecoveryFinished { generation } => Some(generation),
            Self::Started { .. }
            | Self::OrphanGone
            | Self::RestartRequested { .. }
            | Self::RestartWithdrawn
            | Self::StopRequested
            | Self::CheckFinished { .. }
            // Belongs to the next generation, and is compared where it is handled.
            | Self::StageFinished { .. } => None,
        }
    }
}

/// Whether the child has a handler, for each signal that we may want to send it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Handlers {
    /// For the stop signal.
    pub stop: Handler,
    /// For the restart signal.
    pub restart: Handler,
    /// For the in-process restart signal.
    pub in_process: Handler,
}

/// Whether there is a handler for one signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Handler {
    /// There is.
    Caught,
    /// There is none: the signal would kill the child, or be ignored.
    Absent,
    /// The system does not tell.
    Unknown,
}

/// What an exit from `exit.stop` meant when nobody had asked for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// The child asked for its restart.
    Restart,
    /// The child stopped.
    Stop,
    /// The judge could not be asked, or gave no answer.
    Unavailable,
}

impl Judgement {
    /// Reads a judge's answer: a JSON object whose `status` is `accepted`, `none` or `rejected`, as
    /// OpenClaw's `restart-handoff consume --json` prints it.
    pub fn of_answer(stdout: &str) -> Self {
        #[derive(Deserialize)]
        struct Answer {
            status: String,
        }
        match serde_json::from_slice::<Answer>(stdout.as_bytes())
            .as_ref()
            .map(|a| a.status.as_str())
        {
            Ok("accepted") => Self::Restart,
            // Rejected: of another process, or too old. It does not speak for this exit.
            Ok("none" | "rejected") => Self::Stop,
            Ok(_) | Err(_) => Self::Unavailable,
        }
    }
}

/// What the driver must do now, in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    /// Start the child, from the staged successor if there is one of this generation. Answer with
    /// `Spawned` or `SpawnFailed`.
    Spawn {
        /// Its number.
        generation: u64,
        /// It is told to start with as little as it can (`LOCKKEEPER_SAFE_MODE=1`).
        safe_mode: bool,
    },
    /// Look for this child's readiness by its port; tell `ReadySeen`.
    WatchReady {
        /// Whose.
        generation: u64,
    },
    /// Look at the child's signal handlers; answer with `HandlersSeen`.
    Inspect {
        /// Whose.
        generation: u64,
    },
    /// Run the `check` command; answer with `CheckFinished`.
    Check {
        /// For which restart.
        id: RestartId,
    },
    /// Prepare a successor; answer with `StageFinished`.
    Stage {
        /// The generation that it will be.
        generation: u64,
    },
    /// Let the prepared successor go.
    DropStage,
    /// End the `check`, judge or recovery command that runs.
    AbortHooks,
    /// Send a signal to the living child.
    Signal {
        /// Which one.
        generation: u64,
        /// What.
        signal: Signal,
        /// To whom.
        to: Target,
    },
    /// End what the dead leader left behind; tell `LeftoverReaped` and `TreeEmpty`.
    Sweep {
        /// Of which one.
        generation: u64,
        /// SIGTERM or SIGKILL.
        signal: Signal,
    },
    /// Look at the child's port for a sign of life; answer with `HeartSeen`, `HeartMissed`
    /// or `HeartUnknown`.
    CheckHeart {
        /// Whose.
        generation: u64,
    },
    /// The child is hung, and is ended from here on.
    DeclareHung {
        /// Which one.
        generation: u64,
        /// How that was seen.
        sign: HungSign,
    },
    /// The child has more time, and the service manager is asked for as much.
    ExtendUpstream {
        /// So long from now.
        by: Duration,
    },
    /// Leave an earlier supervisor's child alone, and wait for its end; tell `OrphanGone`.
    AwaitOrphan,
    /// End the tree of an earlier supervisor's child; tell `OrphanGone`.
    Evict {
        /// By which signal.
        signal: Signal,
    },
    /// Ask the judge what this exit meant; answer with `Judged`.
    Judge {
        /// Whose exit.
        generation: u64,
        /// Nobody waits for the answer: we had asked for the exit ourselves, and only the
        /// child's own bookkeeping is to be closed.
        beside: bool,
    },
    /// Run the recovery command; answer with `RecoveryFinished`.
    Recover {
        /// Whose config is to be mended.
        generation: u64,
    },
    /// The child is ready.
    AnnounceReady {
        /// Which one.
        generation: u64,
        /// The first of this supervisor: the service manager is told `READY=1`.
        first: bool,
    },
    /// The whole service goes: the service manager is told `STOPPING=1`.
    AnnounceStopping,
    /// The request is served by a process that runs from now on: a further request is a new one.
    Served {
        /// Which request.
        id: RestartId,
    },
    /// How an accepted request ended.
    Verdict {
        /// Which request.
        id: RestartId,
        /// How.
        verdict: Verdict,
    },
    /// A generation has ended, and this is what follows: a line for the ledger.
    Ended(Outcome),
    /// Leave with this code. Nothing follows.
    Exit {
        /// The code.
        code: u8,
    },
}

/// To whom a signal goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    /// The main process.
    Leader,
    /// Its process group.
    Group,
    /// Every process of the tree, whichever group or session it went to.
    Tree,
}

/// The end of a generation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Which one.
    pub generation: u64,
    /// How it ended.
    pub exit: ChildExit,
    /// How long it lived.
    pub ran: Duration,
    /// What it had been told to do, if anything.
    pub goal: Option<Goal>,
    /// Work was cut: it said so, or it had to be killed.
    pub cut: bool,
    /// It is a failure of the child: a crash, not ready in time, or a bad config.
    pub failed: bool,
    /// What follows.
    pub then: Then,
}

/// Why a child is being ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// The supervisor stops.
    Stop,
    /// A fresh process takes over.
    Restart,
    /// The process builds itself anew.
    Reload,
    /// It was not ready in time.
    Replace,
    /// It gave no sign of life.
    Hung,
}

/// How it was seen that a child is hung.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HungSign {
    /// Too many intervals in a row passed without a sign of life.
    Silent,
    /// It said so itself.
    Triggered,
}

/// What follows the end of a generation.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// The next start, at once.
    Respawn,
    /// The next start, after this time.
    Backoff(Duration),
    /// One trial start after this time: the start limit was reached.
    HalfOpen(Duration),
    /// The judge is asked.
    Judge,
    /// The recovery command runs.
    Recover,
    /// The supervisor leaves or parks with this code.
    Leave(u8),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judges_answer_is_its_status_and_nothing_else() {
        for (answer, judgement) in [
            (r#"{"ok": true, "status": "accepted"}"#, Judgement::Restart),
            ("{\n  \"status\": \"none\",\n  \"reason\": \"missing\"\n}\n", Judgement::Stop),
            (r#"{"status":"rejected","reason":"expired"}"#, Judgement::Stop),
            (r#"{"ok":false,"reason":"store-unavailable"}"#, Judgement::Unavailable),
            ("accepted", Judgement::Unavailable),
            ("", Judgement::Unavailable),
        ] {
            assert_eq!(Judgement::of_answer(answer), judgement, "{answer}");
        }
    }
}
