//! What was sent, and what became of it. Pure: the peers tell it what they see, it judges.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{Mutex, MutexGuard},
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, watch};

/// A way in and out of the gateway.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Channel {
    Webhook,
    Chat,
    Telegram,
    Imessage,
}

/// A conversation of a channel, by its number.
pub(crate) type Peer = (Channel, usize);

/// All that was sent. Shared by everybody.
#[derive(Debug)]
pub(crate) struct Ledger {
    book: Mutex<Book>,
    /// For each conversation, how many messages may be sent.
    credit: BTreeMap<Peer, Semaphore>,
    /// How many messages are answered.
    answered: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Book {
    conversations: BTreeMap<Peer, Conversation>,
    /// Answers of a peer that were seen: a copy of one is no second answer.
    seen: HashSet<(Channel, String)>,
    counters: BTreeMap<&'static str, u64>,
    violations: Vec<Violation>,
    open: Vec<Probe>,
    recoveries: Vec<Recovery>,
}

#[derive(Debug, Default)]
struct Conversation {
    messages: Vec<Message>,
    /// The last message that was answered for the first time.
    last: usize,
}

#[derive(Debug)]
struct Message {
    sent: Instant,
    accepted: bool,
    answers: u32,
}

/// Something that must not be.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) what: String,
    /// The message that it concerns.
    pub(crate) message: Option<(Peer, usize)>,
}

/// A fault that no message has survived yet.
#[derive(Debug)]
struct Probe {
    fault: String,
    channel: Option<Channel>,
    since: Instant,
}

/// From a fault to the first answer to a message that was sent after it.
#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    pub(crate) fault: String,
    pub(crate) took: Duration,
}

impl Channel {
    pub(crate) const ALL: [Self; 4] = [Self::Webhook, Self::Chat, Self::Telegram, Self::Imessage];

    /// As the gateway calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Chat => "chat",
            Self::Telegram => "telegram",
            Self::Imessage => "imessage",
        }
    }

    /// Whether a reply that the gateway sends twice must arrive once.
    fn is_idempotent(self) -> bool {
        matches!(self, Self::Webhook | Self::Chat)
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a message says: `c3 n17`.
pub(crate) fn text(conversation: usize, number: usize) -> String {
    format!("c{conversation} n{number}")
}

fn read(line: &str) -> Option<(usize, usize)> {
    let (conversation, number) = line.trim().split_once(' ')?;
    Some((conversation.strip_prefix('c')?.parse().ok()?, number.strip_prefix('n')?.parse().ok()?))
}

impl Ledger {
    /// Of so many conversations a channel.
    pub(crate) fn new(conversations: usize) -> Self {
        let peers = || {
            let all = Channel::ALL.into_iter();
            all.flat_map(move |channel| (0..conversations).map(move |number| (channel, number)))
        };
        let conversations = peers().map(|peer| (peer, Conversation::default())).collect();
        let book = Book { conversations, ..Book::default() };
        Self {
            book: Mutex::new(book),
            credit: peers().map(|peer| (peer, Semaphore::new(0))).collect(),
            answered: watch::Sender::default(),
        }
    }

    pub(crate) fn peers(&self, channel: Channel) -> impl Iterator<Item = Peer> {
        self.credit.keys().copied().filter(move |(of, _)| *of == channel)
    }

    /// So many more messages may be sent, shared among all conversations.
    pub(crate) fn allow(&self, messages: usize, first: usize) {
        let peers = self.credit.len();
        for (number, credit) in self.credit.values().enumerate() {
            let place = (number + peers - first % peers) % peers;
            credit.add_permits(messages / peers + usize::from(place < messages % peers));
        }
    }

    /// The next message of a conversation, when it may be sent: its number, from 1, and its text.
    /// Cancel-safe.
    pub(crate) async fn next(&self, peer: Peer) -> (usize, String) {
        self.credit[&peer].acquire().await.expect("it is never closed").forget();
        let mut book = self.book();
        let messages = &mut book.conversation(peer).messages;
        messages.push(Message { sent: Instant::now(), accepted: false, answers: 0 });
        let number = messages.len();
        (number, text(peer.1, number))
    }

    /// The gateway has said that it has it, or whoever keeps it for the gateway has.
    pub(crate) fn accepted(&self, peer: Peer, number: usize) {
        self.book().conversation(peer).messages[number - 1].accepted = true;
    }

    /// An answer has arrived. `key` is what makes copies of it known as such.
    pub(crate) fn answered(&self, channel: Channel, key: &str, answer: &str) {
        let now = Instant::now();
        let mut book = self.book();
        if !book.seen.insert((channel, key.to_owned())) {
            *book.counters.entry("copies by key").or_default() += 1;
            return;
        }
        let lines: Vec<_> = answer.lines().map(read).collect();
        let (mut first, mut again) = (0, 0);
        for line in &lines {
            let Some((conversation, number)) = *line else {
                book.violate(format!("{channel}: an answer to nothing: {answer:?}"), None);
                return;
            };
            let peer = (channel, conversation);
            let known = book.conversations.get_mut(&peer);
            let Some(message) = known.and_then(|it| it.messages.get_mut(number - 1)) else {
                book.violate(format!("{channel}: an answer to nothing: {answer:?}"), None);
                return;
            };
            message.answers += 1;
            let (is_first, sent) = (message.answers == 1, message.sent);
            if !is_first {
                again += 1;
                continue;
            }
            first += 1;
            let before = std::mem::replace(&mut book.conversation(peer).last, number);
            if number != before + 1 {
                let what = format!("{channel} c{conversation}: n{number} answered after n{before}");
                book.violate(what, Some((peer, number)));
            }
            book.recovered(channel, sent, now);
        }
        if lines.len() > 1 {
            *book.counters.entry("answers to several at once").or_default() += 1;
        }
        if again > 0 {
            let message = lines[0].map(|(conversation, n)| ((channel, conversation), n));
            if channel.is_idempotent() || first > 0 {
                book.violate(format!("{channel}: answered twice: {answer:?} ({key})"), message);
            } else {
                *book.counters.entry("answers twice").or_default() += 1;
            }
        }
        drop(book);
        self.answered.send_modify(|count| *count += first);
    }

    /// Counts something that is no violation by itself.
    pub(crate) fn count(&self, what: &'static str) {
        *self.book().counters.entry(what).or_default() += 1;
    }

    pub(crate) fn counter(&self, what: &'static str) -> u64 {
        self.book().counters.get(what).copied().unwrap_or_default()
    }

    pub(crate) fn counters(&self) -> BTreeMap<&'static str, u64> {
        self.book().counters.clone()
    }

    /// Something is that must not be.
    pub(crate) fn violate(&self, what: impl Into<String>) {
        self.book().violate(what.into(), None);
    }

    /// A message will not be answered any more.
    pub(crate) fn lost(&self, peer: Peer, number: usize, how: &str) {
        let what = format!("{} c{} n{number}: {how}", peer.0, peer.1);
        self.book().violate(what, Some((peer, number)));
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        self.book().violations.clone()
    }

    /// How many messages were sent, and how many of them are answered.
    pub(crate) fn totals(&self) -> (usize, usize) {
        let book = self.book();
        let sent = book.conversations.values().map(|it| it.messages.len()).sum();
        (sent, *self.answered.borrow())
    }

    /// How many messages may still be sent without a further [`Self::allow`].
    pub(crate) fn unsent(&self) -> usize {
        self.credit.values().map(Semaphore::available_permits).sum()
    }

    /// Hears how many messages are answered.
    pub(crate) fn progress(&self) -> watch::Receiver<usize> {
        self.answered.subscribe()
    }

    /// Messages without an answer; whether each was accepted.
    pub(crate) fn unanswered(&self) -> Vec<(Peer, usize, bool)> {
        let book = self.book();
        let all = book.conversations.iter().flat_map(|(peer, conversation)| {
            let numbered = (1..).zip(&conversation.messages);
            numbered.map(|(number, message)| (*peer, number, message))
        });
        let open = all.filter(|(.., message)| message.answers == 0);
        open.map(|(peer, number, message)| (peer, number, message.accepted)).collect()
    }

    /// A fault has begun: the time runs until a message that is sent from now on is answered.
    pub(crate) fn begin_recovery(&self, fault: &str, channel: Option<Channel>) {
        let since = Instant::now();
        self.book().open.push(Probe { fault: fault.to_owned(), channel, since });
    }

    /// How many faults were not recovered from yet.
    pub(crate) fn recovering(&self) -> usize {
        self.book().open.len()
    }

    pub(crate) fn recoveries(&self) -> Vec<Recovery> {
        self.book().recoveries.clone()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("nobody panics with it")
    }
}

impl Book {
    fn conversation(&mut self, peer: Peer) -> &mut Conversation {
        self.conversations.get_mut(&peer).expect("all conversations are there from the start")
    }

    fn violate(&mut self, what: String, message: Option<(Peer, usize)>) {
        self.violations.push(Violation { what, message });
    }

    fn recovered(&mut self, channel: Channel, sent: Instant, now: Instant) {
        let is_over = |probe: &mut Probe| {
            probe.since <= sent && probe.channel.is_none_or(|concerned| concerned == channel)
        };
        let over: Vec<_> = self.open.extract_if(.., is_over).collect();
        self.recoveries.extend(
            over.into_iter().map(|probe| Recovery {
                took: now.duration_since(probe.since),
                fault: probe.fault,
            }),
        );
    }
}
