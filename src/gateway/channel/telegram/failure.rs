//! Why a call of the Bot API failed, and what that means for a reply.

use std::time::Duration;

use thiserror::Error;

use crate::gateway::channel::Delivery;

/// Why a call failed. Never holds the token.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub(super) enum Failure {
    /// The settings give no address that could be called.
    #[error("`channels.telegram.base_url` is no address of a Bot API: {0}")]
    BaseUrl(String),
    /// There was no connection: nothing was written.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The connection, or the time, ended when the call may have been written.
    #[error("cut off: {0}")]
    CutOff(String),
    /// An answer came, but not one of the Bot API: a proxy's page, say.
    #[error("the answer, of status {status}, is none of a Bot API: {why}")]
    Unreadable {
        /// The HTTP status.
        status: u16,
        /// What is wrong with it.
        why: String,
    },
    /// The Bot API said yes, and was cut off when it told more.
    #[error("done, but the answer was cut off")]
    DoneCutOff,
    /// The Bot API said no.
    #[error("{description} ({code})")]
    Refused {
        /// As an HTTP status.
        code: u16,
        /// Why, for people.
        description: String,
        /// Not to be asked again before.
        retry_after: Option<Duration>,
        /// What the chat is called now.
        migrated_to: Option<i64>,
    },
    /// What this client cannot do.
    #[error("files cannot be sent")]
    Files,
}

impl Failure {
    /// What became of a reply whose `sendMessage` failed so.
    ///
    /// - A connection that was never made has carried nothing. Once it is made, nobody can tell
    ///   how much of the call was read before it ended.
    /// - 500, 502 and 504 come from servers that had the call in hand, or had given it on: Telegram
    ///   is known to deliver and then to answer so. 503 is what a server says that did not take it.
    /// - A wrong token (401, 404) is no fault of the reply: it waits until the token is right.
    /// - All other refusals would be the same the next time: the bot was blocked, the chat is gone.
    pub(super) fn verdict(&self) -> Delivery {
        let why = self.to_string();
        match self {
            Self::DoneCutOff => Delivery::Sent(None),
            Self::CutOff(_) => Delivery::Unknown(why),
            Self::BaseUrl(_) | Self::Unreachable(_) => Delivery::NotSent { after: None, why },
            Self::Files => Delivery::Permanent(why),
            Self::Unreadable { status, .. } => match status {
                // 3xx: moved elsewhere. 4xx: a proxy's refusal, about which the Bot API knows
                // nothing: a certificate, an address.
                300..=499 | 503 => Delivery::NotSent { after: None, why },
                _ => Delivery::Unknown(why),
            },
            Self::Refused { code, retry_after, .. } => match code {
                429 => Delivery::NotSent { after: *retry_after, why },
                401 | 404 => Delivery::NotSent { after: None, why: wrong_token(&why) },
                408 | 409 | 503 => Delivery::NotSent { after: None, why },
                400..=499 => Delivery::Permanent(why),
                _ => Delivery::Unknown(why),
            },
        }
    }
}

/// What to do about a token that Telegram does not know.
pub(super) fn wrong_token(why: &str) -> String {
    format!("Telegram does not know the bot: {why}; set `channels.telegram.token`")
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    fn refused(code: u16) -> Delivery {
        let retry_after = (code == 429).then_some(Duration::from_secs(7));
        let description = "no".to_owned();
        Failure::Refused { code, description, retry_after, migrated_to: None }.verdict()
    }

    fn unreadable(status: u16) -> Delivery {
        Failure::Unreadable { status, why: "html".to_owned() }.verdict()
    }

    fn is_not_sent(delivery: &Delivery) -> bool {
        matches!(delivery, Delivery::NotSent { after: None, .. })
    }

    #[test]
    fn a_reply_is_kept_as_unknown_only_where_it_may_have_arrived() {
        for code in [500, 502, 504] {
            assert!(matches!(refused(code), Delivery::Unknown(_)), "{code}");
            assert!(matches!(unreadable(code), Delivery::Unknown(_)), "{code}");
        }
        assert!(matches!(unreadable(200), Delivery::Unknown(_)));
        assert!(matches!(Failure::CutOff(String::new()).verdict(), Delivery::Unknown(_)));
        assert!(is_not_sent(&refused(503)) && is_not_sent(&unreadable(503)));
        assert!(is_not_sent(&unreadable(302)) && is_not_sent(&unreadable(403)));
        assert!(is_not_sent(&Failure::Unreachable(String::new()).verdict()));
        assert!(is_not_sent(&Failure::BaseUrl(String::new()).verdict()));
        assert_eq!(Failure::DoneCutOff.verdict(), Delivery::Sent(None));
    }

    #[test]
    fn a_reply_that_telegram_refuses_for_good_is_permanent_and_a_wrong_token_is_not() {
        for code in [400, 403, 413] {
            assert!(matches!(refused(code), Delivery::Permanent(_)), "{code}");
        }
        for code in [401, 404] {
            let Delivery::NotSent { after: None, why } = refused(code) else { panic!("{code}") };
            assert!(why.contains("channels.telegram.token"), "{why}");
        }
    }

    #[test]
    fn too_many_requests_names_when_to_come_again() {
        let Delivery::NotSent { after, .. } = refused(429) else { panic!("429") };
        assert_eq!(after, Some(Duration::from_secs(7)));
    }
}
