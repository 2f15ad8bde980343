//! What can only be brought about from inside.

use std::time::SystemTime;

use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::gateway::message::{Conversation, Inbound};

fn opened() -> (TempDir, Sqlite) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("journal.db");
    let storage = Sqlite::open(&path, SqliteOptions { sync: false }).unwrap().storage;
    (folder, storage)
}

fn accept(id: &str, length: usize) -> Write {
    let inbound = Inbound {
        conversation: Conversation::new("chat", "a"),
        id: id.to_owned(),
        sender: String::new(),
        text: "x".repeat(length),
        context: Value::Null,
    };
    Write::Accept { inbound, at: SystemTime::now() }
}

fn count(storage: &mut Sqlite) -> usize {
    let found = storage.read(&Query::Unfinished).unwrap();
    let Found::Entries { messages, .. } = found else { panic!("{found:?}") };
    messages.len()
}

#[test]
fn after_a_full_disk_nothing_of_the_batch_is_there_and_the_next_batch_may_succeed() {
    let (_folder, mut storage) = opened();
    storage.connection.pragma_update(None, "max_page_count", 60).unwrap();
    let batch: Vec<_> = (0..9).map(|id| accept(&format!("big {id}"), 50_000)).collect();
    assert_eq!(storage.commit(&batch), Err(StorageError::Full));
    assert_eq!(count(&mut storage), 0);
    storage.commit(&[accept("small", 10)]).unwrap();
    storage.connection.pragma_update(None, "max_page_count", 10_000).unwrap();
    storage.commit(&batch).unwrap();
    assert_eq!(count(&mut storage), 10);
}

#[test]
fn a_journal_that_cannot_be_written_says_so_and_is_read_all_the_same() {
    let (_folder, mut storage) = opened();
    storage.commit(&[accept("1", 10)]).unwrap();
    storage.connection.pragma_update(None, "query_only", true).unwrap();
    let error = storage.commit(&[accept("2", 10)]).unwrap_err();
    assert!(matches!(error, StorageError::ReadOnly(_)), "{error:?}");
    assert_eq!(count(&mut storage), 1);
    storage.connection.pragma_update(None, "query_only", false).unwrap();
    storage.commit(&[accept("2", 10)]).unwrap();
}

#[test]
fn a_commit_is_synced_and_the_log_is_ahead_of_the_file() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("journal.db");
    let storage = Sqlite::open(&path, SqliteOptions::default()).unwrap().storage;
    let told = |pragma| -> String {
        storage
            .connection
            .query_row(&format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}"), [], |row| {
                row.get(0)
            })
            .unwrap()
    };
    assert_eq!(told("synchronous"), "2", "FULL");
    assert_eq!(told("journal_mode"), "wal");
    assert_eq!(told("foreign_keys"), "1");
}

#[test]
fn what_is_asked_at_each_start_goes_by_the_index_of_the_unfinished() {
    let (_folder, storage) = opened();
    for (table, index) in [("messages", "messages_open"), ("replies", "replies_open")] {
        let plan: String = storage
            .connection
            .query_row(
                &format!(
                    "EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE ended_at IS NULL ORDER BY id"
                ),
                [],
                |row| row.get("detail"),
            )
            .unwrap();
        assert!(plan.contains(index), "{plan}");
    }
}

#[test]
fn damage_that_shows_in_a_later_write_is_told_as_damage() {
    let (_folder, mut storage) = opened();
    let batch: Vec<_> = (0..300).map(|id| accept(&id.to_string(), 1000)).collect();
    storage.commit(&batch).unwrap();
    storage.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let mut content = std::fs::read(&storage.path).unwrap();
    content[4096..].fill(0xa5);
    std::fs::write(&storage.path, content).unwrap();
    storage.connection.execute_batch("PRAGMA shrink_memory").unwrap();
    let error = storage.commit(&[accept("new", 10)]).unwrap_err();
    assert!(matches!(error, StorageError::Corrupt(_)), "{error:?}");
}
