//! What a drain did.
