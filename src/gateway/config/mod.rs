//! What the operator wants of the gateway: a file, watched, patched and kept.
//!
//! ```text
//!   file ──▶ Document ──▶ Config ──▶ check        (file, document, check)
//!    ▲                       │
//!    │ merge        in force ┴ diff ──▶ Plan ──▶ under(mode)
//!    │                                   │
//!   patch, apply                      Changes ──▶ the gateway: reloads, restarts, `in_force`
//! ```
//!
//! What is in the file and what is in force are two things. [`store::Store`] knows both: the file's
//! last valid content, taken up when the [`watch`] saw it settle or when it was written by
//! [`store::Store::patch`]; and what the gateway says it has brought into force. Their difference is
//! the change that the gateway is told of, and what needs a restart stays different until then.

pub mod check;
pub mod cli;
pub mod diff;
pub mod document;
pub mod error;
pub mod file;
pub mod merge;
pub mod plan;
pub mod rewrite;
pub mod schema;
pub mod secret;
pub mod settle;
pub mod store;
pub mod watch;
