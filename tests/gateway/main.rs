//! The reference gateway from outside: by its public parts, and as a process.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests touch the world")]

mod journal;
mod journal_files;
mod journal_writer;
mod powercut;
