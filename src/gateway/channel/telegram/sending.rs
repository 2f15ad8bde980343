//! A reply on its way, in as many messages as it takes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use super::{
    api::{Api, Place},
    failure::Failure,
    split,
    update::place_of,
};
use crate::gateway::{channel::Delivery, message::Outgoing};

/// What the present life of the gateway knows of its sending.
#[derive(Debug, Default)]
pub(super) struct Sending {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of replies that were sent in part, by their key: how many messages of each. The oldest are
    /// forgotten: their replies were given up long ago.
    partly: VecDeque<(String, usize)>,
    /// What chats are called now.
    migrated: HashMap<i64, i64>,
}

impl Sending {
    /// Sends what was not sent of the reply yet. Dropped: the message that was on its way may be
    /// there; those before it are, and are not sent again.
    pub(super) async fn send(&self, api: &Api, reply: &Outgoing) -> Delivery {
        let Some(place) = place_of(reply) else {
            return Delivery::Permanent(format!("`{}` names no chat", reply.conversation));
        };
        let pieces = split::pieces(&reply.text);
        if pieces.is_empty() {
            return Delivery::Permanent("there is nothing to say but white space".to_owned());
        }
        let mut last = None;
        for (index, piece) in pieces.iter().enumerate().skip(self.sent_of(&reply.key)) {
            match self.say(api, place, piece).await {
                Ok(message) => last = message,
                Err(failure) => match failure.verdict() {
                    Delivery::Sent(_) => last = None,
                    ended => {
                        if matches!(ended, Delivery::Permanent(_)) {
                            self.forget(&reply.key);
                        }
                        return of_part(ended, index + 1, pieces.len());
                    }
                },
            }
            self.note_sent(&reply.key, index + 1);
        }
        self.forget(&reply.key);
        Delivery::Sent(last)
    }

    /// Says it where the chat is now. A group that has become a supergroup has another id.
    async fn say(&self, api: &Api, place: Place, text: &str) -> Result<Option<String>, Failure> {
        let chat = self.with(|state| state.migrated.get(&place.chat).copied());
        let place = Place { chat: chat.unwrap_or(place.chat), ..place };
        let said = api.say(place, text).await;
        let Err(Failure::Refused { migrated_to: Some(chat), .. }) = said else { return said };
        self.with(|state| {
            // Those that lead to where nobody is any more lead further.
            state.migrated.values_mut().filter(|to| **to == place.chat).for_each(|to| *to = chat);
            state.migrated.insert(place.chat, chat);
        });
        // Refused, and so not said.
        api.say(Place { chat, ..place }, text).await
    }

    fn sent_of(&self, key: &str) -> usize {
        self.with(|state| {
            state.partly.iter().find(|(of, _)| of == key).map_or(0, |(_, sent)| *sent)
        })
    }

    fn note_sent(&self, key: &str, sent: usize) {
        self.forget(key);
        self.with(|state| {
            if state.partly.len() == MOST_PARTLY {
                state.partly.pop_front();
            }
            state.partly.push_back((key.to_owned(), sent));
        });
    }

    fn forget(&self, key: &str) {
        self.with(|state| state.partly.retain(|(of, _)| of != key));
    }

    fn with<T>(&self, use_: impl FnOnce(&mut State) -> T) -> T {
        use_(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Names the message of several that was not sent.
fn of_part(ended: Delivery, part: usize, parts: usize) -> Delivery {
    if parts == 1 {
        return ended;
    }
    let told = |why: String| format!("part {part} of {parts}: {why}");
    match ended {
        Delivery::Sent(id) => Delivery::Sent(id),
        Delivery::NotSent { after, why } => Delivery::NotSent { after, why: told(why) },
        Delivery::Unknown(why) => Delivery::Unknown(told(why)),
        Delivery::Permanent(why) => Delivery::Permanent(told(why)),
    }
}

/// How many replies are remembered that were sent in part.
const MOST_PARTLY: usize = 1024;
