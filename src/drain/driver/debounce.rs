//! A handle.
#![allow(clippy::disallowed_methods)]
