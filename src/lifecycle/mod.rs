//! Layer 1: the child's run loop, and which way it comes back.
//!
//! [`run_loop`](mod@run_loop) decides what follows on what: start, serve, drain, close, and then exit, spawn a
//! successor or begin anew. [`respawn`] reads from the surroundings which of the three. [`driver`]
//! carries it out; what a gateway needs of it is here: [`run`], [`Life`], [`Server`].

pub mod driver;
pub mod respawn;
pub mod run_loop;

pub use self::driver::{Closing, Exit, Life, Options, RunError, Server, run, run_loop, run_with};
