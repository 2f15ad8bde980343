//! What the operator wants of the gateway: a TOML file, watched, patched and kept.

pub mod schema;
