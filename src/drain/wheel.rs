//! Deadlines of many keys.
