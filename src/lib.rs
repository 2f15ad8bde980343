//! A process supervisor for long-lived message gateways.

pub mod protocol;
pub mod restart;
#[cfg(feature = "supervisor")]
pub mod supervisor;
#[cfg(feature = "supervisor")]
pub mod sys;
