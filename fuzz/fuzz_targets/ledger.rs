//! A ledger: what was left of it, folded; and what a supervisor writes after that.
//!
//! The first byte of an input says how much stands in the file before the rest: nothing, or for 255
//! as many long lines of nothing as fill a ledger.
#![no_main]

use std::{cell::OnceCell, fs};

use libfuzzer_sys::{Corpus, fuzz_target};
use lockkeeper::{
    supervisor::ledger::{History, Record},
    sys::ledger_file::{self, LedgerFile, MAX_BYTES},
};
use tempfile::TempDir;

const LARGEST: usize = MAX_BYTES as usize;

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let [size, text @ ..] = input else { return Corpus::Reject };
    assert_folds(&String::from_utf8_lossy(text));
    if *size < 255 {
        assert_goes_on(text);
    } else {
        // Not JSON, which would be most of what such an input costs.
        let line = format!("{}\n", "x".repeat(LARGEST / 4 - 1 - text.len() / 8));
        assert_goes_on(&[line.repeat(4).as_bytes(), text].concat());
    }
    Corpus::Keep
});

fn assert_folds(text: &str) {
    let lines: Vec<_> = text.split('\n').collect();
    let records: Vec<Record> =
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let history = History::fold(&lines);
    assert!(history.unreadable >= lines.len() - records.len());
    assert!(history.incidents.len() <= records.len());
    let free = history.next_id();
    assert!(history.incidents.keys().all(|id| *id < free), "{free} was used");
    // A record is one line, and says the same to the next reader.
    let written: Vec<_> =
        records.iter().map(|record| serde_json::to_string(record).expect("a record")).collect();
    assert!(written.iter().all(|line| !line.contains('\n')));
    let read: Vec<Record> =
        written.iter().map(|line| serde_json::from_str(line).expect("our own line")).collect();
    assert_eq!(read, records);
    let again = History::fold(&written);
    assert_eq!((again.incidents, again.last_run), (history.incidents, history.last_run));
}

/// A supervisor finds this file and writes three lines.
fn assert_goes_on(file: &[u8]) {
    FOLDER.with(|folder| {
        let folder = folder.get_or_init(|| tempfile::tempdir().expect("a folder")).path();
        let path = folder.join(ledger_file::NAME);
        fs::write(&path, file).expect("a file");
        let (mut ledger, last_id) = LedgerFile::open(folder);
        let before = ledger_file::read_lines(folder).expect("a plain file");
        let next_id = last_id.map_or(0, |id| id.0) + 1;
        assert!(History::fold(&before.lines).next_id().0 <= next_id, "{next_id} was used");
        let new = ["{\"n\":1}", "{\"n\":2}", "3"];
        ledger.append(&new[..1]).expect("room on the disk");
        ledger.append(&new[1..]).expect("room on the disk");
        assert!(fs::metadata(&path).expect("the file").len() <= MAX_BYTES);
        let after = ledger_file::read_lines(folder).expect("a plain file");
        let whole: Vec<_> = before.lines.iter().map(String::as_str).chain(new).collect();
        let kept: Vec<_> = after.lines.iter().map(String::as_str).collect();
        assert!(after.skipped <= before.skipped);
        if file.len() < LARGEST / 2 {
            assert_eq!(kept, whole);
        }
        // The older half may have gone, and no id with it.
        let mut rest = whole.iter();
        assert!(kept.iter().all(|line| rest.any(|known| known == line)), "out of order");
        assert!(kept.ends_with(&new));
        assert_eq!(LedgerFile::open(folder).1, last_id);
    });
}
