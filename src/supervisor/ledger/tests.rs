use proptest::{collection, prelude::*};

use super::*;

fn line(at: u64, entry: Entry) -> String {
    serde_json::to_string(&Record { at, entry }).unwrap()
}

fn ended(id: u64, exit: ChildExit, goal: Option<Goal>, then: Then) -> Entry {
    Entry::Ended {
        id: RestartId(id),
        generation: 1,
        pid: 40,
        exit,
        ran_ms: 1000,
        peak_bytes: Some(1 << 20),
        goal,
        cut: false,
        failed: exit == ChildExit::Signal(9),
        then,
        drain: None,
        last_lines: Vec::new(),
    }
}

fn requested(id: u64) -> Entry {
    Entry::Requested {
        id: RestartId(id),
        what: Request::Restart,
        reason: "new model".into(),
        by: Requester::supervisor(),
        due_ms: 0,
    }
}

#[test]
fn where_a_process_sleeps_is_told_as_far_as_the_system_tells_it() {
    let at = |state, syscall: Option<&str>, wchan: Option<&str>| {
        let (syscall, wchan) = (syscall.map(str::to_owned), wchan.map(str::to_owned));
        Whereabouts { pid: 17, name: "node".into(), state, syscall, wchan }.to_string()
    };
    assert_eq!(
        at('S', Some("futex"), Some("futex_do_wait")),
        "pid 17 (node) sleeps in futex (futex_do_wait)"
    );
    assert_eq!(
        at('D', None, Some("nfs_wait")),
        "pid 17 (node) sleeps and cannot be woken in nfs_wait"
    );
    assert_eq!(at('t', None, None), "pid 17 (node) is stopped");
    assert_eq!(at('Z', None, None), "pid 17 (node) has ended");
    assert_eq!(at('R', None, None), "pid 17 (node) runs");
    assert_eq!(at('I', None, None), "pid 17 (node) is in state I");
}

#[test]
fn of_many_blockers_three_are_named_and_the_others_counted() {
    let names = |n| (1..=n).map(|n| format!("run {n}")).collect::<Vec<_>>();
    assert_eq!(told_blockers(&names(0)), None);
    assert_eq!(told_blockers(&names(3)).as_deref(), Some("run 1, run 2, run 3"));
    assert_eq!(told_blockers(&names(5)).as_deref(), Some("run 1, run 2, run 3 and 2 more"));
}

#[test]
fn a_restart_is_folded_from_request_to_verdict() {
    let verdict = Verdict::Respawned { generation: 2, cut: false };
    let joined =
        Entry::Joined { id: RestartId(7), reason: "x".into(), by: Requester::supervisor() };
    let history = History::fold([
        line(1, Entry::Started { pid: 4, command: "gw".into() }),
        line(2, requested(7)),
        line(3, joined),
        line(4, ended(7, ChildExit::Code(75), Some(Goal::Restart), Then::Respawn)),
        line(
            5,
            Entry::Verdict { id: RestartId(7), verdict, took_ms: 3, phases: vec![], joined: 9 },
        ),
    ]);
    let incident = &history.incidents[&RestartId(7)];
    assert_eq!(incident.kind, Kind::Restart);
    assert_eq!(incident.reason, "new model");
    assert_eq!((incident.joined, incident.joiners.len()), (9, 1));
    assert_eq!(incident.ends[0].exit, ChildExit::Code(75));
    assert_eq!(incident.verdict, Some(verdict));
    assert_eq!(history.next_id(), RestartId(8));
}

#[test]
fn a_count_that_somebody_wrote_into_the_ledger_does_not_overflow() {
    let id = RestartId(1);
    let joined = || Entry::Joined { id, reason: "x".into(), by: Requester::supervisor() };
    let (verdict, phases) = (Verdict::Stopped, Vec::new());
    let most = Entry::Verdict { id, verdict, took_ms: 3, phases, joined: u32::MAX };
    let history = History::fold([line(1, joined()), line(2, most), line(3, joined())]);
    assert_eq!(history.incidents[&id].joined, u32::MAX);
}

#[test]
fn an_end_that_nobody_asked_for_is_a_crash_or_an_exit_as_the_machine_counted_it() {
    let history = History::fold([
        line(1, ended(1, ChildExit::Signal(9), None, Then::Respawn)),
        line(2, ended(2, ChildExit::Code(75), None, Then::Respawn)),
    ]);
    let kinds: Vec<_> = history.incidents.values().map(|i| i.kind).collect();
    assert_eq!(kinds, [Kind::Crash, Kind::Exit]);
}

#[test]
fn the_last_run_tells_whether_it_left_by_itself() {
    let started = |pid| line(1, Entry::Started { pid, command: "gw".into() });
    let history = History::fold([started(1), line(2, Entry::Left { code: 0 }), started(2)]);
    assert_eq!(history.last_run.unwrap().left, None);
    let history = History::fold([started(1), line(9, Entry::Left { code: 70 })]);
    assert_eq!(history.last_run.unwrap().left, Some((9, 70)));
}

#[test]
fn the_table_of_the_documentation_names_every_event() {
    let page = include_str!("../../../docs/ledger.md");
    let rows = page.lines().skip_while(|line| !line.starts_with("| `event`")).skip(2);
    let rows = rows.map_while(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut told: Vec<_> = rows.map(|(name, _)| name).collect();
    // "unknown variant `?`, expected one of `started`, `requested`, ..."
    let unknown = serde_json::from_str::<Entry>(r#"{"event":"?"}"#).unwrap_err().to_string();
    let (_, expected) = unknown.split_once("expected one of ").unwrap();
    let mut events: Vec<_> = expected.split('`').skip(1).step_by(2).collect();
    told.sort_unstable();
    events.sort_unstable();
    assert_eq!(told, events);
}

proptest! {
    #[test]
    fn torn_and_foreign_lines_are_counted_and_skipped(
        garbage in collection::vec(".*", 0..20),
        cut in 1..60usize,
    ) {
        let whole = line(1, requested(3));
        let mut lines = garbage.clone();
        lines.push(whole.chars().take(cut).collect());
        lines.push(whole);
        let history = History::fold(&lines);
        prop_assert_eq!(history.incidents.len(), 1);
        prop_assert_eq!(history.unreadable, garbage.len() + 1);
    }
}
