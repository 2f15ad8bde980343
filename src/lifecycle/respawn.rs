//! Which way to restart.
