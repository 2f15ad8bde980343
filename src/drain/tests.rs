//! Tests of the files that `tests/shuttle/` compiles, too. They stand apart from them, as they
//! would not run there.
#![allow(clippy::disallowed_methods)] // a test needs some clock

use std::time::Instant;

use super::{
    gate::{Gate, GateState, Refused, WorkGuard},
    intake::Intake,
    notices::Notices,
    wake::Pulse,
};

mod gate;
mod gate_model;
mod intake;
mod notices;
mod wake;

/// Open, with the runtime's clock, which may be paused.
fn open_gate() -> Gate {
    Gate::with_clock(|| tokio::time::Instant::now().into_std())
}

/// Open; for where no runtime runs.
fn plain_gate() -> Gate {
    Gate::with_clock(Instant::now)
}

/// What the blockers are called, the oldest first.
fn names(gate: &Gate, most: usize) -> Vec<String> {
    gate.blockers(most).into_iter().map(|blocker| blocker.label.to_string()).collect()
}
