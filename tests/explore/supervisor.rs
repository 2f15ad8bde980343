//! The machine's files, and around them the explorer, which may look into the machine.

#[path = "../../src/supervisor/asked.rs"]
mod asked;
#[path = "../../src/supervisor/ending.rs"]
mod ending;
#[path = "../../src/supervisor/event.rs"]
pub mod event;
#[path = "../../src/supervisor/heart.rs"]
mod heart;
#[path = "../../src/supervisor/limit.rs"]
pub mod limit;
#[path = "../../src/supervisor/machine.rs"]
pub mod machine;
#[path = "../../src/supervisor/policy.rs"]
pub mod policy;
#[path = "../../src/supervisor/restarting.rs"]
mod restarting;
#[path = "../../src/supervisor/starting.rs"]
mod starting;
#[path = "../../src/supervisor/state.rs"]
pub mod state;
#[path = "../../src/supervisor/stopping.rs"]
mod stopping;
#[path = "../../src/supervisor/timer.rs"]
mod timer;

#[path = "acts.rs"]
mod acts;
#[path = "key.rs"]
mod key;
#[path = "laws.rs"]
mod laws;
#[path = "look.rs"]
mod look;
#[path = "moves.rs"]
mod moves;
#[path = "options.rs"]
mod options;
#[path = "policies.rs"]
pub mod policies;
#[path = "search.rs"]
pub mod search;
#[path = "world.rs"]
mod world;
