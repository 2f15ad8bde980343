//! Messages of one chat, collected until it is quiet.
