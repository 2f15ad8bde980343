//! What holds in every state, whichever way it was reached.

use std::time::Duration;

use crate::protocol::{
    control::{Mode, RestartId},
    exit::{ChildExit, SpawnFailure},
};

use super::{
    asked::Step,
    event::{Event, Judgement},
    key::Key,
    laws::{Breach, Law},
    moves::SIGHTS,
    state::State,
    timer::Timer,
    world::{Node, Request, Stage},
};

impl Node {
    /// What holds in every state, of which each is looked at once.
    pub(super) fn look(&self) -> Result<(), Breach> {
        let Self { machine, world, .. } = self;
        let state = machine.state();
        let told = || format!("{machine:?}");
        // A watchdog's is no deadline of the machine's, and to forget failures there must be some.
        let is_clean = machine.failures.is_clean() && !machine.safe_mode;
        let is_own = |timer: &Timer| {
            let counts = match timer {
                Timer::Heart => false,
                Timer::Stable => is_clean,
                _ => true,
            };
            counts && machine.timers.at(*timer).is_some()
        };
        let has_deadline = Timer::ALL.iter().any(is_own);
        let may_rest = match state {
            State::Ready => machine.restart.is_none() && !machine.is_stopping(),
            State::Idle | State::Awaiting | State::Parked(_) | State::Done(_) => true,
            State::Evicting(_)
            | State::Starting
            | State::Draining(_)
            | State::Ending(..)
            | State::Sweeping(_)
            | State::Judging
            | State::Recovering
            | State::Backoff
            | State::HalfOpen => false,
        };
        Law::WaitsWithDeadline.demand(may_rest || has_deadline, told)?;
        Law::RestsWithoutDeadline.demand(!may_rest || !has_deadline, told)?;
        let is_done = matches!(state, State::Done(_));
        Law::DoneMeansExit.demand(is_done == world.left.is_some(), told)?;
        if is_done {
            return Ok(());
        }
        for (slot, request) in world.requests.iter().enumerate() {
            let id = RestartId(slot as u64);
            let open = machine.restart.iter().flat_map(|r| &r.ids).filter(|i| **i == id).count();
            let served = machine.awaited.iter().filter(|(i, _)| *i == id).count();
            let expected = match request {
                Request::Closed => (0, 0),
                Request::Open => (1, 0),
                Request::Served => (0, 1),
            };
            Law::RequestsAreKept.demand((open, served) == expected, || {
                format!("{id:?}, {request:?}, in {machine:?}")
            })?;
        }
        let step = machine.restart.as_ref().map(|restart| restart.step);
        let is_wanted = match state {
            State::Judging => !world.recovering,
            State::Recovering => !world.judging,
            _ => !world.judging && !world.recovering,
        };
        let is_checking = world.check.is_none() || step == Some(Step::Checking);
        Law::NoHookForgotten.demand(is_wanted && is_checking, told)?;
        // One that is on its way out leaves the successor to what starts next.
        let is_leaving = matches!(
            state,
            State::Sweeping(_)
                | State::Judging
                | State::Recovering
                | State::Backoff
                | State::HalfOpen
        );
        let is_used = world.stage == Stage::None || step.is_some() || is_leaving;
        Law::NoStageForgotten
            .demand(is_used && (world.stage == Stage::None || world.stops == 0), told)?;
        Law::KnownWord.demand(!state.word().is_empty(), told)
    }

    /// Facts of other generations, answers to what was not asked, and an early call change nothing,
    /// in no state; and in one that is done, nothing does.
    pub(super) fn is_deaf_to_the_stale(&self) -> Result<(), Breach> {
        let mut machine = self.machine.clone();
        let now = self.now;
        if self.world.left.is_some() {
            let (id, mode) = (RestartId(0), Mode::Auto);
            let asked = Event::RestartRequested { id, mode, force: true };
            let asked = [asked, Event::RestartWithdrawn, Event::StopRequested, Event::OrphanGone];
            asked.into_iter().for_each(|event| machine.handle_event(now, event));
            stale(machine.generation()).into_iter().for_each(|e| machine.handle_event(now, e));
            let is_over = machine.actions.is_empty() && machine.poll_timeout().is_none();
            return Law::NothingAfterExit.demand(is_over, || format!("{machine:?}"));
        }
        if machine.poll_timeout().is_none_or(|at| at > now) {
            machine.handle_timeout(now);
        }
        let present = machine.generation();
        for of in [present.wrapping_sub(1), present + 1, present + 5] {
            for event in stale(of) {
                machine.handle_event(now, event);
            }
        }
        for (generation, ok) in [(present, true), (present + 2, true), (present, false)] {
            machine.handle_event(now, Event::StageFinished { generation, ok });
        }
        machine.handle_event(now, Event::CheckFinished { id: RestartId(99), passed: false });
        let told = || format!("{:?} became {machine:?}", self.machine);
        let is_quiet = machine.actions.is_empty();
        Law::StaleFactsChangeNothing
            .demand(is_quiet && Key::of(&machine, &self.world, now, self.boot) == self.key(), told)
    }
}

/// All that can be said of a generation.
fn stale(generation: u64) -> [Event; 14] {
    let (exit, ran) = (ChildExit::Code(0), Duration::ZERO);
    [
        Event::Spawned { generation },
        Event::SpawnFailed { generation, failure: SpawnFailure::Other, boot: Duration::ZERO },
        Event::HandlersSeen { generation, handlers: SIGHTS[1] },
        Event::ReadySeen { generation },
        Event::ReloadingSeen { generation },
        Event::HeartSeen { generation },
        Event::HeartMissed { generation },
        Event::HeartTriggered { generation },
        Event::ExtendRequested { generation, by: Duration::from_secs(5) },
        Event::LeaderExited { generation, exit, ran, boot: Duration::ZERO },
        Event::LeftoverReaped { generation },
        Event::TreeEmpty { generation },
        Event::Judged { generation, judgement: Judgement::Stop },
        Event::RecoveryFinished { generation },
    ]
}
