//! Whether a restart signal is honoured.
//!
//! Anyone of the same user can send a signal, and it carries no reason and no secret. Where
//! `restart.external = false`, it counts only if someone said beforehand, by a door that is
//! checked, that one will come: that is a grant. The caller logs who sent an ignored signal; here
//! it leaves no trace.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::protocol::control::Refusal;

/// At most this many grants live at once. A further one takes the place of the oldest.
pub const MAX_GRANTS: usize = 64;

/// What grants are measured by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GrantPolicy {
    /// `restart.external`: whether a signal counts without a grant. True.
    pub external: bool,
    /// How long a grant lives. 5 s.
    pub lifetime: Duration,
}

impl Default for GrantPolicy {
    fn default() -> Self {
        Self { external: true, lifetime: Duration::from_secs(5) }
    }
}

/// Who sent a restart signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SignalFrom {
    /// The supervising parent; the caller has compared the sender's process.
    Supervisor,
    /// Anyone else, or nobody knows.
    Other,
}

/// Why a signal was honoured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Authorised {
    /// The supervising parent sent it.
    BySupervisor,
    /// Signals need no grant (`restart.external = true`).
    ByPolicy,
    /// A grant was live. It is used up.
    ByGrant,
}

/// The live grants. Each allows one signal.
#[derive(Clone, Debug)]
pub struct Grants {
    policy: GrantPolicy,
    /// When each grant dies, earliest first: all live equally long.
    expiries: VecDeque<Instant>,
}

impl Grants {
    /// No grant is live.
    pub fn new(policy: GrantPolicy) -> Self {
        Self { policy, expiries: VecDeque::new() }
    }

    /// Changes whether a signal counts without a grant. Live grants stay.
    pub fn set_external(&mut self, external: bool) {
        self.policy.external = external;
    }

    /// Allows one more signal until the lifetime has passed.
    pub fn give(&mut self, now: Instant) {
        self.drop_expired(now);
        if self.expiries.len() == MAX_GRANTS {
            self.expiries.pop_front();
        }
        self.expiries.push_back(now + self.policy.lifetime);
    }

    /// Decides over one signal. Takes the oldest live grant only where nothing else allows it, so
    /// that a signal of the parent never uses up what was meant for another.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotAuthorised`] where nothing allows it; nothing has changed then.
    pub fn authorise(&mut self, now: Instant, from: SignalFrom) -> Result<Authorised, Refusal> {
        match from {
            SignalFrom::Supervisor => return Ok(Authorised::BySupervisor),
            SignalFrom::Other if self.policy.external => return Ok(Authorised::ByPolicy),
            SignalFrom::Other => {}
        }
        self.drop_expired(now);
        match self.expiries.pop_front() {
            Some(_) => Ok(Authorised::ByGrant),
            None => Err(Refusal::NotAuthorised),
        }
    }

    fn drop_expired(&mut self, now: Instant) {
        while self.expiries.front().is_some_and(|expiry| now >= *expiry) {
            self.expiries.pop_front();
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests {
    use proptest::{collection, prelude::*};

    use super::*;

    const LIFETIME: Duration = Duration::from_secs(5);

    fn closed() -> Grants {
        Grants::new(GrantPolicy { external: false, lifetime: LIFETIME })
    }

    #[test]
    fn a_signal_without_a_grant_is_refused_and_says_how_to_allow_it() {
        let refusal = closed().authorise(Instant::now(), SignalFrom::Other).unwrap_err();
        assert_eq!(refusal, Refusal::NotAuthorised);
        assert!(refusal.to_string().contains("restart.external"));
    }

    #[test]
    fn two_grants_allow_two_signals() {
        let (mut grants, now) = (closed(), Instant::now());
        grants.give(now);
        grants.give(now);
        assert_eq!(grants.authorise(now, SignalFrom::Other), Ok(Authorised::ByGrant));
        assert_eq!(grants.authorise(now, SignalFrom::Other), Ok(Authorised::ByGrant));
        assert_eq!(grants.authorise(now, SignalFrom::Other), Err(Refusal::NotAuthorised));
    }

    #[test]
    fn a_grant_dies_after_its_lifetime() {
        let (mut grants, now) = (closed(), Instant::now());
        grants.give(now);
        grants.give(now);
        let last = now + LIFETIME - Duration::from_nanos(1);
        assert_eq!(grants.authorise(last, SignalFrom::Other), Ok(Authorised::ByGrant));
        let refused = grants.authorise(now + LIFETIME, SignalFrom::Other);
        assert_eq!(refused, Err(Refusal::NotAuthorised));
    }

    #[test]
    fn the_oldest_grant_is_used_first() {
        let (mut grants, now) = (closed(), Instant::now());
        grants.give(now);
        grants.give(now + LIFETIME / 2);
        assert!(grants.authorise(now + LIFETIME / 2, SignalFrom::Other).is_ok());
        // The older one would be dead by now; the younger one is not.
        assert!(grants.authorise(now + LIFETIME, SignalFrom::Other).is_ok());
    }

    #[test]
    fn a_signal_of_the_supervising_parent_needs_no_grant_and_takes_none() {
        let (mut grants, now) = (closed(), Instant::now());
        let by_parent = grants.authorise(now, SignalFrom::Supervisor);
        assert_eq!(by_parent, Ok(Authorised::BySupervisor));
        grants.give(now);
        assert!(grants.authorise(now, SignalFrom::Supervisor).is_ok());
        assert_eq!(grants.authorise(now, SignalFrom::Other), Ok(Authorised::ByGrant));
    }

    #[test]
    fn where_signals_are_open_to_all_no_grant_is_needed_or_taken() {
        let (mut grants, now) = (Grants::new(GrantPolicy::default()), Instant::now());
        grants.give(now);
        assert_eq!(grants.authorise(now, SignalFrom::Other), Ok(Authorised::ByPolicy));
        assert_eq!(grants.expiries.len(), 1);
    }

    #[test]
    fn an_ignored_signal_leaves_no_trace() {
        let (mut grants, now) = (closed(), Instant::now());
        for _ in 0..1000 {
            assert!(grants.authorise(now, SignalFrom::Other).is_err());
        }
        grants.give(now);
        assert!(grants.authorise(now, SignalFrom::Other).is_ok());
    }

    #[test]
    fn the_sixty_fifth_grant_takes_the_place_of_the_oldest() {
        let (mut grants, now) = (closed(), Instant::now());
        grants.give(now);
        let later = now + LIFETIME / 2;
        (0..MAX_GRANTS).for_each(|_| grants.give(later));
        assert_eq!(grants.expiries.len(), MAX_GRANTS);
        assert_eq!(grants.expiries.front(), Some(&(later + LIFETIME)));
    }

    proptest! {
        /// Against a model that keeps every grant ever given and marks the used ones.
        #[test]
        fn a_signal_is_honoured_exactly_while_an_unused_grant_lives(
            steps in collection::vec((0..3000u64, any::<bool>()), 0..100),
        ) {
            let (mut grants, mut now) = (closed(), Instant::now());
            let mut given: Vec<(Instant, bool)> = Vec::new();
            for (ms, give) in steps {
                now += Duration::from_millis(ms);
                if give {
                    grants.give(now);
                    given.push((now, false));
                    continue;
                }
                let live = given.iter_mut().find(|(at, used)| !used && now < *at + LIFETIME);
                let honoured = grants.authorise(now, SignalFrom::Other).is_ok();
                prop_assert_eq!(honoured, live.is_some());
                if let Some((_, used)) = live {
                    *used = true;
                }
            }
        }
    }
}
