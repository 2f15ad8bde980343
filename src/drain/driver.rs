//! Layer 4: the systems of a drain with a runtime under them.
#![allow(clippy::disallowed_methods)]

pub mod debounce;
pub mod followup;
pub mod lane;
pub mod reply;
pub mod run;
