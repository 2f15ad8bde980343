//! Bad input, bad disks and bad company against the real process. Whatever was done to it, it
//! answers the next message that is in order: [`live::Live::still_answers`].

mod by_curl;
mod commands;
mod disk;
mod frames;
mod journal;
mod live;
mod secrets;
mod shapes;
mod sockets;
mod webhook;
