//! One refusal notice a chat.
