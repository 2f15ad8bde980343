//! The journal's file: whose it is, what if it is damaged, full, read-only, or shared.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use lockkeeper::gateway::{
    journal::{
        sqlite::{OpenError, Opened, SetAside, Sqlite, SqliteOptions, SqliteReader},
        storage::{Found, Query, Reader, Storage, StorageError, Write, Written},
    },
    message::{Conversation, Inbound},
};
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

const FAST: SqliteOptions = SqliteOptions { sync: false };

fn path_in(folder: &TempDir) -> PathBuf {
    folder.path().join("state/journal.db")
}

fn open(path: &Path) -> Opened {
    Sqlite::open(path, FAST).unwrap()
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

fn filled(path: &Path, count: usize) {
    let mut storage = open(path).storage;
    let batch: Vec<_> = (0..count).map(|number| accept(&number.to_string(), 1000)).collect();
    storage.commit(&batch).unwrap();
}

fn ids(storage: &mut Sqlite) -> Vec<String> {
    entries(storage.read(&Query::Unfinished).unwrap())
}

fn entries(found: Found) -> Vec<String> {
    let Found::Entries { messages, .. } = found else { panic!("{found:?}") };
    messages.into_iter().map(|message| message.inbound.id).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

fn beside(path: &Path, end: &str) -> PathBuf {
    PathBuf::from(format!("{}{end}", path.display()))
}

#[test]
fn folder_and_file_and_log_are_for_us_alone() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    let mut storage = open(&path).storage;
    storage.commit(&[accept("1", 10)]).unwrap();
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for end in ["", "-wal", "-shm"] {
        assert_eq!(mode(&beside(&path, end)), 0o600, "{end}");
    }
    drop(storage);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    drop(open(&path));
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn no_link_is_followed_to_a_journal_and_no_folder_taken_for_one() {
    let folder = TempDir::new().unwrap();
    let target = folder.path().join("elsewhere.db");
    filled(&target, 1);
    let link = folder.path().join("journal.db");
    symlink(&target, &link).unwrap();
    assert!(
        matches!(Sqlite::open(&link, FAST), Err(OpenError::NotAFile(path)) if path.ends_with("journal.db"))
    );
    assert!(matches!(SqliteReader::open(&link), Err(OpenError::NotAFile(_))));
    assert!(matches!(Sqlite::open(folder.path(), FAST), Err(OpenError::NotAFile(_))));
    // A folder on the way may be a link.
    let way = folder.path().join("way");
    symlink(folder.path(), &way).unwrap();
    assert_eq!(ids(&mut open(&way.join("elsewhere.db")).storage), ["0"]);
}

#[test]
fn a_journal_of_a_later_version_is_refused_in_words_and_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    filled(&path, 1);
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Sqlite::open(&path, FAST).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }));
    assert!(error.to_string().contains("has schema 99"), "{error}");
    assert!(path.exists());
}

#[test]
fn another_programs_database_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("journal.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    let before = fs::read(&path).unwrap();
    assert!(matches!(Sqlite::open(&path, FAST), Err(OpenError::Foreign(_))));
    assert_eq!(fs::read(&path).unwrap(), before);
}

/// Damages the file, and gives what is then said of it.
fn damaged(damage: impl FnOnce(&Path)) -> SetAside {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    filled(&path, 300);
    damage(&path);
    let before = fs::read(&path).ok();
    let Opened { mut storage, set_aside } = open(&path);
    let aside = set_aside.expect("it is damaged");
    assert_eq!(fs::read(&aside.path).ok(), before, "it is kept as it was");
    let name = aside.path.file_name().unwrap().to_str().unwrap();
    let seconds = name.strip_prefix("journal.db.damaged-").unwrap();
    assert!(seconds.parse::<u64>().is_ok(), "{name}");
    // And a new one is begun.
    assert_eq!(ids(&mut storage), Vec::<String>::new());
    storage.commit(&[accept("new", 10)]).unwrap();
    drop(storage);
    let Opened { mut storage, set_aside } = open(&path);
    assert_eq!((set_aside, ids(&mut storage)), (None, vec!["new".to_owned()]));
    aside
}

fn overwrite(path: &Path, from: usize, length: usize, byte: u8) {
    let mut content = fs::read(path).unwrap();
    content[from..from + length].fill(byte);
    fs::write(path, content).unwrap();
}

#[test]
fn a_damaged_journal_is_seen_set_aside_under_a_told_name_and_never_overwritten() {
    let aside =
        damaged(|path| fs::write(path, b"no database, for a long time now".repeat(99)).unwrap());
    assert!(aside.why.contains("not a database"), "{}", aside.why);
    damaged(|path| fs::write(path, b"").unwrap());
    damaged(|path| fs::write(path, b"x").unwrap());
    // A truncated header, half a page, half the pages.
    for length in [50, 99, 2048, 4096, 4096 * 3 + 2048, 4096 * 40] {
        damaged(|path| {
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap()
        });
    }
    damaged(|path| overwrite(path, 0, 16, 0));
    damaged(|path| overwrite(path, 4096 * 30, 4096, 0xa5));
    damaged(|path| overwrite(path, 4096 * 20, 4096 * 40, 0));
}

#[test]
fn a_journal_without_one_of_its_tables_is_damaged() {
    let aside = damaged(|path| {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("DROP TABLE answers").unwrap();
    });
    assert!(aside.why.contains("answers"), "{}", aside.why);
}

#[test]
fn a_log_without_its_journal_is_set_aside_with_what_is_in_it() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    let mut storage = open(&path).storage;
    storage.commit(&[accept("1", 10)]).unwrap();
    let log = fs::read(beside(&path, "-wal")).unwrap();
    drop(storage);
    fs::remove_file(&path).unwrap();
    fs::write(beside(&path, "-wal"), &log).unwrap();
    let Opened { mut storage, set_aside } = open(&path);
    let aside = set_aside.expect("something was there");
    assert_eq!(fs::read(beside(&aside.path, "-wal")).unwrap(), log);
    assert_eq!(ids(&mut storage), Vec::<String>::new());
}

#[test]
fn two_that_are_set_aside_in_one_second_have_two_names() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    let mut names = Vec::new();
    for content in ["one", "two", "three"] {
        drop(open(&path));
        fs::write(&path, content).unwrap();
        names.push((open(&path).set_aside.unwrap().path, content));
    }
    for (name, content) in names {
        assert_eq!(fs::read_to_string(name).unwrap(), content);
    }
}

#[test]
fn what_a_start_that_was_cut_off_left_behind_is_thrown_away() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for end in [".new", ".new-journal", ".new-wal"] {
        fs::write(beside(&path, end), "half").unwrap();
    }
    assert_eq!(open(&path).set_aside, None);
    assert!(!beside(&path, ".new").exists());
}

#[test]
fn damage_that_shows_in_a_later_read_is_told_as_damage() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    filled(&path, 300);
    let mut reader = SqliteReader::open(&path).unwrap();
    let length = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    overwrite(&path, 4096, length - 4096, 0xa5);
    let error = reader.read(&Query::Unfinished).unwrap_err();
    assert!(matches!(error, StorageError::Corrupt(_)), "{error:?}");
}

#[test]
fn a_second_process_reads_beside_the_gateway_and_its_writes_wait_for_the_other() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    let mut gateway = open(&path).storage;
    gateway.commit(&[accept("1", 10)]).unwrap();
    let mut reader = SqliteReader::open(&path).unwrap();
    assert_eq!(entries(reader.read(&Query::Unfinished).unwrap()), ["1"]);
    let mut second = Sqlite::open_beside(&path, FAST).unwrap();
    let writers = std::thread::scope(|scope| {
        let one = scope.spawn(|| {
            (0..50).map(|id| gateway.commit(&[accept(&format!("g{id}"), 10)])).all(|it| it.is_ok())
        });
        let two = scope.spawn(|| {
            (0..50).map(|id| second.commit(&[accept(&format!("s{id}"), 10)])).all(|it| it.is_ok())
        });
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(writers, (true, true));
    assert_eq!(entries(reader.read(&Query::Unfinished).unwrap()).len(), 101);
    assert!(matches!(gateway.commit(&[accept("s1", 10)]).unwrap()[..], [Written::Known(_)]));
}

#[test]
fn who_looks_in_from_beside_makes_nothing_and_sets_nothing_aside() {
    let folder = TempDir::new().unwrap();
    let path = path_in(&folder);
    assert!(SqliteReader::open(&path).is_err());
    assert!(Sqlite::open_beside(&path, FAST).is_err());
    assert!(!path.exists());
    filled(&path, 1);
    fs::write(&path, "damaged").unwrap();
    let error = Sqlite::open_beside(&path, FAST).unwrap_err();
    let OpenError::Engine { source: StorageError::Corrupt(_), .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(fs::read_to_string(&path).unwrap(), "damaged");
}

/// Runs one of the tests below as another process, on a small disk of its own, where we may mount
/// one.
#[allow(clippy::print_stderr, reason = "what was not looked at is said")]
fn on_small_disk(test: &str, options: &str) {
    let module = module_path!().split_once("::").expect("in a crate").1;
    let folder = TempDir::new().unwrap();
    let script =
        format!("mount -t tmpfs -o size=1m tmpfs \"$0\" || exit 77; {options} exec \"$@\"");
    let ran = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .arg(folder.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("{module}::{test}")])
        .env(SMALL_DISK, folder.path())
        .output();
    match ran {
        Ok(ran) if ran.status.success() => {}
        Ok(ran) if ran.status.code() != Some(77) && !ran.stdout.is_empty() => panic!(
            "{}{}",
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr)
        ),
        refused => {
            eprintln!("no disk of our own here, so this is left to the unit tests: {refused:?}");
        }
    }
}

const SMALL_DISK: &str = "JOURNAL_SMALL_DISK";

#[test]
fn a_full_disk_is_told_and_what_was_accepted_stays_and_with_room_it_goes_on() {
    let Some(folder) = std::env::var_os(SMALL_DISK) else {
        let test = "a_full_disk_is_told_and_what_was_accepted_stays_and_with_room_it_goes_on";
        on_small_disk(test, "");
        return;
    };
    let path = Path::new(&folder).join("journal.db");
    let ballast = Path::new(&folder).join("ballast");
    fs::write(&ballast, vec![0; 300_000]).unwrap();
    let mut storage = Sqlite::open(&path, SqliteOptions::default()).unwrap().storage;
    let mut accepted = Vec::new();
    let refused = loop {
        let id = accepted.len().to_string();
        match storage.commit(&[accept(&id, 10_000)]) {
            Ok(_) => accepted.push(id),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, StorageError::Full);
    assert!(!accepted.is_empty());
    assert_eq!(ids(&mut storage), accepted);
    fs::remove_file(&ballast).unwrap();
    storage.commit(&[accept("later", 10_000)]).unwrap();
    accepted.push("later".to_owned());
    // Full again, and killed then: on the next start all is there.
    while storage.commit(&[accept(&accepted.len().to_string(), 10_000)]).is_ok() {
        accepted.push(accepted.len().to_string());
    }
    std::mem::forget(storage);
    let Opened { mut storage, set_aside } = Sqlite::open(&path, FAST).unwrap();
    assert_eq!((set_aside, ids(&mut storage)), (None, accepted));
}

#[test]
fn a_disk_that_cannot_be_written_is_told_and_nothing_is_set_aside() {
    let Some(folder) = std::env::var_os(SMALL_DISK) else {
        let test = "a_disk_that_cannot_be_written_is_told_and_nothing_is_set_aside";
        on_small_disk(test, "mount -o remount,ro \"$0\" || exit 77;");
        return;
    };
    let path = Path::new(&folder).join("journal.db");
    let error = Sqlite::open(&path, FAST).unwrap_err();
    assert!(error.to_string().contains("Read-only file system"), "{error}");
    assert!(error.to_string().contains("journal.db"), "{error}");
}
