//! A process supervisor for long-lived message gateways.

pub mod protocol;
#[cfg(feature = "supervisor")]
pub mod supervisor;
