//! The reference gateway from outside: by its public parts, and as a process.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "tests touch the world"
)]

mod agent_command;
mod agent_leash;
mod agent_openai;
mod bad_input;
mod chat;
mod config_check;
mod config_docs;
mod config_file;
mod config_merge;
mod config_plan;
mod config_store;
mod imessage;
mod journal;
mod journal_files;
mod journal_writer;
mod linked;
mod page;
mod page_browser;
mod powercut;
mod process;
mod roster;
mod roster_intake;
mod router;
mod server;
mod server_access;
mod server_told;
mod stdio;
mod telegram;
mod webhook;

#[path = "../support/agent.rs"]
mod agent_support;
#[path = "../support/gateway_rig.rs"]
mod gateway_rig;
#[path = "../support/http.rs"]
mod http;
#[path = "../support/openai.rs"]
mod openai_support;
