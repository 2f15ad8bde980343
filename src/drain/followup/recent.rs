//! Which messages came lately.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::item::Item;

/// What tells a message from all others. Its session belongs to it: one message may go to several.
#[derive(Debug, Eq, Hash, PartialEq)]
pub(super) struct Identity {
    session: Arc<str>,
    route: String,
    id: String,
}

/// The latest identities, a bounded number over all sessions.
#[derive(Debug)]
pub(super) struct Recent {
    /// How many are kept.
    most: usize,
    /// The number of each that is known.
    known: HashMap<Arc<Identity>, u64>,
    /// In the order in which they came; those forgotten since stay until their turn comes.
    order: VecDeque<(u64, Arc<Identity>)>,
    next: u64,
}

impl Identity {
    /// None for a message without an id.
    pub(super) fn of<T>(session: &Arc<str>, item: &Item<T>) -> Option<Self> {
        (!item.id.is_empty()).then(|| Self {
            session: Arc::clone(session),
            route: item.route.clone(),
            id: item.id.clone(),
        })
    }
}

impl Recent {
    /// Knows none.
    pub(super) fn new(most: usize) -> Self {
        Self { most, known: HashMap::new(), order: VecDeque::new(), next: 0 }
    }

    pub(super) fn knows(&self, identity: &Identity) -> bool {
        self.known.contains_key(identity)
    }

    pub(super) fn remember(&mut self, identity: Arc<Identity>) {
        self.next += 1;
        self.known.insert(Arc::clone(&identity), self.next);
        self.order.push_back((self.next, identity));
        while self.order.len() > self.most {
            let Some((number, oldest)) = self.order.pop_front() else { return };
            // It may have come again since.
            if self.known.get(&oldest) == Some(&number) {
                self.known.remove(&oldest);
            }
        }
    }

    pub(super) fn forget(&mut self, identity: &Identity) {
        self.known.remove(identity);
    }
}
