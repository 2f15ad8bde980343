//! Layer 4: the scheduler in a child.
#![allow(clippy::disallowed_methods)]
