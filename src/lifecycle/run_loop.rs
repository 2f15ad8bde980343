//! The child's loop.
