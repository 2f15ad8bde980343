use std::{
    fs,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::PermissionsExt,
    },
};

use lockkeeper::{
    protocol::{
        exit::{ChildExit, SpawnFailure},
        signal::Signal,
    },
    sys::{
        hook::{Hook, TAIL},
        process::spawn,
        reaper, signals,
    },
};
use rustix::io::{FdFlags, fcntl_getfd};

use crate::{Order, alone, assert_starts_clean, end_of, inheritable_fds, stopped};

#[test]
fn a_child_gets_what_it_is_given_and_nothing_else() {
    let _alone = alone();
    let lock = tempfile::tempfile().unwrap();
    let bystander = tempfile::tempfile().unwrap();
    let order = Order::sh("kill -STOP $$; exit 7").env("A", "b c");
    let fds = inheritable_fds();

    let child = spawn(&order.launch(Some(lock.as_fd()))).unwrap();
    let pid = child.pid();
    stopped(pid);
    assert_starts_clean(pid, fds, Some(lock.as_raw_fd()));
    assert_eq!(fs::read(format!("/proc/{pid}/cmdline")).unwrap(), {
        let mut line = order.argv.join("\0").into_bytes();
        line.push(0);
        line
    });
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"A=b c\0PATH=/usr/bin:/bin\0");
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/0")).unwrap().to_str(), Some("/dev/null"));
    assert_eq!(fcntl_getfd(&bystander).unwrap(), FdFlags::CLOEXEC);

    signals::send(pid, Signal::Cont).unwrap();
    assert_eq!(end_of(child).exit, ChildExit::Code(7));
}

#[test]
fn the_child_lock_is_lent_for_the_spawn_alone() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("broken");
    fs::write(&broken, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&broken, PermissionsExt::from_mode(0o755)).unwrap();
    let lock = tempfile::tempfile().unwrap();

    let child = spawn(&Order::sh("exit 0").launch(Some(lock.as_fd()))).unwrap();
    assert_eq!(fcntl_getfd(&lock).unwrap(), FdFlags::CLOEXEC);
    end_of(child);
    let order = Order::new(&[broken.to_str().unwrap()]);
    spawn(&order.launch(Some(lock.as_fd()))).unwrap_err();
    assert_eq!(fcntl_getfd(&lock).unwrap(), FdFlags::CLOEXEC);
}

#[test]
fn a_command_that_cannot_be_run_is_told_with_its_reason() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let missing_interpreter = file("a", "#!/no/such/interpreter\n", 0o755);
    for (command, kind) in [
        ("no-such-command", SpawnFailure::NotFound),
        ("/no/such/command", SpawnFailure::NotFound),
        ("/tmp", SpawnFailure::NotExecutable),
        (&missing_interpreter, SpawnFailure::NotExecutable),
        (&file("b", "no program", 0o755), SpawnFailure::NotExecutable),
        (&file("c", "#!/bin/sh\n", 0o644), SpawnFailure::NotExecutable),
    ] {
        let error = Order::new(&[command]).spawn().unwrap_err();
        assert_eq!(error.kind, kind, "{command}: {}", error.source);
        assert!(error.to_string().contains(command));
    }
    let error = Order::new(&[&missing_interpreter]).spawn().unwrap_err();
    assert!(error.source.to_string().contains("interpreter"), "{}", error.source);
    assert_eq!(Order::new(&[]).spawn().unwrap_err().kind, SpawnFailure::NotFound);
    assert_eq!(reaper::peek(&[]), reaper::Peek::NoChildren, "nothing was left behind");
}

#[tokio::test]
async fn of_what_a_hook_says_the_end_is_kept() {
    let _alone = alone();
    let order = Order::sh("yes ö | head -c 100001; echo end; echo oops >&2; exit 3");
    let mut hook = Hook::spawn(&order.launch(None)).unwrap();
    let said = hook.output().await;
    assert!(said.stdout.ends_with("end\n") && said.stdout.len() <= TAIL, "{}", said.stdout);
    // Cut in the middle of a character at both ends of `head`'s work: one is lost, one is marked.
    assert!(said.stdout.starts_with(['ö', '\n']), "{:?}", &said.stdout[..8]);
    assert_eq!(said.stderr, "oops\n");
    assert_eq!(hook.output().await, said, "the end stays the end");
    assert_eq!(end_of(hook.into_child()).exit, ChildExit::Code(3));
}

#[tokio::test]
async fn a_hook_is_killed_with_what_it_started() {
    let _alone = alone();
    let mut hook = Hook::spawn(&Order::sh("sleep 1000 & sleep 1000").launch(None)).unwrap();
    hook.kill_group().unwrap();
    // Both sleepers have the pipes, so this ends only if both did.
    hook.output().await;
    assert_eq!(end_of(hook.into_child()).exit, ChildExit::Signal(9));
}
