use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
};

use lockkeeper::{
    protocol::{
        exit::{ChildExit, SpawnFailure},
        signal::Signal,
    },
    sys::{
        lock::ChildLock,
        process::{Launch, SpawnError, StdinFrom},
        reaper, signals,
        stage::{Stage, StageError, stage},
    },
};

use crate::{Order, alone, assert_starts_clean, dead, end_of, inheritable_fds, stopped};

fn staged(launch: &Launch<'_>) -> Stage {
    stage(launch, Path::new(env!("CARGO_BIN_EXE_lockkeeper"))).unwrap()
}

fn spawn_error(error: StageError) -> SpawnError {
    match error {
        StageError::Spawn(error) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_released_stage_is_the_command_as_if_it_had_been_started() {
    let _alone = alone();
    let lock = tempfile::tempfile().unwrap();
    let order = Order::sh("kill -STOP $$; exit 7").env("A", "b");
    let fds = inheritable_fds();
    let mut stage = staged(&order.launch(Some(lock.as_fd())));
    let pid = stage.pid();
    stage.checked().await.unwrap();
    stage.release().unwrap();
    stage.released().await.unwrap();

    stopped(pid);
    assert_starts_clean(pid, fds, Some(lock.as_raw_fd()));
    let cmdline = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(cmdline, "sh\0-c\0kill -STOP $$; exit 7\0");
    let environ = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert_eq!(environ, "A=b\0PATH=/usr/bin:/bin\0");
    assert_eq!(fs::read_link(format!("/proc/{pid}/fd/0")).unwrap().to_str(), Some("/dev/null"));
    signals::send(pid, Signal::Cont).unwrap();
    assert_eq!(end_of(stage.into_child()).exit, ChildExit::Code(7));
}

#[tokio::test]
async fn a_released_stage_reads_what_we_would_read() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    fs::write(&input, "said to us").unwrap();
    rustix::stdio::dup2_stdin(File::open(&input).unwrap()).unwrap();

    let order = Order::sh("cat > \"$OUT\"").env("OUT", &output);
    let launch = Launch { stdin: StdinFrom::Inherit, ..order.launch(None) };
    let mut stage = staged(&launch);
    stage.checked().await.unwrap();
    stage.release().unwrap();
    stage.released().await.unwrap();
    assert_eq!(end_of(stage.into_child()).exit, ChildExit::Code(0));
    assert_eq!(fs::read_to_string(output).unwrap(), "said to us");
}

#[tokio::test]
async fn a_command_that_cannot_be_run_is_told_before_the_release() {
    let _alone = alone();
    for (command, kind) in [
        ("no-such-command", SpawnFailure::NotFound),
        ("/no/such/command", SpawnFailure::NotFound),
        ("/tmp", SpawnFailure::NotExecutable),
    ] {
        let mut stage = staged(&Order::new(&[command, "argument"]).launch(None));
        let error = spawn_error(stage.checked().await.unwrap_err());
        assert_eq!((error.kind, error.program.as_str()), (kind, command));
        let exit = end_of(stage.into_child()).exit;
        assert_eq!(exit, ChildExit::Code(kind.as_code()), "it has ended by itself");
    }
}

#[tokio::test]
async fn a_command_that_is_lost_after_the_check_is_told_too() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("command");
    fs::write(&file, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();

    let mut stage = staged(&Order::new(&[file.to_str().unwrap()]).launch(None));
    stage.checked().await.unwrap();
    stage.release().unwrap();
    let error = spawn_error(stage.released().await.unwrap_err());
    assert_eq!(error.kind, SpawnFailure::NotExecutable);
    end_of(stage.into_child());
}

#[tokio::test]
async fn a_stage_that_is_given_up_ends_by_itself_and_frees_the_child_lock() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let lock = ChildLock::open(dir.path()).unwrap();
    assert!(lock.try_lock().unwrap());
    let mut stage = staged(&Order::sh("exit 7").launch(Some(lock.fd())));
    let pid = stage.pid();
    stage.checked().await.unwrap();
    drop(lock);
    let next = ChildLock::open(dir.path()).unwrap();
    assert!(!next.try_lock().unwrap(), "the stage has it");

    drop(stage);
    dead(pid);
    assert_eq!(reaper::reap(pid).exit, ChildExit::Code(0));
    assert!(next.try_lock().unwrap());
}

#[tokio::test]
async fn a_stage_that_was_killed_is_told() {
    let _alone = alone();
    let mut stage = staged(&Order::sh("exit 0").launch(None));
    signals::send_group(stage.pid(), Signal::Kill).unwrap();
    dead(stage.pid());
    let pid = stage.pid();
    match stage.checked().await {
        Err(StageError::Ended { pid: told }) => assert_eq!(told, pid),
        // It had answered before.
        Ok(()) => assert!(matches!(stage.release(), Err(StageError::Socket { .. }))),
        other => panic!("{other:?}"),
    }
    end_of(stage.into_child());
}

#[test]
fn a_stage_that_cannot_be_started_leaves_nothing_behind() {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let error = stage(&Order::sh("").launch(None), Path::new("/no/such/lockkeeper")).unwrap_err();
    assert_eq!(error.kind, SpawnFailure::NotFound);
    assert_eq!(reaper::peek(&[]), reaper::Peek::NoChildren);
}
