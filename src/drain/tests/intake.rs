use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use proptest::{collection, prelude::*};

use super::*;

#[test]
fn messages_being_received_are_counted_by_channel() {
    let intake = Intake::new(&plain_gate());
    let one = intake.begin("telegram").unwrap();
    let _others = ["telegram", "chat"].map(|channel| intake.begin(channel).unwrap());
    let counts = |telegram| BTreeMap::from([("chat".into(), 1), ("telegram".into(), telegram)]);
    assert_eq!((one.channel(), intake.active()), ("telegram", 3));
    assert_eq!(intake.by_channel(), counts(2));
    drop(one);
    assert_eq!((intake.active(), intake.by_channel()), (2, counts(1)));
}

#[tokio::test(start_paused = true)]
async fn a_message_is_counted_from_its_receipt_until_it_is_handed_on() {
    let gate = open_gate();
    let intake = Intake::new(&gate);
    intake.idle().await;
    let message = intake.begin("telegram").unwrap();
    let hands_on = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(message);
    });
    let start = gate.now();
    intake.idle().await;
    assert_eq!(gate.now() - start, Duration::from_secs(2));
    assert!(intake.by_channel().is_empty(), "a channel without messages takes no memory");
    hands_on.await.unwrap();
}

#[test]
fn a_message_whose_handler_panics_is_being_received_no_more() {
    let intake = Intake::new(&plain_gate());
    let panics = catch_unwind(AssertUnwindSafe(|| {
        let _message = intake.begin("webhook").unwrap();
        panic!("as it must");
    }));
    assert!(panics.is_err());
    assert_eq!(intake.active(), 0);
}

#[test]
fn a_message_is_refused_as_new_work_and_what_was_accepted_may_go_on() {
    let gate = plain_gate();
    let intake = Intake::new(&gate);
    let accepted = intake.begin("chat").unwrap();
    let suspended = gate.fence();
    assert_eq!(intake.begin("chat").err(), Some(Refused::Suspended));
    suspended.commit();
    assert_eq!(intake.begin("chat").err(), Some(Refused::Draining));
    assert!(accepted.pass().admit("queue").is_ok());
    gate.close();
    assert_eq!(intake.begin("chat").err(), Some(Refused::Closed));
    assert_eq!((intake.active(), gate.active()), (1, 0), "the intake counts it, not the gate");
}

#[test]
fn messages_of_an_old_iteration_are_received_no_more_and_end_without_a_trace() {
    let gate = plain_gate();
    let intake = Intake::new(&gate);
    let old = intake.begin("chat").unwrap();
    gate.next_iteration();
    assert_eq!((intake.active(), intake.by_channel().len()), (0, 0));
    let _new = intake.begin("chat").unwrap();
    drop(old);
    assert_eq!((intake.active(), intake.by_channel()["chat"]), (1, 1));
}

proptest! {
    #[test]
    fn an_intake_counts_what_lives_in_any_order(
        ops in collection::vec((0..3usize, 0..6usize), 0..60),
    ) {
        let gate = plain_gate();
        let intake = Intake::new(&gate);
        let mut live = Vec::new();
        for (channel, ends) in ops {
            match ends {
                5 => {
                    gate.next_iteration();
                }
                ends if ends < live.len() => drop(live.remove(ends)),
                _ => live.push(intake.begin(["", "chat", "telegram"][channel]).unwrap()),
            }
            let mut by_channel = BTreeMap::new();
            for message in live.iter().filter(|message| message.pass().check().is_ok()) {
                *by_channel.entry(message.channel().to_owned()).or_insert(0) += 1;
            }
            prop_assert_eq!(intake.active(), by_channel.values().sum::<u64>());
            prop_assert_eq!(intake.by_channel(), by_channel);
        }
    }
}
