use super::*;

#[test]
fn one_refusal_notice_a_chat_during_a_drain_not_one_a_message() {
    let gate = plain_gate();
    let notices = Notices::new(&gate);
    gate.seal();
    let told = (0..199).filter(|_| notices.first("telegram:ada")).count();
    assert_eq!((told, notices.first("telegram:bob")), (1, true));
    gate.close();
    assert!(!notices.first("telegram:ada"), "the gate shut but once");
}

#[test]
fn a_chat_is_told_again_when_the_gate_has_been_open_in_between() {
    let gate = plain_gate();
    let notices = Notices::new(&gate);
    let tells_once = || {
        assert!(notices.first("ada"));
        assert!(!notices.first("ada"));
    };
    gate.fence().commit();
    tells_once();
    gate.reopen();
    // A refusal from before the opening that comes up late.
    tells_once();
    gate.seal();
    tells_once();
    gate.next_iteration();
    gate.seal();
    tells_once();
}

#[test]
fn a_fence_that_becomes_a_drain_is_one_shutting() {
    let gate = plain_gate();
    let notices = Notices::new(&gate);
    let fence = gate.fence();
    assert!(notices.first("ada"));
    fence.commit();
    assert!(!notices.first("ada"));
}

#[test]
fn beyond_the_bound_chats_get_no_notice_and_take_no_memory() {
    let gate = plain_gate();
    let notices = Notices::at_most(&gate, 2);
    gate.seal();
    let told = ["a", "b", "c", "a", "c"].map(|chat| notices.first(chat));
    assert_eq!(told, [true, true, false, false, false]);
    assert!(!Notices::at_most(&gate, 0).first("a"));
}
