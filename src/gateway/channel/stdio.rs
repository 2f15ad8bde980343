//! stdio
#![allow(clippy::disallowed_methods)]
pub(super) mod lines;
