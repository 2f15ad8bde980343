//! What always holds, looked for a counter-example.

use std::time::Duration;

use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    hand::{ABSENT, CAUGHT, Hand, UNKNOWN, ms, secs},
    world::{Overtaken, World, stop_bound},
};
use crate::{
    protocol::{
        control::{Mode, RestartId, Verdict},
        exit::{ChildExit, SpawnFailure},
    },
    supervisor::{
        event::{Action, Event, Judgement},
        policy::{HeartVia, LimitThen, Orphan, Park, Policy, ReadyVia, Respawn},
        state::State,
    },
};

/// Something that happens in the world.
#[derive(Clone, Debug)]
enum Op {
    Ask {
        mode: Mode,
        force: bool,
    },
    Withdraw,
    Stop,
    Exit(ChildExit),
    SayReady,
    SayReloading,
    Beat,
    Trigger,
    Extend,
    Deliver(usize),
    Tick,
    Pass(u64),
    Oversleep(u64),
    /// A fact of a child that is no more, or not yet: so many generations away.
    Stray {
        off: i8,
        event: Event,
    },
}

fn apply(world: &mut World, op: Op) {
    match op {
        Op::Ask { mode, force } => world.ask(mode, force),
        Op::Withdraw => world.tell(Event::RestartWithdrawn),
        Op::Stop => world.stop(),
        Op::Exit(exit) => world.child_exits(exit),
        Op::SayReady => world.child_says(|generation| Event::ReadySeen { generation }),
        Op::SayReloading => world.child_says(|generation| Event::ReloadingSeen { generation }),
        Op::Beat => world.child_says(|generation| Event::HeartSeen { generation }),
        Op::Trigger => world.child_says(|generation| Event::HeartTriggered { generation }),
        Op::Extend => {
            world.child_says(|generation| Event::ExtendRequested { generation, by: secs(60) });
        }
        Op::Deliver(which) => world.deliver(which),
        Op::Tick => world.tick(),
        Op::Pass(time) => world.pass(ms(time)),
        Op::Oversleep(time) => world.oversleep(ms(time)),
        Op::Stray { off, event } => {
            let Some(generation) = world.machine.generation().checked_add_signed(off.into()) else {
                return;
            };
            let before = format!("{:?}", world.machine);
            world.machine.handle_event(world.now, about(event, generation));
            assert_eq!(format!("{:?}", world.machine), before, "{event:?} changed something");
        }
    }
}

fn durations() -> impl Strategy<Value = Duration> {
    select(vec![ms(0), ms(1), ms(30), secs(1), secs(7), secs(90)])
}

fn policies() -> impl Strategy<Value = Policy> {
    let ready = (
        select(vec![ReadyVia::Auto, ReadyVia::Notify, ReadyVia::Probe, ReadyVia::Spawned]),
        // Less than `ALIVE_FOR` would make `Auto` a loop.
        select(vec![secs(2), secs(90)]),
    );
    let stop = (durations(), durations(), durations());
    let restart = (any::<bool>(), any::<bool>(), durations(), durations());
    let exits = (any::<bool>(), any::<bool>(), durations());
    let backoff = (durations(), durations(), durations());
    let limit = (0..5u32, any::<bool>(), select(vec![secs(1), secs(90)]), any::<bool>());
    let recovery = (0..4u32, 0..4u32, any::<bool>(), any::<bool>());
    let heart = (
        select(vec![HeartVia::None, HeartVia::Notify, HeartVia::Probe]),
        select(vec![ms(1), secs(7)]),
        0..3u32,
        durations(),
    );
    (ready, stop, restart, exits, backoff, limit, recovery, heart).prop_map(
        |(ready, stop, restart, exits, backoff, limit, recovery, heart)| {
            let mut policy = Policy::default();
            (policy.recovery.command_after, policy.recovery.safe_mode_after) =
                (recovery.0, recovery.1);
            policy.orphan = if recovery.2 { Orphan::Wait } else { Orphan::End };
            policy.limit.kills = recovery.3;
            (policy.watchdog.via, policy.watchdog.interval) = (heart.0, heart.1);
            (policy.watchdog.failures, policy.watchdog.grace) = (heart.2, heart.3);
            (policy.ready.via, policy.ready.timeout) = ready;
            (policy.stop.grace, policy.stop.kill_after, policy.stop.hold) = stop;
            let respawn = if restart.0 { Respawn::InProcess } else { Respawn::Fresh };
            policy.restart.respawn = respawn;
            policy.restart.check = restart.1;
            (policy.restart.grace, policy.restart.check_timeout) = (restart.2, restart.3);
            (policy.exits.judged, policy.recovery.command) = (exits.0, exits.1);
            (policy.exits.judge_timeout, policy.recovery.timeout) = (exits.2, exits.2);
            (policy.backoff.initial, policy.backoff.max) = (backoff.0, backoff.1);
            policy.backoff.reset_after = backoff.2;
            policy.limit.burst = limit.0;
            policy.limit.then = if limit.1 { LimitThen::Park } else { LimitThen::HalfOpen };
            policy.limit.retry = limit.2;
            policy.park = if limit.3 { Park::Stay } else { Park::Exit };
            policy
        },
    )
}

fn modes() -> impl Strategy<Value = Mode> {
    select(vec![Mode::Auto, Mode::InProcess])
}

fn exits() -> impl Strategy<Value = ChildExit> {
    select(vec![
        ChildExit::Code(0),
        ChildExit::Code(1),
        ChildExit::Code(75),
        ChildExit::Code(78),
        ChildExit::Code(79),
        ChildExit::Signal(9),
        ChildExit::Signal(15),
        ChildExit::Unknown,
    ])
}

/// Any fact at all, possible or not; those of a child get their generation by [`about`].
fn facts() -> impl Strategy<Value = Event> {
    let generation = 0;
    let lived = (durations(), durations());
    let fixed = vec![
        Event::Started { orphan: false },
        Event::Started { orphan: true },
        Event::OrphanGone,
        Event::RestartWithdrawn,
        Event::StopRequested,
        Event::CheckFinished { id: RestartId(1), passed: true },
        Event::CheckFinished { id: RestartId(1), passed: false },
        Event::StageFinished { generation, ok: true },
        Event::StageFinished { generation, ok: false },
    ];
    prop_oneof![
        4 => child_facts(),
        2 => (exits(), lived).prop_map(move |(exit, (ran, boot))| {
            Event::LeaderExited { generation, exit, ran, boot }
        }),
        4 => select(fixed),
        2 => (0..4u64, modes(), any::<bool>()).prop_map(|(id, mode, force)| {
            Event::RestartRequested { id: RestartId(id), mode, force }
        }),
    ]
}

fn child_facts() -> impl Strategy<Value = Event> {
    let generation = 0;
    let failed = |failure| Event::SpawnFailed { generation, failure, boot: secs(1) };
    let seen = |handlers| Event::HandlersSeen { generation, handlers };
    let judged = |judgement| Event::Judged { generation, judgement };
    select(vec![
        Event::Spawned { generation },
        Event::Spawned { generation },
        Event::ReadySeen { generation },
        Event::ReloadingSeen { generation },
        Event::HeartSeen { generation },
        Event::HeartMissed { generation },
        Event::HeartUnknown { generation },
        Event::HeartTriggered { generation },
        Event::ExtendRequested { generation, by: secs(60) },
        Event::LeftoverReaped { generation },
        Event::TreeEmpty { generation },
        Event::RecoveryFinished { generation },
        failed(SpawnFailure::NotFound),
        failed(SpawnFailure::NoResources),
        seen(CAUGHT),
        seen(ABSENT),
        seen(UNKNOWN),
        judged(Judgement::Stop),
        judged(Judgement::Restart),
        Event::LeaderExited { generation, exit: ChildExit::Code(0), ran: secs(1), boot: secs(2) },
    ])
}

/// The same fact, about another child.
fn about(mut event: Event, of: u64) -> Event {
    match &mut event {
        Event::Spawned { generation }
        | Event::SpawnFailed { generation, .. }
        | Event::HandlersSeen { generation, .. }
        | Event::ReadySeen { generation }
        | Event::ReloadingSeen { generation }
        | Event::HeartSeen { generation }
        | Event::HeartMissed { generation }
        | Event::HeartUnknown { generation }
        | Event::HeartTriggered { generation }
        | Event::ExtendRequested { generation, .. }
        | Event::LeaderExited { generation, .. }
        | Event::LeftoverReaped { generation }
        | Event::TreeEmpty { generation }
        | Event::StageFinished { generation, .. }
        | Event::Judged { generation, .. }
        | Event::RecoveryFinished { generation } => *generation = of,
        Event::Started { .. }
        | Event::OrphanGone
        | Event::RestartRequested { .. }
        | Event::RestartWithdrawn
        | Event::StopRequested
        | Event::CheckFinished { .. } => {}
    }
    event
}

fn ops() -> impl Strategy<Value = Op> {
    let times = select(vec![0, 1, 25, 999, 5_000, 60_000]);
    prop_oneof![
        4 => (modes(), any::<bool>()).prop_map(|(mode, force)| Op::Ask { mode, force }),
        1 => Just(Op::Withdraw),
        1 => Just(Op::Stop),
        3 => exits().prop_map(Op::Exit),
        3 => Just(Op::SayReady),
        1 => Just(Op::SayReloading),
        1 => Just(Op::Beat),
        1 => Just(Op::Trigger),
        1 => Just(Op::Extend),
        4 => any::<usize>().prop_map(Op::Deliver),
        6 => Just(Op::Tick),
        2 => times.clone().prop_map(Op::Pass),
        1 => times.prop_map(Op::Oversleep),
        1 => (select(vec![-2, -1, 1, 5]), child_facts())
            .prop_map(|(off, event)| Op::Stray { off, event }),
    ]
}

/// How a world came to where it is.
#[derive(Clone, Debug)]
struct Life {
    policy: Policy,
    tape: Vec<u8>,
    orphan: bool,
    ops: Vec<Op>,
}

impl Life {
    fn live(self) -> World {
        let mut world = World::new(self.policy, self.tape);
        world.begin(self.orphan);
        for op in self.ops {
            apply(&mut world, op);
        }
        world
    }
}

fn lives() -> impl Strategy<Value = Life> {
    let orphan = prop::bool::weighted(0.1);
    (policies(), vec(any::<u8>(), 0..200), orphan, vec(ops(), 0..100))
        .prop_map(|(policy, tape, orphan, ops)| Life { policy, tape, orphan, ops })
}

proptest! {
    // Two children, a spawn after a stop, a missing deadline, a second verdict, a wrong READY=1:
    // the world asserts against all of them at every step.
    #[test]
    fn every_accepted_request_gets_exactly_one_verdict(life in lives()) {
        let mut world = life.live();
        world.come_to_rest();
        let unanswered: Vec<_> =
            world.asked.iter().filter(|(_, asked)| asked.verdict.is_none()).collect();
        prop_assert!(unanswered.is_empty(), "{unanswered:?} in {:?}", world.machine);
    }

    #[test]
    fn a_stop_in_any_state_ends_in_time_even_if_nothing_ever_answers_again(
        life in lives(),
    ) {
        let bound = stop_bound(&life.policy);
        let mut world = life.live();
        world.frozen = true;
        let since = world.now;
        world.stop();
        while world.left.is_none() {
            prop_assert!(world.machine.poll_timeout().is_some(), "{:?}", world.machine);
            world.tick();
        }
        prop_assert!(world.now - since <= bound, "{:?} > {bound:?}", world.now - since);
    }

    #[test]
    fn a_stop_in_any_state_wins(life in lives()) {
        let mut world = life.live();
        world.stop();
        world.come_to_rest();
        prop_assert!(world.left.is_some());
    }

    #[test]
    fn a_stop_that_overtakes_what_was_asked_for_wins(
        life in lives(),
        what in select(vec![Overtaken::Deadline, Overtaken::Late, Overtaken::Request]),
    ) {
        let mut world = life.live();
        world.stop_overtakes(what);
        world.come_to_rest();
        prop_assert!(world.left.is_some());
    }

    #[test]
    fn requests_that_come_before_the_successor_make_one_respawn(
        policy in policies(),
        joins in vec(0..6usize, 0..20),
    ) {
        let mut policy = policy;
        policy.restart.respawn = Respawn::Fresh;
        policy.restart.grace = secs(9);
        policy.restart.check_timeout = secs(9);
        policy.stop.kill_after = secs(9);
        policy.watchdog.via = HeartVia::None;
        let mut hand = Hand::idle(policy.clone());
        let mut actions = hand.tell(Event::Started { orphan: false });
        actions.extend(hand.spawned());
        actions.extend(hand.serves());
        let mut ids = 0..;
        actions.extend(hand.restart(ids.next().unwrap()));
        for step in 0..6 {
            for _ in joins.iter().filter(|join| **join == step) {
                actions.extend(hand.restart(ids.next().unwrap()));
            }
            actions.extend(match step {
                0 => hand.checked(0, true),
                1 => hand.staged(true),
                2 => hand.handlers(CAUGHT),
                3 => hand.pass(secs(9)),
                4 => hand.exits(ChildExit::Signal(15)),
                _ => hand.emptied(),
            });
        }
        actions.extend(hand.spawned());
        actions.extend(hand.serves());
        let spawns = actions.iter().filter(|action| matches!(action, Action::Spawn { .. })).count();
        prop_assert_eq!(spawns, 2);
        for id in 0..ids.next().unwrap() {
            let verdict = Verdict::Respawned { generation: 2, cut: true };
            let served = actions.contains(&Action::Verdict { id: RestartId(id), verdict });
            prop_assert!(served, "{id} in {actions:?}");
        }
    }

    // No world behind it: any fact in any order, true or not.
    #[test]
    fn lies_never_make_it_panic_spawn_after_a_stop_or_speak_after_its_exit(
        policy in policies(),
        facts in vec((facts(), 0..4u64, select(vec![0, 0, 25, 1_000, 90_000])), 0..100),
    ) {
        let bound = stop_bound(&policy);
        let mut hand = Hand::idle(policy);
        let (mut stopped, mut left, mut ready) = (false, 0, 0);
        let mut check = |actions: Vec<Action>, stopped: bool| {
            for action in actions {
                assert_eq!(left, 0, "{action:?} follows the exit");
                assert!(!(stopped && matches!(action, Action::Spawn { .. })));
                left += usize::from(matches!(action, Action::Exit { .. }));
                ready += usize::from(matches!(action, Action::AnnounceReady { first: true, .. }));
            }
            assert!(ready <= 1);
        };
        for (fact, off, time) in facts {
            let generation = (hand.generation() + off).saturating_sub(off.min(2));
            stopped |= fact == Event::StopRequested;
            check(hand.tell(about(fact, generation)), stopped);
            check(hand.pass(ms(time)), stopped);
        }
        check(hand.stop(), true);
        check(hand.pass(bound), true);
        prop_assert!(matches!(hand.state(), State::Done(_)), "{:?}", hand.machine);
    }
}
