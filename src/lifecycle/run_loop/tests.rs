//! Each sentence of the loop's behaviour; and all that can be reached, looked at for what must
//! never be.

mod reachable;

use std::time::Duration;

use proptest::{collection, prelude::*};

use super::*;
use crate::protocol::signal::Signal;

const SUPERVISED: RespawnMode = RespawnMode::Supervised { code: 75 };
const RESTART: Event = Event::RestartRequested { restart: Restart::Respawn, haste: Haste::InTime };
const IN_PROCESS: Event =
    Event::RestartRequested { restart: Restart::InProcess, haste: Haste::InTime };
const UPDATE: Event = Event::RestartRequested { restart: Restart::Update, haste: Haste::InTime };
const STOP: Event = Event::StopRequested { by: Asker::Signal };

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ignored(restart: Restart) -> Action {
    Action::TellIgnored(Request::Restart(restart))
}

/// A loop, and the time, which stands still until it is moved.
struct Run {
    machine: RunLoop,
    now: Instant,
}

impl Run {
    /// Before anything has happened.
    fn new(respawn: RespawnMode) -> Self {
        Self { machine: RunLoop::new(RunPolicy::new(respawn)), now: Instant::now() }
    }

    /// Serving in its first iteration.
    fn serving(respawn: RespawnMode) -> Self {
        let mut run = Self::new(respawn);
        run.tell(Event::LockAcquired);
        run.tell(Event::Started { iteration: 1 });
        run
    }

    /// A later iteration did not start.
    fn stranded(respawn: RespawnMode) -> Self {
        let mut run = Self::serving(respawn);
        run.tell(IN_PROCESS);
        run.leave(Drained::Clean);
        assert_eq!(
            run.tell(Event::StartFailed { iteration: 2 }),
            [Action::ReleaseLock],
            "the lock is given back, and nothing more"
        );
        run
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        self.machine.handle_event(self.now, event);
        self.actions()
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.machine.poll_action()).collect()
    }

    /// The drain is over and the server closed: what follows.
    fn leave(&mut self, drained: Drained) -> Vec<Action> {
        let iteration = self.machine.iteration();
        let close = self.tell(Event::DrainDone { iteration, drained });
        assert_eq!(close, [Action::CloseServer { iteration }]);
        self.tell(Event::Closed { iteration })
    }

    /// Sleeps until the machine wants to be woken.
    fn sleep(&mut self) -> Vec<Action> {
        self.now = self.machine.poll_timeout().expect("somebody waits for a time");
        self.machine.handle_timeout(self.now);
        self.actions()
    }

    fn drain(&self, goal: Goal, grace: Duration) -> Action {
        let (iteration, haste) = (self.machine.iteration(), Haste::InTime);
        Action::BeginDrain { iteration, goal, haste, deadline: self.now + grace }
    }
}

#[test]
fn a_drain_that_was_called_off_serves_on_and_says_so_where_it_had_said_otherwise() {
    let mut run = Run::serving(SUPERVISED);
    run.tell(RESTART);
    assert_eq!(run.tell(Event::DrainCalledOff { iteration: 1 }), []);
    assert_eq!(run.machine.state(), State::Serving);
    assert_eq!(run.machine.poll_timeout(), None);
    run.tell(IN_PROCESS);
    assert_eq!(run.tell(Event::DrainCalledOff { iteration: 1 }), [Action::TellReady]);
    assert_eq!(run.tell(Event::DrainCalledOff { iteration: 1 }), [], "twice");
}

#[test]
fn a_stop_that_came_while_the_drain_was_called_off_drains_again() {
    let mut run = Run::serving(SUPERVISED);
    run.tell(RESTART);
    let turned = run.tell(STOP);
    let [Action::TurnIntoStop { deadline }] = turned[..] else { panic!("{turned:?}") };
    let (goal, haste) = (Goal::Stop, Haste::InTime);
    let again = run.tell(Event::DrainCalledOff { iteration: 1 });
    assert_eq!(again, [Action::BeginDrain { iteration: 1, goal, haste, deadline }]);
}

#[test]
fn the_lock_is_taken_before_the_server_starts() {
    let mut run = Run::new(RespawnMode::Spawned);
    assert_eq!(run.actions(), [Action::AcquireLock]);
    assert_eq!(run.tell(Event::LockAcquired), [Action::Start { iteration: 1 }]);
    assert_eq!(run.tell(Event::Started { iteration: 1 }), [Action::TellReady]);
    assert_eq!(run.machine.state(), State::Serving);
}

#[test]
fn no_lock_is_taken_or_given_where_the_parent_holds_it() {
    let policy = RunPolicy { lock: LockHolder::Parent, ..RunPolicy::new(RespawnMode::Spawned) };
    let mut run = Run { machine: RunLoop::new(policy), now: Instant::now() };
    assert_eq!(run.actions(), [Action::Start { iteration: 1 }]);
    run.tell(Event::Started { iteration: 1 });
    run.tell(RESTART);
    assert_eq!(run.leave(Drained::Clean), [Action::SpawnSuccessor]);
    assert_eq!(
        run.tell(Event::SpawnFailed),
        [
            Action::TellReloading,
            Action::ResetIteration { iteration: 2 },
            Action::Start { iteration: 2 }
        ]
    );
}

#[test]
fn a_request_is_waited_for_then_drained_then_closed() {
    let mut run = Run::serving(SUPERVISED);
    assert_eq!(run.machine.poll_timeout(), None);
    let drain = run.drain(Goal::Restart(Restart::Respawn), s(90));
    assert_eq!(run.tell(RESTART), [drain]);
    let done = Event::DrainDone { iteration: 1, drained: Drained::Clean };
    assert_eq!(run.tell(done), [Action::CloseServer { iteration: 1 }]);
    assert_eq!(run.machine.state(), State::Closing(Goal::Restart(Restart::Respawn)));
}

#[test]
fn a_supervised_restart_gives_the_lock_back_and_exits_75() {
    let mut run = Run::serving(SUPERVISED);
    run.tell(RESTART);
    assert_eq!(run.leave(Drained::Clean), [Action::ReleaseLock, Action::Exit(75)]);
}

#[test]
fn a_supervised_restart_exits_0_where_it_is_set_so() {
    let mut run = Run::serving(RespawnMode::Supervised { code: 0 });
    run.tell(RESTART);
    assert_eq!(run.leave(Drained::Clean), [Action::ReleaseLock, Action::Exit(0)]);
}

#[test]
fn the_lock_is_released_before_the_successor_is_spawned_and_then_exit_0() {
    let mut run = Run::serving(RespawnMode::Spawned);
    run.tell(RESTART);
    assert_eq!(run.leave(Drained::Clean), [Action::ReleaseLock, Action::SpawnSuccessor]);
    assert_eq!(run.tell(Event::SuccessorSpawned { pid: 7 }), [Action::Exit(0)]);
}

#[test]
fn a_disabled_respawn_restarts_in_process_and_keeps_the_lock() {
    let mut run = Run::serving(RespawnMode::Disabled);
    let drain = run.drain(Goal::Restart(Restart::Respawn), s(90));
    assert_eq!(run.tell(RESTART), [Action::TellReloading, drain]);
    assert_eq!(
        run.leave(Drained::Clean),
        [Action::ResetIteration { iteration: 2 }, Action::Start { iteration: 2 }]
    );
    assert_eq!(run.tell(Event::Started { iteration: 2 }), [Action::TellReady]);
}

#[test]
fn a_failed_spawn_takes_the_lock_again_and_restarts_in_process() {
    let mut run = Run::serving(RespawnMode::Spawned);
    run.tell(RESTART);
    run.leave(Drained::Clean);
    assert_eq!(run.tell(Event::SpawnFailed), [Action::TellReloading, Action::AcquireLock]);
    assert_eq!(
        run.tell(Event::LockAcquired),
        [Action::ResetIteration { iteration: 2 }, Action::Start { iteration: 2 }]
    );
    assert_eq!(run.tell(Event::Started { iteration: 2 }), [Action::TellReady]);
}

#[test]
fn a_lock_that_cannot_be_had_again_exits_1() {
    let mut run = Run::serving(RespawnMode::Spawned);
    run.tell(RESTART);
    run.leave(Drained::Clean);
    run.tell(Event::SpawnFailed);
    assert_eq!(run.tell(Event::LockFailed), [Action::Exit(1)]);

    let mut first = Run::new(RespawnMode::Spawned);
    first.actions();
    assert_eq!(first.tell(Event::LockFailed), [Action::Exit(1)]);
}

#[test]
fn a_start_that_fails_the_first_time_exits_1() {
    for meanwhile in [None, Some(STOP), Some(RESTART)] {
        let mut run = Run::new(RespawnMode::Disabled);
        run.tell(Event::LockAcquired);
        if let Some(event) = meanwhile {
            assert!(run.tell(event).is_empty());
        }
        let end = [Action::ReleaseLock, Action::Exit(1)];
        assert_eq!(run.tell(Event::StartFailed { iteration: 1 }), end);
    }
}

#[test]
fn a_later_start_that_fails_gives_the_lock_back_and_waits_for_the_next_request() {
    let run = Run::stranded(SUPERVISED);
    assert_eq!(run.machine.state(), State::Stranded);
    assert_eq!(run.machine.poll_timeout(), None);
}

#[test]
fn a_restart_after_a_failed_start_tries_again() {
    let mut run = Run::stranded(SUPERVISED);
    assert_eq!(run.tell(IN_PROCESS), [Action::AcquireLock], "RELOADING=1 stands already");
    assert_eq!(
        run.tell(Event::LockAcquired),
        [Action::ResetIteration { iteration: 3 }, Action::Start { iteration: 3 }]
    );
    assert_eq!(run.tell(Event::Started { iteration: 3 }), [Action::TellReady]);

    let by_mode = |mode| Run::stranded(mode).tell(RESTART);
    assert_eq!(by_mode(SUPERVISED), [Action::Exit(75)]);
    assert_eq!(by_mode(RespawnMode::Spawned), [Action::SpawnSuccessor]);
    assert_eq!(by_mode(RespawnMode::Disabled), [Action::AcquireLock]);
}

#[test]
fn a_stop_after_a_failed_start_exits_0() {
    assert_eq!(Run::stranded(RespawnMode::Disabled).tell(STOP), [Action::Exit(0)]);
}

#[test]
fn a_stop_is_forced_after_five_seconds_with_code_0() {
    let mut run = Run::serving(SUPERVISED);
    let asked = run.now;
    let drain = run.drain(Goal::Stop, s(4));
    assert_eq!(run.tell(STOP), [drain]);
    assert_eq!(run.sleep(), [Action::CloseServer { iteration: 1 }]);
    assert_eq!(run.sleep(), [Action::Exit(0)]);
    assert_eq!(run.now - asked, s(5));
}

#[test]
fn a_restart_is_forced_after_ninety_five_seconds_with_code_1() {
    for event in [RESTART, IN_PROCESS, UPDATE] {
        let mut run = Run::serving(SUPERVISED);
        let asked = run.now;
        run.tell(event);
        assert_eq!(run.sleep(), [Action::CloseServer { iteration: 1 }]);
        assert!(run.now - asked > s(90), "the drain may tell of its own deadline");
        assert_eq!(run.sleep(), [Action::Exit(1)]);
        assert_eq!(run.now - asked, s(95));
    }
}

#[test]
fn the_budgets_are_settings_and_no_duration_is_too_long() {
    let long = Budget { drain: Duration::MAX, close: Duration::MAX };
    let none = Budget { drain: Duration::ZERO, close: Duration::ZERO };
    let policy = RunPolicy { restart: long, stop: none, ..RunPolicy::new(SUPERVISED) };
    let mut run = Run { machine: RunLoop::new(policy), now: Instant::now() };
    run.tell(Event::LockAcquired);
    run.tell(Event::Started { iteration: 1 });
    run.tell(RESTART);
    assert!(run.machine.poll_timeout().is_some_and(|at| at > run.now + s(1_000_000_000)));
    let deadline = run.now;
    assert_eq!(
        run.tell(STOP),
        [Action::TurnIntoStop { deadline }, Action::CloseServer { iteration: 1 }, Action::Exit(0)]
    );
}

#[test]
fn a_forced_restart_of_a_bare_process_still_leaves_a_successor() {
    for answer in [Event::SuccessorSpawned { pid: 7 }, Event::SpawnFailed] {
        let mut run = Run::serving(RespawnMode::Spawned);
        run.tell(RESTART);
        run.sleep();
        assert_eq!(run.sleep(), [Action::ReleaseLock, Action::SpawnSuccessor]);
        assert_eq!(run.tell(answer), [Action::Exit(1)]);
    }
}

#[test]
fn a_restart_that_cut_work_exits_1_and_a_stop_0() {
    for (respawn, event, code) in [(SUPERVISED, RESTART, 1), (SUPERVISED, STOP, 0)] {
        let mut run = Run::serving(respawn);
        run.tell(event);
        assert_eq!(run.leave(Drained::Cut), [Action::ReleaseLock, Action::Exit(code)]);
    }
    let mut bare = Run::serving(RespawnMode::Spawned);
    bare.tell(RESTART);
    bare.leave(Drained::Cut);
    assert_eq!(bare.tell(Event::SuccessorSpawned { pid: 7 }), [Action::Exit(1)]);
}

#[test]
fn what_is_asked_during_shutdown_is_logged_and_ignored() {
    let mut run = Run::serving(SUPERVISED);
    run.tell(STOP);
    for (event, restart) in
        [(RESTART, Restart::Respawn), (IN_PROCESS, Restart::InProcess), (UPDATE, Restart::Update)]
    {
        assert_eq!(run.tell(event), [ignored(restart)]);
    }
    let mut run = Run::serving(SUPERVISED);
    run.tell(RESTART);
    assert_eq!(run.tell(RESTART), [ignored(Restart::Respawn)]);
    assert_eq!(run.tell(IN_PROCESS), [ignored(Restart::InProcess)]);
    assert_eq!(run.leave(Drained::Clean), [Action::ReleaseLock, Action::Exit(75)]);
}

#[test]
fn a_stop_overrides_a_restart_and_takes_no_longer_than_either() {
    let mut run = Run::serving(SUPERVISED);
    let asked = run.now;
    run.tell(RESTART);
    run.now += s(60);
    assert_eq!(run.tell(STOP), [Action::TurnIntoStop { deadline: asked + s(64) }]);
    assert_eq!(run.leave(Drained::Cut), [Action::ReleaseLock, Action::Exit(0)]);

    let mut late = Run::serving(SUPERVISED);
    let asked = late.now;
    late.tell(RESTART);
    late.now += s(89);
    assert_eq!(late.tell(STOP), [Action::TurnIntoStop { deadline: asked + s(90) }]);
    late.sleep();
    assert_eq!(late.sleep(), [Action::Exit(0)]);
    assert_eq!(late.now - asked, s(94));
}

#[test]
fn a_stop_overrides_a_restart_that_closes_already() {
    let mut run = Run::serving(RespawnMode::Disabled);
    run.tell(RESTART);
    run.tell(Event::DrainDone { iteration: 1, drained: Drained::Clean });
    assert!(run.tell(STOP).is_empty());
    assert_eq!(run.tell(Event::Closed { iteration: 1 }), [Action::ReleaseLock, Action::Exit(0)]);
}

#[test]
fn a_stop_while_a_successor_is_spawned_stops_the_successor() {
    let mut run = Run::serving(RespawnMode::Spawned);
    run.tell(RESTART);
    run.leave(Drained::Clean);
    assert!(run.tell(STOP).is_empty());
    assert_eq!(
        run.tell(Event::SuccessorSpawned { pid: 7 }),
        [Action::StopSuccessor { pid: 7 }, Action::Exit(0)]
    );
}

#[test]
fn a_second_stop_signal_forces_the_drain_and_a_third_is_ignored() {
    let mut run = Run::serving(SUPERVISED);
    run.tell(STOP);
    let by_program = Event::StopRequested { by: Asker::Program };
    assert_eq!(run.tell(by_program), [Action::TellIgnored(Request::Stop)]);
    assert_eq!(run.tell(STOP), [Action::ForceDrain]);
    assert_eq!(run.tell(STOP), [Action::TellIgnored(Request::Stop)]);
    assert_eq!(run.leave(Drained::Cut), [Action::ReleaseLock, Action::Exit(0)]);
}

#[test]
fn an_update_raises_an_in_process_restart_to_a_new_process() {
    let mut run = Run::serving(SUPERVISED);
    run.tell(IN_PROCESS);
    assert!(run.tell(UPDATE).is_empty());
    assert_eq!(run.tell(RESTART), [ignored(Restart::Respawn)]);
    assert_eq!(run.leave(Drained::Clean), [Action::ReleaseLock, Action::Exit(75)]);

    let mut closing = Run::serving(SUPERVISED);
    closing.tell(IN_PROCESS);
    closing.tell(Event::DrainDone { iteration: 1, drained: Drained::Clean });
    closing.tell(UPDATE);
    let left = closing.tell(Event::Closed { iteration: 1 });
    assert_eq!(left, [Action::ReleaseLock, Action::Exit(75)]);
}

#[test]
fn an_in_process_restart_says_reloading_at_its_start_and_ready_when_it_is_up() {
    let mut run = Run::serving(SUPERVISED);
    let drain = run.drain(Goal::Restart(Restart::InProcess), s(90));
    assert_eq!(run.tell(IN_PROCESS), [Action::TellReloading, drain]);
    // Work that was cut does not keep it from coming back.
    assert_eq!(
        run.leave(Drained::Cut),
        [Action::ResetIteration { iteration: 2 }, Action::Start { iteration: 2 }]
    );
    assert_eq!(run.tell(Event::Started { iteration: 2 }), [Action::TellReady]);
    assert_eq!(run.tell(IN_PROCESS)[0], Action::TellReloading, "and so the next time");
}

#[test]
fn a_signal_asks_what_the_contract_says() {
    let asked = |signal| Event::from_signal(signal);
    assert_eq!(asked(Signal::Term), Some(STOP));
    assert_eq!(asked(Signal::Int), Some(STOP));
    assert_eq!(asked(Signal::Usr1), Some(RESTART));
    assert_eq!(asked(Signal::Usr2), Some(IN_PROCESS));
    assert_eq!(asked(Signal::Hup), None);
    assert_eq!(asked(Signal::Winch), None);
}

#[test]
fn what_is_asked_during_a_start_begins_when_it_is_over() {
    let mut run = Run::new(SUPERVISED);
    run.tell(Event::LockAcquired);
    assert!(run.tell(IN_PROCESS).is_empty());
    assert_eq!(run.tell(IN_PROCESS), [ignored(Restart::InProcess)]);
    assert!(run.tell(UPDATE).is_empty());
    run.now += s(20);
    let drain = run.drain(Goal::Restart(Restart::Update), s(90));
    assert_eq!(run.tell(Event::Started { iteration: 1 }), [drain], "and nobody was told ready");
}

#[test]
fn a_stop_during_a_slow_start_is_not_held_up_by_it() {
    let mut run = Run::new(SUPERVISED);
    run.tell(Event::LockAcquired);
    let asked = run.now;
    run.tell(RESTART);
    run.tell(STOP);
    assert_eq!(run.tell(RESTART), [ignored(Restart::Respawn)]);
    assert_eq!(run.sleep(), [Action::Exit(0)]);
    assert_eq!(run.now - asked, s(5));

    let mut twice = Run::new(SUPERVISED);
    twice.tell(Event::LockAcquired);
    twice.tell(STOP);
    assert_eq!(twice.tell(STOP), [Action::Exit(0)]);

    let mut in_time = Run::new(SUPERVISED);
    in_time.tell(Event::LockAcquired);
    in_time.tell(STOP);
    let drain = in_time.drain(Goal::Stop, s(4));
    in_time.now += s(1);
    assert_eq!(in_time.tell(Event::Started { iteration: 1 }), [drain]);
}

#[test]
fn a_restart_during_a_start_that_fails_tries_again() {
    let mut run = Run::serving(RespawnMode::Disabled);
    run.tell(RESTART);
    run.leave(Drained::Clean);
    run.tell(RESTART);
    let again = run.tell(Event::StartFailed { iteration: 2 });
    assert_eq!(again, [Action::ReleaseLock, Action::AcquireLock]);
    assert_eq!(run.machine.iteration(), 3);
}

#[test]
fn an_update_is_not_lost_while_the_lock_is_waited_for() {
    let mut run = Run::new(SUPERVISED);
    run.actions();
    assert_eq!(run.tell(RESTART), [ignored(Restart::Respawn)], "the start serves it");
    assert!(run.tell(UPDATE).is_empty());
    run.tell(Event::LockAcquired);
    run.tell(Event::Started { iteration: 1 });
    assert_eq!(run.machine.state(), State::Draining(Goal::Restart(Restart::Update)));
}

#[test]
fn a_server_that_ends_by_itself_is_drained_and_the_process_exits_1() {
    let mut run = Run::serving(SUPERVISED);
    let drain = run.drain(Goal::Fail, s(4));
    assert_eq!(run.tell(Event::ServerEnded { iteration: 1 }), [drain]);
    assert_eq!(run.tell(RESTART), [ignored(Restart::Respawn)]);
    assert_eq!(run.leave(Drained::Clean), [Action::ReleaseLock, Action::Exit(1)]);
}

#[test]
fn a_late_word_of_an_old_iteration_changes_nothing() {
    let mut run = Run::serving(RespawnMode::Disabled);
    run.tell(RESTART);
    run.sleep();
    run.tell(Event::Closed { iteration: 1 });
    run.tell(Event::Started { iteration: 2 });
    run.tell(RESTART);
    for late in [
        Event::DrainDone { iteration: 1, drained: Drained::Clean },
        Event::Closed { iteration: 1 },
        Event::ServerEnded { iteration: 1 },
        Event::Started { iteration: 1 },
    ] {
        assert!(run.tell(late).is_empty(), "{late:?}");
        assert_eq!(run.machine.state(), State::Draining(Goal::Restart(Restart::Respawn)));
    }
}

#[test]
fn haste_is_handed_on_to_the_drain() {
    let mut run = Run::serving(SUPERVISED);
    let haste = Haste::Force;
    let actions = run.tell(Event::RestartRequested { restart: Restart::Respawn, haste });
    assert!(matches!(actions[..], [Action::BeginDrain { haste: Haste::Force, .. }]));
}

proptest! {
    #[test]
    fn no_order_of_facts_and_times_breaks_it(
        steps in collection::vec((any::<prop::sample::Index>(), -2_000i64..60_000), 0..200),
        respawn in 0..3usize,
    ) {
        let modes = [SUPERVISED, RespawnMode::Spawned, RespawnMode::Disabled];
        let mut run = Run::new(modes[respawn]);
        let start = run.now + s(1_000_000);
        let mut millis = 0i64;
        let mut exits = 0;
        for (which, delta) in steps {
            // Also backwards.
            millis = (millis + delta).max(0);
            run.now = start + Duration::from_millis(millis.unsigned_abs());
            let iteration = run.machine.iteration();
            let events = reachable::alphabet(iteration);
            for action in run.tell(*which.get(&events)) {
                prop_assert_eq!(exits, 0, "nothing follows an exit");
                exits += u32::from(matches!(action, Action::Exit(_)));
            }
        }
    }
}
