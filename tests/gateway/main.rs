//! The reference gateway from outside: by its public parts, and as a process.
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

#[path = "../support/http.rs"]
mod http;
mod server;
mod server_access;
mod server_told;
mod webhook;
