//! Layer 1: everything that a gateway has accepted is finished, handed over or refused aloud.

pub mod counts;
pub mod debounce;
pub mod driver;
pub mod followup;
pub mod gate;
pub mod intake;
pub mod label;
pub mod lane;
pub mod notices;
pub mod outcome;
pub mod plan;
pub mod reply;
pub mod report;
pub mod run;
mod sync;
#[cfg(test)]
mod tests;
pub mod unfinished;
pub mod wake;
pub mod wheel;

pub use self::debounce::Window;
pub use self::driver::{
    Begun, CalledOff, Drain, DrainOptions, Drained, Draining, Notice, Progress,
    debounce::{Batch, Debouncer, DebouncerRegistry},
    followup::{FollowupQueues, FollowupRegistry, Turn},
    lane::CommandLanes,
    reply::{Dispatcher, Replies},
};
