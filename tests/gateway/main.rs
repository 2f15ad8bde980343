//! The reference gateway from outside: by its public parts, and as a process.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests touch the world")]

mod agent_command;
mod journal;
mod config_check;
mod config_docs;
mod config_file;
mod config_merge;
mod config_plan;
mod config_store;
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests touch the world")]

mod page;
mod page_browser;
mod agent_leash;
mod agent_openai;
#[path = "../support/agent.rs"]
mod agent_support;
#[path = "../support/openai.rs"]
mod openai_support;
mod powercut;
#![allow(clippy::disallowed_methods, reason = "tests touch the world")]

mod chat;
