//! Replies of a turn, in order.
