//! Telegram: people who write to the bot, and read what it says.

use std::sync::Arc;

use crate::{
    ledger::{Channel, Ledger, Peer},
    support::telegram::Fake,
};

/// The bot's token.
pub(crate) const BOT: &str = "42:chaos";

/// Writes the messages of one chat. Telegram keeps them until the gateway has them.
pub(crate) async fn produce(ledger: Arc<Ledger>, peer: Peer, telegram: Arc<Fake>) {
    loop {
        let (number, text) = ledger.next(peer).await;
        telegram.push(chat(peer), &text);
        ledger.accepted(peer, number);
    }
}

/// Reads what is sent to all chats.
pub(crate) async fn read(ledger: Arc<Ledger>, telegram: Arc<Fake>) {
    let mut known = 0;
    loop {
        let sent = telegram.sent_beyond(known).await;
        known += sent.len();
        for message in sent {
            ledger.answered(Channel::Telegram, &message.message_id.to_string(), &message.text);
        }
    }
}

fn chat(peer: Peer) -> i64 {
    100 + i64::try_from(peer.1).expect("few")
}
