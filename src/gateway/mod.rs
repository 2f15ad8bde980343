//! Layer 5: the reference gateway, `lockkeeper-gateway`, built on the drain library as anybody's
//! would be.
//!
//! ```text
//!  telegram ─┐                    journal                        journal ┌─▶ telegram
//!  imessage ─┤                 (kept on disk)               (kept until  ├─▶ imessage
//!  webhook  ─┼─▶ intake ─▶ accept ─▶ debouncer ─▶ queue ─▶ agent ─ done) ┼─▶ webhook
//!  chat     ─┤                                                turn       ├─▶ chat
//!  stdio    ─┘                                                           └─▶ stdio
//! ```
//!
//! A message is in the journal before its channel hears that it was accepted ([`journal`]), and
//! leaves it by exactly one answer, or as a dead letter that somebody is told of. What lies between
//! ([`router`]) is memory: a restart drains it, a crash loses it, and the next life takes it up from
//! the journal again.

pub mod agent;
pub mod archive;
pub mod assembly;
pub mod channel;
pub mod cli;
pub mod config;
pub mod events;
pub mod http_client;
pub mod journal;
pub mod launch;
pub mod message;
pub mod operator;
pub mod page;
pub mod reload;
pub mod router;
pub mod rpc;
pub mod serve;
pub mod server;
pub mod upkeep;
