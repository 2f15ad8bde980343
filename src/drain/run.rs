//! Agent turns under way.
