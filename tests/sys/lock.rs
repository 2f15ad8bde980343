use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::Duration,
};

use lockkeeper::{
    protocol::signal::Signal,
    sys::{
        lock::{CHILD_LOCK, ChildLock, ChildRecord, GATEWAY_LOCK, GatewayLock, Holder, LockError},
        process::{Child, spawn},
        signals::{self, Signals},
    },
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Order, alone, end_of, stopped};

const FOR_EVER: Duration = Duration::from_secs(600);

fn me() -> Holder {
    Holder::ours("the command")
}

fn holder(result: Result<GatewayLock, LockError>) -> Option<Holder> {
    match result.unwrap_err() {
        LockError::Held { holder, .. } => holder,
        other => panic!("{other:?}"),
    }
}

/// A process of the `flock` program that holds the lock and has written nothing into it.
fn foreign_holder(dir: &Path) -> Child {
    let fifo = dir.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let order = Order::sh("exec flock \"$LOCK\" sh -c 'echo > \"$FIFO\"; exec sleep 1000'")
        .env("LOCK", dir.join(GATEWAY_LOCK))
        .env("FIFO", &fifo);
    let child = order.spawn().unwrap();
    // To its end, or the writer would be hit by SIGPIPE.
    fs::read(fifo).unwrap();
    child
}

#[test]
fn a_second_instance_is_told_who_holds_the_lock() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let lock = GatewayLock::try_acquire(dir.path(), &me()).unwrap();
    let refusal = GatewayLock::try_acquire(dir.path(), &me()).unwrap_err();
    let path = dir.path().join(GATEWAY_LOCK);
    assert_eq!(
        refusal.to_string(),
        format!(
            "{} is held by process {} (supervising `the command`)",
            path.display(),
            std::process::id()
        )
    );
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    drop(lock);
    assert!(path.exists(), "it is never unlinked");
    drop(GatewayLock::try_acquire(dir.path(), &me()).unwrap());
}

#[test]
fn a_holder_that_wrote_nothing_is_named_by_the_kernel() {
    let _alone = alone();
    // On tmpfs, as /proc/locks and stat name devices differently on overlayfs and btrfs.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let child = foreign_holder(dir.path());
    let holder = holder(GatewayLock::try_acquire(dir.path(), &me())).unwrap();
    assert_eq!((holder.pid, holder.start_time), (child.pid(), child.id().start_time));
    signals::send_group(child.pid(), Signal::Kill).unwrap();
    end_of(child);
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(GATEWAY_LOCK);
    let refusal = || GatewayLock::try_acquire(dir.path(), &me()).unwrap_err();

    symlink(dir.path().join("elsewhere"), &path).unwrap();
    assert!(matches!(refusal(), LockError::Symlink { .. }));
    assert!(!dir.path().join("elsewhere").exists());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(refusal(), LockError::NotAFile { .. }));
    fs::remove_dir(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(refusal(), LockError::NotAFile { .. }));

    // Nobody, root neither, can make a file there.
    let unwritable = GatewayLock::try_acquire(Path::new("/proc"), &me()).unwrap_err();
    assert!(matches!(unwritable, LockError::Open { .. }));
    assert!(unwritable.to_string().contains("/proc/gateway.lock"));
}

#[tokio::test]
async fn who_stands_by_takes_over_when_the_holder_dies() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let child = foreign_holder(dir.path());
    let me = me();
    let standing_by = GatewayLock::acquire_within(dir.path(), &me, FOR_EVER);
    let (lock, ()) = tokio::join!(standing_by, async {
        signals::send_group(child.pid(), Signal::Kill).unwrap();
    });
    assert_eq!(holder(GatewayLock::try_acquire(dir.path(), &me)), Some(me));
    drop(lock.unwrap());
    end_of(child);
}

#[tokio::test]
async fn who_stands_by_too_long_is_told_who_holds_the_lock() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let _lock = GatewayLock::try_acquire(dir.path(), &me()).unwrap();
    let limit = Duration::from_millis(10);
    let refused = GatewayLock::acquire_within(dir.path(), &me(), limit).await;
    assert_eq!(holder(refused).map(|holder| holder.pid), Some(std::process::id()));
}

#[tokio::test]
async fn a_lock_that_was_deleted_is_not_taken_for_the_lock() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let first = GatewayLock::try_acquire(dir.path(), &me()).unwrap();
    let me = me();
    let standing_by = GatewayLock::acquire_within(dir.path(), &me, FOR_EVER);
    let (second, ()) = tokio::join!(standing_by, async {
        fs::remove_file(dir.path().join(GATEWAY_LOCK)).unwrap();
        drop(first);
    });
    second.as_ref().unwrap();
    assert!(holder(GatewayLock::try_acquire(dir.path(), &me)).is_some());
}

#[tokio::test]
async fn a_lock_is_had_though_nothing_can_be_written() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    // The handler of SIGXFSZ makes this the error that it is, as ENOSPC is.
    let _signals = Signals::install().unwrap();
    let before = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(0), ..before }).unwrap();
    let lock = GatewayLock::try_acquire(dir.path(), &me());
    let child_lock = ChildLock::open(dir.path()).unwrap();
    let taken = child_lock.try_lock();
    let recorded = child_lock.record(&record(1));
    setrlimit(Resource::Fsize, before).unwrap();

    lock.unwrap();
    assert!(taken.unwrap());
    recorded.unwrap_err();
}

fn record(generation: u64) -> ChildRecord {
    let Holder { pid, start_time, boot_id, command, .. } = me();
    ChildRecord { pid, start_time, boot_id, generation, command }
}

#[tokio::test]
async fn the_child_lock_is_held_while_a_child_lives_that_inherited_it() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let ours = ChildLock::open(dir.path()).unwrap();
    assert!(ours.try_lock().unwrap());
    assert!(ours.try_lock().unwrap(), "it stays ours");
    ours.record(&record(3)).unwrap();
    let child = spawn(&Order::sh("kill -STOP $$").launch(Some(ours.fd()))).unwrap();
    stopped(child.pid());
    // As if we had died.
    drop(ours);

    let next = ChildLock::open(dir.path()).unwrap();
    assert!(!next.try_lock().unwrap());
    assert_eq!(next.read_record(), Some(record(3)));
    let ended = next.lock_blocking_in_thread();
    signals::send(child.pid(), Signal::Kill).unwrap();
    ended.await.unwrap();
    assert!(next.try_lock().unwrap());
    let third = ChildLock::open(dir.path()).unwrap();
    assert!(!third.try_lock().unwrap(), "the thread took it for us");
    end_of(child);
}

#[test]
fn a_record_is_replaced_as_a_whole_and_a_torn_one_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let lock = ChildLock::open(dir.path()).unwrap();
    assert_eq!(lock.read_record(), None);
    let long = ChildRecord { command: "x".repeat(5000), ..record(1) };
    lock.record(&long).unwrap();
    assert_eq!(lock.read_record(), Some(long));
    lock.record(&record(2)).unwrap();
    assert_eq!(lock.read_record(), Some(record(2)));

    let path = dir.path().join(CHILD_LOCK);
    assert_eq!(lock.path(), path);
    let text = fs::read(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert_eq!(lock.read_record(), None);
}
