//! Layer 0: the values on which parent and child agree.
//!
//! Exit codes, signals, environment names, notify datagrams and control frames, with their parsers.
//! No I/O and no clock: a parser takes bytes and gives a value or an error that says what is wrong.
//! A child in another language needs only what this folder writes down.

pub mod control;
pub mod env;
pub mod exit;
pub mod notify;
pub mod signal;
