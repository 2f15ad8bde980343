//! What the run loop is told (facts, past tense) and what it asks for (actions, imperative).

use std::time::Instant;

use crate::protocol::signal::Signal;

/// A fact. One that belongs to an iteration carries its number; one that does not fit what the loop
/// waits for is late, and changes nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// The lock is ours.
    LockAcquired,
    /// The lock cannot be had.
    LockFailed,
    /// The server serves.
    Started {
        /// In which iteration.
        iteration: u64,
    },
    /// The server did not come up, and nothing of it is left.
    StartFailed {
        /// In which iteration.
        iteration: u64,
    },
    /// The server ended by itself.
    ServerEnded {
        /// In which iteration.
        iteration: u64,
    },
    /// The process is to end.
    StopRequested {
        /// Who asks.
        by: Asker,
    },
    /// A restart is due: it was authorised and scheduled elsewhere.
    RestartRequested {
        /// Which kind.
        restart: Restart,
        /// Whether the drain may take its time.
        haste: Haste,
    },
    /// The drain is over.
    DrainDone {
        /// In which iteration.
        iteration: u64,
        /// How.
        drained: Drained,
    },
    /// The drain was called off, and all is as before it.
    DrainCalledOff {
        /// In which iteration.
        iteration: u64,
    },
    /// The server and all that belongs to it is closed.
    Closed {
        /// In which iteration.
        iteration: u64,
    },
    /// The successor runs.
    SuccessorSpawned {
        /// Its number.
        pid: u32,
    },
    /// The successor could not be spawned. The caller logs why.
    SpawnFailed,
}

impl Event {
    /// What a signal asks, by the contract between parent and child: SIGTERM and SIGINT a stop,
    /// SIGUSR1 a restart, SIGUSR2 one in process. `None` for all others. Whether a restart signal
    /// is honoured was asked before ([`Grants`](crate::restart::grant::Grants)).
    pub fn from_signal(signal: Signal) -> Option<Self> {
        let restart = match signal {
            Signal::Term | Signal::Int => return Some(Self::StopRequested { by: Asker::Signal }),
            Signal::Usr1 => Restart::Respawn,
            Signal::Usr2 => Restart::InProcess,
            _ => return None,
        };
        Some(Self::RestartRequested { restart, haste: Haste::InTime })
    }
}

/// What is to be done, in order. The caller polls until there is none after every call that takes
/// `now`. What answers by a fact is begun and not waited for, as a stop may come meanwhile.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Take the gateway's lock, and tell `LockAcquired` or `LockFailed`.
    AcquireLock,
    /// Give the lock back, so that a successor can have it. Takes no time.
    ReleaseLock,
    /// Let nothing of the old life count: lanes, gate, restart tokens, config snapshot. Comes
    /// before the start of every iteration but the first, when nothing of the last one lives.
    ResetIteration {
        /// The one that begins.
        iteration: u64,
    },
    /// Start the server, and tell `Started` or `StartFailed`.
    Start {
        /// The iteration that it belongs to.
        iteration: u64,
    },
    /// Tell the service manager `READY=1`.
    TellReady,
    /// Tell the service manager `RELOADING=1`: this process builds itself anew.
    TellReloading,
    /// Drain, and tell `DrainDone`.
    BeginDrain {
        /// The iteration that leaves.
        iteration: u64,
        /// What follows.
        goal: Goal,
        /// Whether the drain may take its time.
        haste: Haste,
        /// When it must be done. Work that is not is cut.
        deadline: Instant,
    },
    /// The drain that runs has to hurry: somebody asked a second time.
    ForceDrain,
    /// The drain that runs leads to a stop now, and its deadline is this one, which is no later
    /// than the former.
    TurnIntoStop {
        /// The drain's new deadline.
        deadline: Instant,
    },
    /// Close the server and all that belongs to it, and tell `Closed`. A drain that still runs was
    /// given up.
    CloseServer {
        /// The iteration that it belongs to.
        iteration: u64,
    },
    /// Spawn this program anew, detached, and tell `SuccessorSpawned` or `SpawnFailed`.
    SpawnSuccessor,
    /// Stop the successor: a stop came while it was spawned, and was meant for the gateway.
    StopSuccessor {
        /// Its number. It is our child and was not reaped, so the number is its own.
        pid: u32,
    },
    /// Log that a request changes nothing: the process is leaving already.
    TellIgnored(Request),
    /// Leave with this code. The last action.
    Exit(u8),
}

/// What was asked.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Request {
    /// A stop.
    Stop,
    /// A restart.
    Restart(Restart),
}

/// Who asks for a stop.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Asker {
    /// A signal: of a person or a parent, who hurries us by a second one.
    Signal,
    /// The program itself, which may say it in several places without meaning more by it.
    Program,
}

/// What a restart is to bring.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Restart {
    /// The same process builds itself anew.
    InProcess,
    /// A new process where the surroundings allow one, else in process.
    Respawn,
    /// As `Respawn`, for new program files: it outranks an in-process restart that is on its way.
    Update,
}

/// Whether a drain may take its time.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Haste {
    /// Up to the deadline.
    InTime,
    /// As little as possible.
    Force,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Drained {
    /// All that was accepted is finished or handed over.
    Clean,
    /// Time ran out and work was cut.
    Cut,
}

/// What a drain leads to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Goal {
    /// The process ends.
    Stop,
    /// The process ends, because the server did by itself.
    Fail,
    /// A restart.
    Restart(Restart),
}
