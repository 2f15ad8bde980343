//! Layer 4: the run loop with a runtime under it.
#![allow(clippy::disallowed_methods)]
