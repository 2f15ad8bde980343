//! Layer 3: the whole list of what is asked of the operating system.
//!
//! Each file wraps one thing that the system does, with safe types and errors that name what
//! failed. Nothing here decides when to do it: that is the machines' part. Functions that wait are
//! futures that may be dropped at any time without losing anything.

#[cfg(feature = "supervisor")]
pub mod at_once;
#[cfg(feature = "supervisor")]
pub mod capture;
pub mod clock;
pub mod container;
pub mod control;
pub mod exit_watch;
#[cfg(feature = "supervisor")]
pub mod hook;
pub mod last_resort;
#[cfg(feature = "supervisor")]
pub mod ledger_file;
#[cfg(feature = "supervisor")]
pub mod ledger_tail;
pub mod lock;
#[cfg(feature = "supervisor")]
pub mod memory_file;
#[cfg(feature = "supervisor")]
pub mod notify;
#[cfg(feature = "drain")]
pub mod notify_parent;
mod notify_sender;
#[cfg(feature = "supervisor")]
mod plain_file;
#[cfg(feature = "supervisor")]
pub mod probe;
#[cfg(feature = "supervisor")]
pub mod process;
pub mod process_id;
mod process_stat;
#[cfg(feature = "supervisor")]
pub mod reaper;
#[cfg(feature = "supervisor")]
pub mod relay;
#[cfg(feature = "supervisor")]
pub mod rotated_file;
pub mod signals;
#[cfg(feature = "supervisor")]
pub mod socket_path;
pub mod spare;
#[cfg(feature = "supervisor")]
pub mod stage;
#[cfg(any(feature = "supervisor", feature = "gateway"))]
pub mod state_dir;
pub mod successor;
pub mod tree;
#[cfg(feature = "supervisor")]
pub mod upstream;
#[cfg(feature = "supervisor")]
pub mod whereabouts;
