//! What the last life left in the journal, taken up in order and without a flood.
#![allow(clippy::disallowed_methods)]
