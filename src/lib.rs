//! A process supervisor for long-lived message gateways.

#[cfg(feature = "supervisor")]
pub mod config;
pub mod protocol;
pub mod supervisor;
