//! What arrived while a run of its session was active.
