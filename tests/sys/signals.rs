use std::{env, process::Command};

use lockkeeper::{
    protocol::{exit::ChildExit, signal::Signal},
    sys::{
        exit_watch::exit_watch,
        process_id::ProcessId,
        reaper,
        signals::{self, Received, Sender, Signals},
    },
};

use crate::{
    Order, alone, assert_starts_clean, bit, dead, end_of, inheritable_fds, signal_set, stopped,
};

fn our_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

#[tokio::test]
async fn a_signal_tells_who_sent_it() {
    let _alone = alone();
    let mut signals = Signals::install().unwrap();
    let child = Order::sh("kill -USR1 $PPID").spawn().unwrap();
    let sender = Some(Sender { pid: child.pid(), uid: our_uid() });
    let expected = Received { signal: Signal::Usr1, sender, from_kernel: false };
    assert_eq!(signals.next().await, expected);
    let end = signals.next().await;
    assert_eq!((end.signal, end.sender), (Signal::Chld, sender));
    end_of(child);
}

#[tokio::test]
async fn a_burst_of_one_signal_does_not_hide_another() {
    let _alone = alone();
    let mut signals = Signals::install().unwrap();
    let script = "i=0; while [ $i -lt 1000 ]; do kill -USR1 $PPID; i=$((i+1)); done
                  kill -USR2 $PPID; kill -TERM $PPID";
    let child = Order::sh(script).spawn().unwrap();
    let pid = child.pid();
    end_of(child);

    let mut seen = Vec::new();
    while seen.last() != Some(&Signal::Term) {
        let received = signals.next().await;
        assert_eq!(received.sender.map(|sender| sender.pid), Some(pid));
        seen.push(received.signal);
    }
    let times = |signal| seen.iter().filter(|s| **s == signal).count();
    assert!((1..=5).contains(&times(Signal::Usr1)), "{seen:?}");
    assert_eq!((times(Signal::Usr2), times(Signal::Term)), (1, 1));
}

#[tokio::test]
async fn many_ends_wake_once() {
    let _alone = alone();
    let mut signals = Signals::install().unwrap();
    let children: Vec<_> = (0..4).map(|_| Order::sh("exit 0").spawn().unwrap()).collect();
    children.iter().for_each(|child| dead(child.pid()));
    assert_eq!(signals.next().await.signal, Signal::Chld);
    signals::send(std::process::id(), Signal::Usr2).unwrap();
    assert_eq!(signals.next().await.signal, Signal::Usr2);
    for child in children {
        assert_eq!(reaper::reap(child.pid()).exit, ChildExit::Code(0));
    }
}

#[tokio::test]
async fn a_wait_that_was_dropped_loses_nothing() {
    let _alone = alone();
    let mut signals = Signals::install().unwrap();
    for signal in [Signal::Hup, Signal::Usr1, Signal::Winch] {
        signals::send(std::process::id(), signal).unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 3 {
        tokio::select! {
            biased;
            received = signals.next() => seen.push(received.signal),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(seen, [Signal::Hup, Signal::Usr1, Signal::Winch]);
}

#[tokio::test]
async fn one_more_signal_can_be_caught() {
    let _alone = alone();
    let mut signals = Signals::install().unwrap();
    signals.catch(Signal::Urg).unwrap();
    signals.catch(Signal::Term).unwrap();
    for signal in [Signal::Kill, Signal::Stop, Signal::Segv] {
        signals.catch(signal).unwrap_err();
    }
    signals::send(std::process::id(), Signal::Urg).unwrap();
    assert_eq!(signals.next().await.signal, Signal::Urg);
}

#[tokio::test]
async fn a_child_catches_only_what_it_asks_for_and_knows_its_parent() {
    const INSIDE: &str = "INSIDE_CATCHING";
    if env::var_os(INSIDE).is_none() {
        let _alone = alone();
        let us = std::process::id().to_string();
        let status = Command::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "signals::a_child_catches_only_what_it_asks_for_and_knows_its_parent",
            ])
            .env(INSIDE, us)
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let us = std::process::id();
    assert_eq!(signals::parent().map(|pid| pid.to_string()), env::var(INSIDE).ok());

    Signals::catching(&[Signal::Alrm, Signal::Kill]).unwrap_err();
    assert!(!signals::handlers(us).unwrap().contains(Signal::Alrm));

    let mut caught = Signals::catching(&[Signal::Term, Signal::Usr1]).unwrap();
    let handlers = signals::handlers(us).unwrap();
    assert!(handlers.contains(Signal::Term) && handlers.contains(Signal::Usr1));
    for signal in [Signal::Chld, Signal::Hup, Signal::Int, Signal::Usr2, Signal::Quit] {
        assert!(!handlers.contains(signal), "{signal}");
    }
    signals::send(us, Signal::Usr1).unwrap();
    assert_eq!(caught.next().await.signal, Signal::Usr1);
}

#[tokio::test]
async fn a_child_knows_nothing_of_our_handlers() {
    let _alone = alone();
    let signals = Signals::install().unwrap();
    let child = Order::sh("kill -STOP $$").spawn().unwrap();
    let pid = child.pid();
    stopped(pid);
    assert_starts_clean(pid, inheritable_fds(), None);
    let handlers = signals::handlers(pid).unwrap();
    for &signal in signals::FORWARDED.iter().chain(&[Signal::Term, Signal::Usr1, Signal::Usr2]) {
        assert!(!handlers.contains(signal), "{signal}");
        assert!(signals::handlers(std::process::id()).unwrap().contains(signal), "{signal}");
    }
    signals::send_group(pid, Signal::Kill).unwrap();
    end_of(child);
    drop(signals);
}

#[test]
fn a_hangup_that_was_ignored_at_start_stays_ignored() {
    const INSIDE: &str = "INSIDE_NOHUP";
    if env::var_os(INSIDE).is_none() {
        let _alone = alone();
        let status = Command::new("/bin/sh")
            .args(["-c", r#"trap '' HUP; exec "$0" --exact "$1""#])
            .arg(env::current_exe().unwrap())
            .arg("signals::a_hangup_that_was_ignored_at_start_stays_ignored")
            .env(INSIDE, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let _signals = Signals::install().unwrap();
    let us = std::process::id();
    assert_ne!(signal_set(us, "SigIgn") & bit(libc::SIGHUP), 0);
    let handlers = signals::handlers(us).unwrap();
    assert!(handlers.contains(Signal::Term) && !handlers.contains(Signal::Hup));
}

#[tokio::test]
async fn the_end_of_a_watched_process_is_told_before_it_is_reaped() {
    let _alone = alone();
    let child = Order::new(&["sleep", "1000"]).spawn().unwrap();
    let watch = exit_watch(child.id()).unwrap();
    tokio::select! {
        biased;
        () = watch.gone() => panic!("it lives"),
        () = tokio::task::yield_now() => {}
    }
    signals::send_verified(child.id(), Signal::Kill).unwrap();
    watch.gone().await;
    watch.gone().await;

    let id = child.id();
    end_of(child);
    exit_watch(id).unwrap().gone().await;
    signals::send_verified(id, Signal::Kill).unwrap_err();
}

#[tokio::test]
async fn a_process_that_took_over_a_number_is_not_the_one_watched() {
    let _alone = alone();
    let us = ProcessId::ours();
    let earlier = ProcessId { start_time: us.start_time - 1, ..us };
    exit_watch(earlier).unwrap().gone().await;
}
