//! Where the run loop can be. The picture is in [`run_loop`](super).

use std::time::Instant;

use super::{
    event::{Drained, Goal, Haste, Restart},
    policy::Deadlines,
};

/// Where the loop is. See the module's picture.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// Waits for the lock.
    Locking,
    /// Waits for the server to come up.
    Starting,
    /// Serves.
    Serving,
    /// Drains, and then this.
    Draining(Goal),
    /// Closes, and then this.
    Closing(Goal),
    /// Waits for its successor.
    Spawning,
    /// A later iteration did not start; waits for a request.
    Stranded,
    /// Left, with this code.
    Exited(u8),
}

/// A state with what belongs to it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// With what was asked for and cannot begin yet.
    Locking(Option<Wanted>),
    Starting(Option<Wanted>),
    Serving,
    Draining(Leaving),
    Closing(Leaving),
    Spawning(Spawning),
    Stranded,
    Exited(u8),
}

/// What was asked for during a start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// By these deadlines: a stop does not wait longer because of a slow start.
    Stop(Deadlines),
    Restart(Restart, Haste),
}

/// On the way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    pub(super) goal: Goal,
    pub(super) deadlines: Deadlines,
    /// Whether the drain cut work, as far as is known.
    pub(super) drained: Drained,
    /// Whether the drain was told to hurry.
    pub(super) is_forced: bool,
}

/// A successor was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spawning {
    /// The exit code once it runs.
    pub(super) code: u8,
    /// What follows if it cannot be spawned.
    pub(super) otherwise: Otherwise,
    /// A stop came; it is not waited longer than this.
    pub(super) stop_by: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Otherwise {
    InProcess,
    /// The server is not closed: a second one must not be started beside it.
    Exit,
}

impl Stage {
    pub(super) fn state(self) -> State {
        match self {
            Self::Locking(_) => State::Locking,
            Self::Starting(_) => State::Starting,
            Self::Serving => State::Serving,
            Self::Draining(leaving) => State::Draining(leaving.goal),
            Self::Closing(leaving) => State::Closing(leaving.goal),
            Self::Spawning(_) => State::Spawning,
            Self::Stranded => State::Stranded,
            Self::Exited(code) => State::Exited(code),
        }
    }
}

impl Leaving {
    pub(super) fn turn_into_stop(&mut self, deadlines: Deadlines) {
        self.goal = Goal::Stop;
        self.deadlines = self.deadlines.no_later_than(deadlines);
    }
}
