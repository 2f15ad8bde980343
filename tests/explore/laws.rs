//! What must hold, and how its breach is told.

use std::fmt;

/// A law, by the sentence that it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Law {
    NoPanic,
    OneChild,
    NoSpawnBesideLeftovers,
    NoSpawnAfterStop,
    NothingPreparedAfterStop,
    NotReadyAfterStop,
    NothingAfterExit,
    EveryGenerationCounts,
    WaitsWithDeadline,
    RestsWithoutDeadline,
    DoneMeansExit,
    OneVerdict,
    TrueVerdict,
    RequestsAreKept,
    ReadyOnce,
    StoppingOnce,
    StaleFactsChangeNothing,
    AskedBeforeTerm,
    TermBeforeKill,
    OnlyTheLivingAreSignalled,
    SweptAfterTheLeader,
    EveryEndIsTold,
    OneHook,
    NoHookForgotten,
    NoStageForgotten,
    MendedOnce,
    WholeForRequests,
    HungIfWatched,
    LeavesTimeToHear,
    KnownWord,
    RestIsReachable,
    StopEndsInSilence,
    DeafChildIsAnswered,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoPanic => "the machine never panics",
            Self::OneChild => "never two children",
            Self::NoSpawnBesideLeftovers => "a spawn follows only the emptied tree",
            Self::NoSpawnAfterStop => "no spawn after a stop",
            Self::NothingPreparedAfterStop => "nothing is checked or staged after a stop",
            Self::NotReadyAfterStop => "nothing is announced ready after a stop",
            Self::NothingAfterExit => "nothing follows the exit",
            Self::EveryGenerationCounts => "generations are counted one by one",
            Self::WaitsWithDeadline => "a state that waits has a deadline",
            Self::RestsWithoutDeadline => "a machine at rest is not woken",
            Self::DoneMeansExit => "done means that the exit was asked for",
            Self::OneVerdict => "an accepted request gets exactly one verdict",
            Self::TrueVerdict => "a verdict says what happened",
            Self::RequestsAreKept => "an open request is kept in exactly one place",
            Self::ReadyOnce => "READY=1 goes upstream once",
            Self::StoppingOnce => "the stop is announced exactly once, before the exit",
            Self::StaleFactsChangeNothing => {
                "a fact of another generation, or an early call, changes nothing"
            }
            Self::AskedBeforeTerm => "SIGTERM to the group follows the stop signal",
            Self::TermBeforeKill => "SIGKILL follows SIGTERM unless hurried",
            Self::OnlyTheLivingAreSignalled => "no signal to a leader that was reaped",
            Self::SweptAfterTheLeader => "a sweep follows the leader's end",
            Self::EveryEndIsTold => "each end is told once, before the next start",
            Self::OneHook => "one hook of a kind at a time",
            Self::NoHookForgotten => "no hook runs that nobody waits for",
            Self::NoStageForgotten => "no successor waits that nobody wants",
            Self::MendedOnce => "the recovery command runs once until a child was stable",
            Self::WholeForRequests => "a restart that was asked for is never one in safe mode",
            Self::HungIfWatched => "only a ready child that is watched is declared hung",
            Self::LeavesTimeToHear => "what is asked for at once ends, and the driver hears again",
            Self::KnownWord => "status has a word for it",
            Self::RestIsReachable => "from everywhere there is a way to rest, all being answered",
            Self::StopEndsInSilence => "a stop ends though nothing answers any more",
            Self::DeafChildIsAnswered => "requests are answered though only SIGKILL ends the child",
        })
    }
}

/// A law was broken.
#[derive(Clone, Debug)]
pub(super) struct Breach {
    pub(super) law: Law,
    pub(super) detail: String,
}

impl Law {
    /// A breach of this law unless `holds`.
    pub(super) fn demand(self, holds: bool, detail: impl FnOnce() -> String) -> Result<(), Breach> {
        if holds { Ok(()) } else { Err(self.breach(detail())) }
    }

    pub(super) fn breach(self, detail: String) -> Breach {
        Breach { law: self, detail }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "violated: {}\n  {}", self.law, self.detail)
    }
}
