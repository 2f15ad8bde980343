//! The other ends of the channels: who writes to the gateway, and who gets its answers. All of them
//! do what a good client does: what was refused, or has no answer, is sent again under the same id.

pub(crate) mod callback;
pub(crate) mod chat;
pub(crate) mod messages;
pub(crate) mod operator;
pub(crate) mod telegram;
pub(crate) mod webhook;

use std::time::Duration;

/// From a refusal to the next try. Shorter than the gateway asks for: more tries, more chaos.
const AGAIN: Duration = Duration::from_millis(40);
