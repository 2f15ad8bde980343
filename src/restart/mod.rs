//! Layer 1: when a restart begins, and who may ask for one by signal.
//!
//! [`scheduler`] makes one restart of many requests, finds its moment (delay, cooldown, idleness)
//! and keeps it until a handler is done with it. [`grant`] says whether a restart signal counts at
//! all. The parent uses both now; the drain library of the child uses the same two, where the
//! scheduler also defers until the child is idle.
//!
//! ```text
//!   signal ──▶ grant ──┐
//!   control socket ────┼─▶ scheduler ──▶ Emit ──▶ parent: check, stage, signal the child
//!   config reload ─────┘       ▲                  child:  ask the parent, or drain
//!                              └───── Emitted, EmissionFailed, EmissionRefused, Handled
//! ```
//!
//! Neither knows how a restart is carried out, who waits for its verdict, or what time it is:
//! `now` is an argument, and a driver does what the actions say.

#[cfg(feature = "drain")]
pub mod driver;
pub mod grant;
pub mod scheduler;
