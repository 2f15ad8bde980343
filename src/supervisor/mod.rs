//! The supervisor of one child: policy, machine and what it tells.
//!
//! [`machine`] decides, from facts and the time; `driver.rs` carries out and reports back. The
//! picture of the states is in [`machine`].

mod asked;
pub mod driver;
mod ending;
pub mod event;
mod heart;
pub mod ledger;
pub mod limit;
pub mod machine;
#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod machine_tests;
pub mod policy;
mod restarting;
mod starting;
pub mod state;
mod stopping;
mod timer;
