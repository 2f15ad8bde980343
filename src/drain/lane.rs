//! Commands in order, so many at a time.
