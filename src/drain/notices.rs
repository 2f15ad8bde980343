//! Who was told already that the gateway takes nothing in.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use super::{
    gate::Gate,
    sync::{Mutex, lock},
};

/// One refusal notice a chat, not one a message, for as long as the gate stays shut without a
/// break. When it opens, be it that a drain was called off or that a new iteration began, all is
/// forgotten, and the next drain is told of anew.
///
/// Memory is bounded: at most so many chats are told a drain (65,536 unless set), and 8 bytes are
/// kept of each, whatever its name is. Whoever comes beyond them gets no notice: silence harms less
/// than a flood. Of the name a hash is kept; that one of 65,536 chats is taken for another, and
/// left untold, has a chance of 1 to 8 thousand million.
///
/// ```
/// use lockkeeper::drain::{gate::Gate, notices::Notices};
///
/// let gate = Gate::with_clock(std::time::Instant::now);
/// let notices = Notices::new(&gate);
/// gate.seal();
/// let refused = gate.admit("message").expect_err("it is sealed");
/// if notices.first("telegram:ada") {
///     println!("{refused}"); // tell the chat
/// }
/// assert!(!notices.first("telegram:ada"));
/// ```
#[derive(Debug)]
pub struct Notices {
    gate: Gate,
    most: usize,
    hasher: RandomState,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// The gate's turns when the first of them was told.
    turns: u64,
    chats: HashSet<u64>,
}

impl Notices {
    /// Nobody was told.
    pub fn new(gate: &Gate) -> Self {
        Self::at_most(gate, MOST)
    }

    /// As [`Self::new`], with another bound of the number of chats that are told a drain.
    pub fn at_most(gate: &Gate, most: usize) -> Self {
        let told = Mutex::new(Told::default());
        Self { gate: gate.clone(), most, hasher: RandomState::new(), told }
    }

    /// Whether a chat whose message was refused is to be told so: true for its first one since the
    /// gate shut, and while there is room.
    pub fn first(&self, chat: &str) -> bool {
        let mut told = lock(&self.told);
        let turns = self.gate.turns();
        if told.turns != turns {
            *told = Told { turns, chats: HashSet::new() };
        }
        let chat = self.hasher.hash_one(chat);
        (told.chats.len() < self.most || told.chats.contains(&chat)) && told.chats.insert(chat)
    }
}

const MOST: usize = 65_536;
