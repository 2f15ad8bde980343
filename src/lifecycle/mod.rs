//! Layer 1: the child's run loop, and which way it comes back.

pub mod driver;
pub mod respawn;
pub mod run_loop;
