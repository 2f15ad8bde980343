//! The phases of a drain under one deadline.
