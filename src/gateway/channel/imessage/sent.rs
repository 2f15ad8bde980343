//! What this process knows of what it has sent: to tell an answer of ours from an older one with
//! the same words.

use std::collections::VecDeque;

use super::protocol::{self, Message};
use crate::gateway::message::Outgoing;

/// Bounded: the oldest is forgotten.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// The highest row that was seen.
    last_row: i64,
    /// Replies, by their keys, and the highest row when each was first sent.
    begun: VecDeque<(String, i64)>,
    /// Messages that are known to be a reply.
    known: VecDeque<(String, i64)>,
}

impl Sent {
    /// A row was seen.
    pub(super) fn saw(&mut self, row: i64) {
        self.last_row = self.last_row.max(row);
    }

    /// A reply is about to be sent.
    pub(super) fn begin(&mut self, key: &str) {
        // The first counts: any try may have arrived.
        if self.begun.iter().all(|(begun, _)| begun != key) {
            remember(&mut self.begun, key, self.last_row);
        }
    }

    /// This row is that reply.
    pub(super) fn is_in(&mut self, key: &str, row: i64) {
        remember(&mut self.known, key, row);
    }

    /// The row after which a reply must be, if it arrived; none: nobody knows.
    pub(super) fn after(&self, reply: &Outgoing) -> Option<i64> {
        let begun = self.begun.iter().find(|(key, _)| *key == reply.key).map(|&(_, row)| row);
        begun.max(protocol::answered_row(reply))
    }

    /// The row that is this reply, said after that row; none: there is none among these.
    pub(super) fn find(&self, reply: &Outgoing, after: i64, rows: &[Message]) -> Option<i64> {
        let is_another =
            |row| self.known.iter().any(|(key, known)| *known == row && *key != reply.key);
        let said = rows.iter().filter(|row| row.says(&reply.text, after));
        said.map(|row| row.rowid).find(|&row| !is_another(row))
    }
}

fn remember(all: &mut VecDeque<(String, i64)>, key: &str, row: i64) {
    if all.len() == MEMORY {
        all.pop_front();
    }
    all.push_back((key.to_owned(), row));
}

/// Many times the replies of which it may be unknown at once whether they arrived.
const MEMORY: usize = 256;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gateway::message::{Conversation, ReplyId};

    fn reply(key: &str, answered: Option<i64>) -> Outgoing {
        Outgoing {
            id: ReplyId(1),
            conversation: Conversation::new("imessage", "7"),
            key: key.to_owned(),
            text: "ok".to_owned(),
            context: answered.map_or(json!(null), |row| json!({ "rowid": row })),
            answers: Vec::new(),
            attempt: 1,
        }
    }

    fn said(rows: &[i64]) -> Vec<Message> {
        let row = |id| json!({ "id": id, "is_from_me": true, "text": "ok " });
        protocol::messages(&json!({ "messages": rows.iter().map(row).collect::<Vec<_>>() }))
    }

    #[test]
    fn an_older_row_with_the_same_words_is_another_reply() {
        let sent = Sent::default();
        assert_eq!(sent.find(&reply("a", None), 5, &said(&[4, 5])), None);
        assert_eq!(sent.find(&reply("a", None), 5, &said(&[4, 6])), Some(6));
    }

    #[test]
    fn a_row_that_is_known_to_be_another_reply_is_not_this_one() {
        let mut sent = Sent::default();
        sent.is_in("a", 6);
        assert_eq!(sent.find(&reply("b", None), 5, &said(&[6])), None);
        assert_eq!(sent.find(&reply("b", None), 5, &said(&[6, 7])), Some(7));
        assert_eq!(sent.find(&reply("a", None), 5, &said(&[6])), Some(6));
    }

    #[test]
    fn a_reply_is_looked_for_after_its_first_try_and_after_what_it_answers() {
        let mut sent = Sent::default();
        assert_eq!(sent.after(&reply("a", None)), None);
        assert_eq!(sent.after(&reply("a", Some(3))), Some(3));
        sent.saw(8);
        sent.begin("a");
        sent.saw(9);
        sent.begin("a");
        assert_eq!(sent.after(&reply("a", None)), Some(8));
        assert_eq!(sent.after(&reply("a", Some(3))), Some(8));
    }

    #[test]
    fn what_is_remembered_of_sends_is_bounded() {
        let mut sent = Sent::default();
        (0..1000).for_each(|n| sent.begin(&n.to_string()));
        (0..1000).for_each(|n| sent.is_in(&n.to_string(), n));
        assert_eq!((sent.begun.len(), sent.known.len()), (MEMORY, MEMORY));
    }
}
