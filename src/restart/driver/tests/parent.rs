//! Under a parent: a real control socket, answered by hand. The clock runs, as sockets take time
//! that a paused one does not know; nothing here waits for it.
#![cfg(feature = "supervisor")]

use tempfile::TempDir;

use super::*;
use crate::{
    protocol::control::{Answer as Said, Body, Phase, Verb, Verdict},
    sys::control::{ControlServer, Incoming, Reply},
};

/// A child, and the socket of its parent.
struct Lab {
    _folder: TempDir,
    control: PathBuf,
    gate: Gate,
    restarts: Restarts,
    emissions: Emissions,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("control");
        let gate = gate();
        let scheduler = SchedulerPolicy { emit_retry: SHORTEST, ..SchedulerPolicy::default() };
        let parent = Some(Parent { control: control.clone(), pid: Some(PARENT) });
        let grants = GrantPolicy { external: false, ..GrantPolicy::default() };
        let options = RestartOptions { scheduler, parent, grants, patience: s(600) };
        let (restarts, emissions) = Restarts::new(&gate, work_of(&gate), options);
        Self { _folder: folder, control, gate, restarts, emissions }
    }

    fn parent(&self) -> ControlServer {
        ControlServer::bind(&self.control, None).unwrap()
    }

    fn order(&self) {
        self.restarts.signal_seen(&usr1(PARENT)).unwrap();
    }

    /// Resolves when the gate is in this state.
    async fn gate_is(&self, state: GateState) {
        self.gate.pulse().until(|| self.gate.state() == state).await;
    }
}

/// The next request, which must be one for a restart.
async fn asked(server: &mut ControlServer) -> (String, bool, Reply) {
    let Incoming { request, reply, .. } = server.next().await;
    let Verb::Restart { reason, force, delay_ms: 0, wait: true, .. } = request.verb else {
        panic!("{request:?}");
    };
    (reason, force, reply)
}

fn scheduled(due_ms: u64) -> Body {
    Body::Answer(Said::Scheduled { id: RestartId(7), due_ms })
}

fn coalesced(due_ms: u64) -> Body {
    Body::Answer(Said::Coalesced { id: RestartId(7), due_ms })
}

#[tokio::test]
async fn a_due_restart_is_asked_of_the_parent_and_begins_by_its_signal() {
    let mut lab = Lab::new();
    let mut parent = lab.parent();
    let id = id_of(lab.restarts.request(wish("config changed")));
    let (reason, force, mut reply) = asked(&mut parent).await;
    assert_eq!((reason.as_str(), force), ("config changed", false));
    assert_eq!(lab.gate.state(), GateState::Suspended);
    reply.send(scheduled(0));
    reply.send(Body::Event(Phase::Checking));
    assert!(is_quiet(&mut lab.emissions).await, "only by the parent's signal");

    lab.order();
    let taken = lab.emissions.next().await;
    assert_eq!((taken.emission.id, taken.signal), (id, Some(Signal::Usr1)));
    assert_eq!(taken.emission.reason, "config changed");
    taken.fence.commit();
    drop(taken.handling);
    assert_eq!(lab.restarts.pending(), None);
}

#[tokio::test]
async fn force_is_asked_as_force_and_joining_the_parents_restart_is_as_good() {
    let mut lab = Lab::new();
    let mut parent = lab.parent();
    lab.restarts.request(wish("update").urgency(Urgency::Force).for_update());
    let (_, force, mut reply) = asked(&mut parent).await;
    assert!(force);
    reply.send(coalesced(0));
    lab.order();
    assert!(lab.emissions.next().await.emission.forced);
}

#[tokio::test]
async fn a_restart_that_becomes_forced_while_the_parent_has_it_is_forced_there() {
    let mut lab = Lab::new();
    let mut parent = lab.parent();
    lab.restarts.request(wish("config"));
    let (_, force, mut first) = asked(&mut parent).await;
    first.send(scheduled(20_000));
    assert!(!force);
    lab.restarts.request(wish("now").urgency(Urgency::Force));
    let (_, force, mut second) = asked(&mut parent).await;
    assert!(force);
    second.send(coalesced(0));
    lab.order();
    let taken = lab.emissions.next().await;
    assert_eq!((taken.emission.joined, taken.emission.forced), (2, true));
}

#[tokio::test]
async fn a_refusal_of_the_parent_releases_the_fence_and_is_told_to_who_asked() {
    let mut lab = Lab::new();
    let mut parent = lab.parent();
    let id = id_of(lab.restarts.request(wish("config")));
    let (.., mut reply) = asked(&mut parent).await;
    reply.send(Body::Answer(Said::Refused(Refusal::Stopping)));
    let refused = RestartVerdict::Refused { why: Refusal::Stopping, said: None };
    assert_eq!(lab.restarts.verdict(id).await, Some(refused));
    assert_eq!((lab.restarts.pending(), lab.gate.state()), (None, GateState::Open));
    assert!(is_quiet(&mut lab.emissions).await);
}

#[tokio::test]
async fn a_check_that_fails_releases_the_fence_and_its_last_word_is_told() {
    let mut lab = Lab::new();
    let mut parent = lab.parent();
    let id = id_of(lab.restarts.request(wish("config")));
    let (.., mut reply) = asked(&mut parent).await;
    reply.send(scheduled(0));
    reply.send(Body::Event(Phase::Checking));
    reply.send(Body::Event(Phase::Said("line 3: no such channel".into())));
    reply.send(Body::Verdict(Verdict::Refused(Refusal::CheckFailed)));
    let said = Some("line 3: no such channel".to_owned());
    let refused = RestartVerdict::Refused { why: Refusal::CheckFailed, said };
    assert_eq!(lab.restarts.verdict(id).await, Some(refused));
    assert_eq!((lab.restarts.pending(), lab.gate.state()), (None, GateState::Open));
    // The next one is asked anew, at once.
    drop(reply);
    lab.restarts.request(wish("mended"));
    let (reason, _, mut reply) = asked(&mut parent).await;
    assert_eq!(reason, "mended");
    reply.send(scheduled(0));
    lab.order();
    assert_eq!(lab.emissions.next().await.emission.reason, "mended");
}

#[tokio::test]
async fn a_parent_that_is_not_there_or_breaks_off_is_asked_again() {
    let mut lab = Lab::new();
    let id = id_of(lab.restarts.request(wish("config")));
    lab.gate_is(GateState::Open).await;
    let mut parent = lab.parent();
    let (.., reply) = asked(&mut parent).await;
    // Before the answer, and with it the connection.
    drop((reply, parent));
    let mut parent = lab.parent();
    let (.., mut reply) = asked(&mut parent).await;
    reply.send(scheduled(0));
    // After the answer.
    drop((reply, parent));
    let mut parent = lab.parent();
    let (.., mut reply) = asked(&mut parent).await;
    reply.send(coalesced(0));
    lab.order();
    assert_eq!(lab.emissions.next().await.emission.id, id);
}

#[tokio::test]
async fn a_parent_that_says_what_is_no_answer_is_asked_again() {
    let lab = Lab::new();
    let mut parent = lab.parent();
    let id = id_of(lab.restarts.request(wish("config")));
    for said in [
        vec![Body::Error("no descriptor left".into())],
        vec![Body::Answer(Said::Done)],
        vec![scheduled(0), Body::Error("no descriptor left".into())],
    ] {
        let (.., mut reply) = asked(&mut parent).await;
        said.into_iter().for_each(|body| reply.send(body));
    }
    let (reason, _, mut reply) = asked(&mut parent).await;
    assert_eq!(reason, "config");
    reply.send(scheduled(0));
    reply.send(Body::Verdict(Verdict::Stopped));
    let stopping = RestartVerdict::Refused { why: Refusal::Stopping, said: None };
    assert_eq!(lab.restarts.verdict(id).await, Some(stopping));
    assert_eq!((lab.restarts.pending(), lab.gate.state()), (None, GateState::Open));
}

#[tokio::test]
async fn a_restart_that_the_parent_delays_leaves_the_gate_open_and_stays_wanted() {
    let mut lab = Lab::new();
    let mut parent = lab.parent();
    let id = id_of(lab.restarts.request(wish("config")));
    let (.., mut reply) = asked(&mut parent).await;
    assert_eq!(lab.gate.state(), GateState::Suspended);
    reply.send(scheduled(20_000));
    lab.gate_is(GateState::Open).await;
    assert_eq!(lab.restarts.pending().map(|pending| pending.id), Some(id));
    // Work that came meanwhile is drained with the rest.
    let _run = lab.gate.admit("run").unwrap();
    lab.order();
    assert_eq!(lab.gate.state(), GateState::Suspended);
    assert_eq!(lab.emissions.next().await.emission.id, id);
}

#[tokio::test]
async fn a_restart_that_is_called_off_is_called_off_at_the_parent_too() {
    let lab = Lab::new();
    let mut parent = lab.parent();
    let id = id_of(lab.restarts.request(wish("config").for_change(7)));
    let (.., mut reply) = asked(&mut parent).await;
    reply.send(scheduled(20_000));
    lab.gate_is(GateState::Open).await;
    lab.restarts.reload_served(7);
    let served = RestartVerdict::CalledOff(Cancellation::ReloadServed);
    assert_eq!(lab.restarts.verdict(id).await, Some(served));
    assert_eq!(parent.next().await.request.verb, Verb::Cancel);
}

#[tokio::test]
async fn a_restart_called_off_before_the_parent_answered_is_called_off_there_after_its_answer() {
    let lab = Lab::new();
    let mut parent = lab.parent();
    lab.restarts.request(wish("config"));
    let (.., mut reply) = asked(&mut parent).await;
    lab.restarts.cancel().unwrap();
    assert_eq!(lab.gate.state(), GateState::Open);
    settled().await;
    reply.send(scheduled(0));
    assert_eq!(parent.next().await.request.verb, Verb::Cancel);
}

#[tokio::test]
async fn a_restart_that_somebody_else_wants_at_the_parent_is_not_called_off_there() {
    let lab = Lab::new();
    let mut parent = lab.parent();
    lab.restarts.request(wish("config"));
    let (.., mut reply) = asked(&mut parent).await;
    reply.send(coalesced(20_000));
    lab.gate_is(GateState::Open).await;
    lab.restarts.cancel().unwrap();
    // The connection ends without another word, and the next thing said is the next restart.
    lab.restarts.request(wish("next"));
    let (reason, ..) = asked(&mut parent).await;
    assert_eq!(reason, "next");
}

#[tokio::test]
async fn a_restart_that_an_operator_calls_off_at_the_parent_is_over_here() {
    let lab = Lab::new();
    let mut parent = lab.parent();
    let id = id_of(lab.restarts.request(wish("config")));
    let (.., mut reply) = asked(&mut parent).await;
    reply.send(scheduled(500));
    reply.send(Body::Verdict(Verdict::Cancelled));
    let called_off = RestartVerdict::CalledOff(Cancellation::Requested);
    assert_eq!(lab.restarts.verdict(id).await, Some(called_off));
    assert_eq!((lab.restarts.pending(), lab.gate.state()), (None, GateState::Open));
}

#[tokio::test(start_paused = true)]
async fn a_signal_of_the_parent_that_nobody_here_asked_for_is_delivered_at_once() {
    let mut lab = Lab::new();
    let _run = lab.gate.admit("run").unwrap();
    let begun = clock::now();
    lab.restarts.signal_seen(&signal_of(PARENT, Signal::Usr2)).unwrap();
    let taken = lab.emissions.next().await;
    assert_eq!((clock::now(), taken.signal), (begun, Some(Signal::Usr2)));
    assert_eq!(taken.emission.requester.kind, RequesterKind::Supervisor);
    taken.handled();
    // Bound by no cooldown.
    lab.order();
    lab.emissions.next().await.handled();
    assert_eq!(clock::now(), begun);
}

#[tokio::test(start_paused = true)]
async fn a_signal_of_the_parent_takes_along_what_is_pending() {
    let mut lab = Lab::new();
    let id = id_of(lab.restarts.request(wish("config").after(s(20))));
    lab.order();
    let taken = lab.emissions.next().await;
    assert_eq!((taken.emission.id, taken.emission.joined), (id, 1));
    assert_eq!(taken.emission.reason, "config");
    // A second signal while it is handled is the same restart.
    lab.order();
    taken.handled();
    assert!(is_quiet(&mut lab.emissions).await);
}

#[tokio::test(start_paused = true)]
async fn a_signal_of_the_parent_is_always_authorised_and_one_of_another_is_not() {
    let mut lab = Lab::new();
    let stranger = lab.restarts.signal_seen(&usr1(STRANGER));
    assert_eq!(stranger, Err(Refusal::NotAuthorised));
    let unseen = Received { sender: None, ..usr1(PARENT) };
    assert_eq!(lab.restarts.signal_seen(&unseen), Err(Refusal::NotAuthorised));
    assert_eq!(lab.restarts.pending(), None);
    lab.order();
    lab.emissions.next().await.handled();
}

#[tokio::test(start_paused = true)]
async fn an_order_of_the_parent_waits_for_no_retry_and_is_kept_for_the_run_loop() {
    let Lab { restarts, emissions, .. } = Lab::new();
    restarts.request(wish("config").after(s(5)));
    drop(emissions);
    restarts.signal_seen(&usr1(PARENT)).unwrap();
    let state = restarts.pending().map(|pending| pending.state);
    assert_eq!(state, Some(State::Retrying { at: clock::now() + SHORTEST }));
    let mut emissions = restarts.emissions().unwrap();
    restarts.signal_seen(&usr1(PARENT)).unwrap();
    let begun = clock::now();
    emissions.next().await.handled();
    assert_eq!(clock::now(), begun);
}
