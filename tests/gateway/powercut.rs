//! The power fails, at any instant: what was acknowledged is there.
//!
//! The real engine runs under strace, and writes down what it acknowledges. Then, for many instants,
//! the disk is laid out as a power cut could leave it, and the engine opens that. That the test can
//! fail is shown by mutants: disks that do not hear one kind of sync.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    process::Command,
};

use lockkeeper::gateway::{
    agent::{Exchange, Role},
    journal::{
        Journal,
        sqlite::{Sqlite, SqliteOptions},
        storage::{Found, MessageState, Query, ReplyState, Storage},
    },
    message::{Accepted, Conversation, Inbound},
};
use serde_json::Value;
use tempfile::TempDir;

#[path = "../support/journal_trace.rs"]
mod trace;

use self::trace::{Call, Disk, Unsynced};

const FOLDER: &str = "JOURNAL_WORKLOAD_FOLDER";
const SYNC: &str = "JOURNAL_WORKLOAD_SYNC";
/// How many writers there are at once, and how many messages each has in each life.
const WRITERS: usize = 4;
const LIVES: [usize; 2] = [60, 4];
/// So long that the log is emptied and begun anew while the first life lasts.
const LENGTH: usize = 1_500;
/// How many instants are looked at, besides those around a sync.
const CUTS: usize = 100;
const SEED: u64 = 20_261_121;

#[test]
fn after_a_power_cut_at_any_instant_all_that_was_acknowledged_is_there() {
    let calls = workload(true);
    let points = cut_points(&calls);
    let emptied =
        calls.iter().filter(|call| matches!(call, Call::Sync(name) if name == "journal.db"));
    assert!(emptied.count() > LIVES.len(), "the log was never emptied in the midst of a life");
    let lost = lost(&calls, &points, None, usize::MAX);
    assert_eq!(lost, Vec::<String>::new());

    // Each kind of file of which a sync counts: without it, something is lost.
    let mut caught = Vec::new();
    let mut harmless = Vec::new();
    for deaf in kinds_of_sync(&calls) {
        match self::lost(&calls, &points, Some(&deaf), 1).pop() {
            Some(_) => caught.push(deaf),
            None => harmless.push(deaf),
        }
    }
    // The same without any sync by the engine's setting.
    let unsynced = workload(false);
    let is_caught = !self::lost(&unsynced, &cut_points(&unsynced), None, 1).is_empty();
    println!(
        "cuts: {}, lost: 0; mutants caught: {} of {} (harmless: {harmless:?})",
        points.len(),
        caught.len() + usize::from(is_caught),
        caught.len() + 1,
    );
    assert!(is_caught, "a journal that does not sync loses nothing: the test sees nothing");
    let needed = ["", "journal.db", "journal.db-wal", "journal.db.new"];
    assert_eq!(caught, needed.map(str::to_owned), "harmless: {harmless:?}");
    // What a start that was cut off leaves behind is thrown away.
    assert!(harmless.iter().all(|name| name == "journal.db.new-journal"), "{harmless:?}");
}

/// What the traced process does; as a test of its own it does nothing.
#[test]
fn the_workload_of_the_power_cut_acknowledges_only_what_the_journal_has() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder = Path::new(&folder);
    let sync = std::env::var_os(SYNC).is_some_and(|it| it == "true");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for (life, count) in LIVES.into_iter().enumerate() {
            let path = folder.join("journal.db");
            let opened = Sqlite::open(&path, SqliteOptions { sync }).unwrap();
            assert_eq!(opened.set_aside, None);
            let journal = Journal::start(opened.storage);
            let writers = (0..WRITERS).map(|writer| write(&journal, folder, life, writer, count));
            futures_util::future::join_all(writers).await;
            journal.close().await;
        }
    });
}

async fn write(journal: &Journal, folder: &Path, life: usize, writer: usize, count: usize) {
    let conversation = Conversation::new("chat", writer.to_string());
    for number in 0..count {
        let id = format!("{life}-{writer}-{number}");
        let inbound = Inbound {
            conversation: conversation.clone(),
            id: id.clone(),
            sender: String::new(),
            text: "x".repeat(LENGTH),
            context: Value::Null,
        };
        let Accepted::New(message) = journal.accept(inbound).await.unwrap() else { panic!("{id}") };
        acknowledge(folder, &format!("accepted {id}"));
        let exchanges = vec![Exchange { role: Role::User, text: id.clone() }];
        let replies = journal.answer(vec![message], vec![id.clone()], exchanges).await.unwrap();
        acknowledge(folder, &format!("answered {id}"));
        journal.reply_moves(replies[0], ReplyState::Started, None).await.unwrap();
        acknowledge(folder, &format!("started {id}"));
        journal.reply_moves(replies[0], ReplyState::Done, None).await.unwrap();
        acknowledge(folder, &format!("done {id}"));
    }
}

/// Beside the folder: in one call, so that the trace shows when.
fn acknowledge(folder: &Path, line: &str) {
    let path = folder.with_extension("acknowledged");
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn workload(sync: bool) -> Vec<Call> {
    let outer = TempDir::new().unwrap();
    let outer = fs::canonicalize(outer.path()).unwrap();
    let folder = outer.join("state");
    fs::create_dir_all(&folder).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture", "--test-threads=1"])
        .arg(format!(
            "{}::the_workload_of_the_power_cut_acknowledges_only_what_the_journal_has",
            here()
        ))
        .env(FOLDER, &folder)
        .env(SYNC, sync.to_string());
    let calls = trace::trace(&command, &folder, &folder.with_extension("acknowledged"));
    let acknowledged = calls.iter().filter(|call| matches!(call, Call::Acknowledged(_))).count();
    assert_eq!(acknowledged, LIVES.iter().sum::<usize>() * WRITERS * 4);
    calls
}

/// This module's name as the test harness knows it.
fn here() -> &'static str {
    module_path!().split_once("::").expect("in a crate").1
}

/// Instants: the first calls, around every 15th sync, and any.
fn cut_points(calls: &[Call]) -> BTreeSet<usize> {
    let mut rng = fastrand::Rng::with_seed(SEED);
    let mut points: BTreeSet<_> = (0..calls.len().min(40)).collect();
    let syncs = calls.iter().enumerate().filter(|(_, call)| is_sync(call)).map(|(index, _)| index);
    for sync in syncs.step_by(15) {
        points.extend([sync, sync + 1]);
    }
    points.extend((0..CUTS).map(|_| rng.usize(..=calls.len())));
    // After the second life has ended, too.
    points.extend(calls.len().saturating_sub(10)..=calls.len());
    points
}

fn is_sync(call: &Call) -> bool {
    matches!(call, Call::Sync(_) | Call::SyncFolder)
}

/// Which files are synced; the folder is the empty name.
fn kinds_of_sync(calls: &[Call]) -> BTreeSet<String> {
    let kinds = calls.iter().filter_map(|call| match call {
        Call::Sync(name) => Some(name.clone()),
        Call::SyncFolder => Some(String::new()),
        _ => None,
    });
    kinds.collect()
}

/// Cuts the power at each point, on a disk that is deaf to syncs of that name, and tells what is
/// lost, at most so many.
fn lost(calls: &[Call], points: &BTreeSet<usize>, deaf: Option<&str>, most: usize) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(SEED);
    let mut disk = Disk::default();
    let mut acknowledged = Vec::new();
    let mut lost = Vec::new();
    for point in 0..=calls.len() {
        if points.contains(&point) {
            for unsynced in [Unsynced::Lost, Unsynced::Torn, Unsynced::Kept] {
                let folder = image_folder();
                disk.lay_out(folder.path(), unsynced, &mut rng);
                if let Err(what) = check(folder.path(), &acknowledged) {
                    lost.push(format!("after call {point}, {unsynced:?}: {what}"));
                }
            }
            if lost.len() >= most {
                return lost;
            }
        }
        let Some(call) = calls.get(point) else { break };
        match call {
            Call::Acknowledged(line) => acknowledged.push(line.as_str()),
            Call::Sync(name) if deaf == Some(name) => {}
            Call::SyncFolder if deaf == Some("") => {}
            _ => disk.take(call),
        }
    }
    lost
}

/// In memory where there is such a place: hundreds are made.
fn image_folder() -> TempDir {
    TempDir::new_in("/dev/shm").unwrap_or_else(|_| TempDir::new().unwrap())
}

fn check(folder: &Path, acknowledged: &[&str]) -> Result<(), String> {
    let path = folder.join("journal.db");
    let opened = Sqlite::open(&path, SqliteOptions { sync: false }).map_err(|e| e.to_string())?;
    if let Some(aside) = opened.set_aside {
        return Err(format!("damaged: {}", aside.why));
    }
    let mut storage = opened.storage;
    let found = storage.read(&Query::Latest(usize::MAX)).map_err(|e| e.to_string())?;
    let Found::Entries { messages, replies } = found else { panic!("{found:?}") };
    let states: std::collections::HashMap<_, _> =
        messages.iter().map(|message| (&*message.inbound.id, message.state)).collect();
    let sent: std::collections::HashMap<_, _> =
        replies.iter().map(|reply| (&*reply.text, reply.state)).collect();
    for line in acknowledged {
        let (what, id) = line.split_once(' ').expect("two words");
        let (state, reply) = (states.get(id), sent.get(id));
        let is_there = match what {
            "accepted" => state.is_some(),
            "answered" => state == Some(&MessageState::Answered) && reply.is_some(),
            "started" => matches!(reply, Some(ReplyState::Started | ReplyState::Done)),
            "done" => reply == Some(&ReplyState::Done),
            other => panic!("{other}"),
        };
        if !is_there {
            return Err(format!("{line}: {state:?}, {reply:?}"));
        }
    }
    Ok(())
}
