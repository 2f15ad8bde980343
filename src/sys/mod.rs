//! Layer 3: all that is asked of the operating system.
//!
//! Each file is one concept; none decides anything about the child. What the machines of layer 1
//! want done is carried out with these by the drivers of layer 4.

pub mod control;
pub mod ledger_file;
pub mod notify;
pub mod probe;
pub mod socket_path;
pub mod tree;
pub mod upstream;
