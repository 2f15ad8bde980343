//! The reference gateway from outside: by its public parts, and as a process.
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

mod imessage;
mod roster;
mod roster_intake;
mod stdio;
