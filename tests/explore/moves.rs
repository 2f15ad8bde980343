//! What may happen next, and the choices that it leaves.

use crate::protocol::{
    control::Mode,
    exit::{ChildExit, SpawnFailure},
};

use super::{
    event::{Handler, Handlers, Judgement},
    policies::Lived,
};

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Move {
    /// What an earlier supervisor remembered is read: as many failures as there may be.
    Recall,
    Begin {
        orphan: bool,
    },
    Ask {
        mode: Mode,
        force: bool,
    },
    /// The same request once more, forced.
    AskAgain,
    Withdraw,
    /// The settings are read anew: there is a watchdog from now on, or none any more.
    Reload,
    Stop,
    /// The next deadline passes.
    Tick,
    /// The machine sleeps through all its deadlines.
    Oversleep,
    /// So long that the failures so far are old; the machine's own clock stands still.
    Sleep,
    Spawned,
    SpawnFailed(SpawnFailure),
    Handlers(Handlers),
    Ready,
    Reloading,
    Beat,
    BeatMissed,
    Trigger,
    Extend,
    /// The leader is reaped; perhaps found to have been the last of its tree in the same breath.
    Exit {
        exit: ChildExit,
        lived: Lived,
        alone: bool,
    },
    LeftoverReaped,
    TreeEmpty,
    Checked {
        passed: bool,
    },
    Staged {
        ok: bool,
    },
    Judged(Judgement),
    Recovered,
    OrphanGone,
}

impl Move {
    /// Whether it makes the machine ask for something that a stop may find unfetched.
    pub(super) fn may_be_overtaken(self) -> bool {
        match self {
            Self::Tick
            | Self::Ask { force: false, .. }
            | Self::Spawned
            | Self::SpawnFailed(_)
            | Self::Ready
            | Self::Exit { alone: true, .. }
            | Self::TreeEmpty
            | Self::Checked { .. }
            | Self::Staged { .. }
            | Self::Judged(_)
            | Self::Recovered
            | Self::OrphanGone
            | Self::Begin { .. } => true,
            Self::Ask { force: true, .. }
            | Self::Exit { alone: false, .. }
            | Self::Recall
            | Self::AskAgain
            | Self::Withdraw
            | Self::Reload
            | Self::Stop
            | Self::Oversleep
            | Self::Sleep
            | Self::Handlers(_)
            | Self::Reloading
            | Self::Beat
            | Self::BeatMissed
            | Self::Trigger
            | Self::Extend
            | Self::LeftoverReaped => false,
        }
    }
}

/// In which company a move comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Company {
    Alone,
    /// A stop comes before what the machine asked for was fetched.
    ThenStop,
    /// The next deadline is reached, and the move is heard first.
    AtDeadline,
}

/// What a look at the handlers may show.
pub(super) const SIGHTS: [Handlers; 4] = [
    seen(Handler::Unknown, Handler::Unknown),
    seen(Handler::Caught, Handler::Caught),
    seen(Handler::Absent, Handler::Absent),
    seen(Handler::Caught, Handler::Absent),
];

const fn seen(fresh: Handler, in_process: Handler) -> Handlers {
    Handlers { stop: fresh, restart: fresh, in_process }
}

/// The choices within one move: given one after the other, then counted through. The first of each
/// is silence.
#[derive(Clone, Debug, Default)]
pub(super) struct Choices {
    /// What was chosen, and of how many.
    taken: Vec<(u8, u8)>,
    at: usize,
}

impl Choices {
    /// The choices of a move that is made once more. Whatever it asks beyond them is silence.
    pub(super) fn of(taken: &[u8]) -> Self {
        Self { taken: taken.iter().map(|chosen| (*chosen, 0)).collect(), at: 0 }
    }

    /// One of `n`.
    pub(super) fn choose(&mut self, n: u8) -> u8 {
        if self.at == self.taken.len() {
            self.taken.push((0, n));
        }
        let (chosen, of) = self.taken[self.at];
        debug_assert!(of == n || of == 0, "a move that is made again asks the same");
        self.at += 1;
        chosen
    }

    /// Goes on to the next combination, if there is one.
    pub(super) fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((chosen, of)) = self.taken.pop() {
            if chosen + 1 < of {
                self.taken.push((chosen + 1, of));
                return true;
            }
        }
        false
    }

    pub(super) fn is_silent(&self) -> bool {
        self.taken.iter().all(|(chosen, _)| *chosen == 0)
    }

    pub(super) fn taken(&self) -> Vec<u8> {
        self.taken.iter().map(|(chosen, _)| *chosen).collect()
    }
}
