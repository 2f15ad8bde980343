//! Messages being received.
