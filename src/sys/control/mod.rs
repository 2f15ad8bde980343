//! The control socket: both ends of it.
//!
//! ```text
//! client ──line──▶ serve ──Incoming──▶ driver
//!    ▲               │ (one in flight)    │
//!    └──frames── write_frames ◀──Reply────┘   (bounded; a client that does not read is dropped)
//! ```
//!
//! What a frame means stands in [`crate::protocol::control`]; who may ask for what, and what is
//! answered, is the driver's affair. Here is only transport: no client can hold up the driver or
//! another client, whatever it sends or does not read.

mod client;
mod lines;
#[cfg(feature = "supervisor")]
mod server;

pub use client::{ConnectError, ControlClient, ReceiveError};
pub use lines::{Lines, TooLong};
#[cfg(feature = "supervisor")]
pub use server::{ControlServer, Incoming, Peer, Reply};
