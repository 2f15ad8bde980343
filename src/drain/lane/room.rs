//! The slots of one lane, and who waits for one.

use std::collections::VecDeque;

use super::{CommandId, Lane, LaneFigures, Priority};

#[derive(Debug)]
pub(super) struct Room {
    pub(super) concurrency: usize,
    /// How many slots are taken. May exceed `concurrency` after that was lowered.
    pub(super) active: usize,
    /// One queue a priority, each in the order of the ids.
    queues: [VecDeque<CommandId>; 3],
}

impl Room {
    pub(super) fn new(concurrency: usize) -> Self {
        Self { concurrency, active: 0, queues: Default::default() }
    }

    pub(super) fn push(&mut self, priority: Priority, id: CommandId) {
        self.queues[priority as usize].push_back(id);
    }

    /// Gives a slot to the next in turn, if there are both.
    pub(super) fn take_next(&mut self) -> Option<CommandId> {
        if self.active >= self.concurrency {
            return None;
        }
        let id = self.queues.iter_mut().find_map(VecDeque::pop_front)?;
        self.active += 1;
        Some(id)
    }

    pub(super) fn forget(&mut self, priority: Priority, id: CommandId) {
        let queue = &mut self.queues[priority as usize];
        if let Ok(index) = queue.binary_search(&id) {
            queue.remove(index);
        }
    }

    /// Takes out all that wait.
    pub(super) fn empty(&mut self) -> Vec<CommandId> {
        self.queues.iter_mut().flat_map(std::mem::take).collect()
    }

    /// Whether its entry says what the absence of one would not.
    pub(super) fn is_needed(&self, lane: &Lane, usual_concurrency: usize) -> bool {
        let is_idle = self.active == 0 && self.queues.iter().all(VecDeque::is_empty);
        !is_idle || !lane.is_dynamic() || self.concurrency != usual_concurrency
    }

    pub(super) fn figures(&self, lane: &Lane) -> LaneFigures {
        LaneFigures {
            lane: lane.clone(),
            concurrency: self.concurrency,
            active: self.active,
            queued: self.queues.iter().map(VecDeque::len).sum(),
        }
    }
}
