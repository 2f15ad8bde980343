//! The child's output, inherited and captured, and our own log: whoever reads them, or does not.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::{
    fs,
    io::{self, PipeReader, Write},
    os::unix::fs::symlink,
};

use serde_json::Value;

use crate::support::{OBEDIENT, Rig, Supervisor, probe};

const CAPTURE: &str = "[log]\ncapture = true\n";
/// One failure is enough.
const ONCE: &str = "[limit]\nburst = 1\nthen = 'park'\n";

/// A child that obeys, beside a process of its tree that writes `line` as fast as it can.
fn flooding(rig: Rig, line: &str) -> Rig {
    let script = format!("yes '{line}' & exec \"$0\" \"$@\"");
    rig.command(["sh", "-c", &script, probe()].into_iter().chain(OBEDIENT))
}

/// A pipe that holds nothing more, and that nobody reads.
fn full_pipe() -> (PipeReader, io::PipeWriter) {
    let (reader, mut writer) = io::pipe().expect("a pipe");
    let size = rustix::pipe::fcntl_getpipe_size(&writer).expect("a pipe has a size");
    writer.write_all(&vec![b'.'; size]).expect("it is empty, and its reader is there");
    (reader, writer)
}

fn pipe_without_a_reader() -> io::PipeWriter {
    io::pipe().expect("a pipe").1
}

/// It answers, restarts, and stops in order.
#[track_caller]
fn assert_well(gateway: &mut Supervisor) {
    let first = gateway.next_child();
    gateway.until(|status| status.state == "ready");
    let restart = gateway.cli(["restart", "--wait"]);
    assert_eq!(restart.code, 0, "{restart:?}");
    first.gone();
    assert_eq!(gateway.next_child().generation(), 2);
    assert_eq!(gateway.status().crashes, 0);
    assert_eq!(gateway.stop(), 0);
}

/// What the last incident's last child printed last.
fn last_lines(gateway: &Supervisor) -> Vec<String> {
    let incidents = gateway.why();
    let ends = incidents.last().and_then(|incident| incident["ends"].as_array());
    let end = ends.and_then(|ends| ends.last()).expect("a child has ended");
    serde_json::from_value(end["last_lines"].clone()).unwrap_or_default()
}

#[test]
fn by_default_the_child_has_our_own_output() {
    let mut gateway = Rig::new().child(OBEDIENT).start();
    let child = gateway.next_child();
    let stdout = gateway.rig().path("stdout");
    assert_eq!(child.hello.fds["1"], stdout.to_str().unwrap());
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn captured_output_of_bytes_without_lines_is_passed_on_as_it_is() {
    let rig = Rig::new().config(CAPTURE);
    let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(n) >> 9) as u8).collect();
    let bytes: Vec<u8> = bytes.into_iter().filter(|byte| *byte != b'\n').collect();
    fs::write(rig.path("bytes"), &bytes).unwrap();
    let script = format!("cat {}", rig.path("bytes").display());
    let mut gateway = rig.command(["sh", "-c", &script]).start();
    assert_eq!(gateway.wait(), 0);
    let came = fs::read(gateway.rig().path("stdout")).unwrap();
    assert!(came == bytes, "{} of {} bytes came", came.len(), bytes.len());
}

#[test]
fn captured_output_keeps_stdout_and_stderr_apart() {
    let script = "echo out; echo err >&2; printf rest; printf remainder >&2";
    let mut gateway = Rig::new().config(CAPTURE).command(["sh", "-c", script]).start();
    assert_eq!(gateway.wait(), 0);
    assert_eq!(fs::read_to_string(gateway.rig().path("stdout")).unwrap(), "out\nrest");
    let log = gateway.log().lines();
    assert!(log.iter().any(|line| line == "err"), "{log:?}");
    assert!(log.iter().any(|line| line.starts_with("remainder")), "{log:?}");
}

#[test]
fn a_staged_successor_writes_to_the_same_pipes() {
    let mut gateway = Rig::new().config(CAPTURE).child(OBEDIENT).start();
    let first = gateway.next_child();
    let fds = |child: &support::Peer| ["1", "2"].map(|fd| child.hello.fds[fd].clone());
    let before = fds(&first);
    assert!(before.iter().all(|fd| fd.starts_with("pipe:")), "{before:?}");
    assert_eq!(gateway.cli(["restart", "--wait"]).code, 0);
    let second = gateway.next_child();
    assert_eq!(fds(&second), before);
    second.perform("print said by the second");
    gateway.expect_log("said by the second");
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn a_flood_into_a_stdout_that_nobody_reads_costs_output_and_nothing_else() {
    let (_reader, stdout) = full_pipe();
    let rig = flooding(Rig::new().config(CAPTURE), "a line of a flood");
    let mut gateway = rig.stdout(stdout).start();
    gateway.expect_log("dropped: the reader of stdout does not keep up");
    assert_well(&mut gateway);
}

#[test]
fn a_flood_of_captured_output_that_is_read_leaves_us_time_for_all_else() {
    let stdout = fs::File::options().write(true).open("/dev/null").unwrap();
    let rig = flooding(Rig::new().config(CAPTURE), "a line of a flood");
    assert_well(&mut rig.stdout(stdout).start());
}

#[test]
fn a_flood_of_inherited_output_that_nobody_reads_is_the_childs_own_affair() {
    let (_reader, stdout) = full_pipe();
    let rig = flooding(Rig::new(), "a line of a flood");
    assert_well(&mut rig.stdout(stdout).start());
}

#[test]
fn a_flood_without_line_ends_is_no_other() {
    let (_reader, stdout) = full_pipe();
    let script = "cat /dev/zero & exec \"$0\" \"$@\"";
    let orders = ["sh", "-c", script, probe()].into_iter().chain(OBEDIENT);
    let mut gateway = Rig::new().config(CAPTURE).command(orders).stdout(stdout).start();
    gateway.expect_log("dropped: the reader of stdout does not keep up");
    assert_well(&mut gateway);
}

#[test]
fn the_reader_of_our_stdout_may_go() {
    let rig = flooding(Rig::new().config(CAPTURE), "nobody reads this");
    let mut gateway = rig.stdout(pipe_without_a_reader()).start();
    gateway.expect_log("dropped: stdout: Broken pipe");
    assert_well(&mut gateway);
}

#[test]
fn stdout_may_be_closed_at_the_start() {
    for settings in ["", "--config=capture.toml"] {
        let rig = Rig::new();
        let folder = rig.path("");
        fs::write(rig.path("capture.toml"), CAPTURE).unwrap();
        let script = format!(
            "cd '{}'; exec '{}' run --state-dir '{}' {settings} -- \"$0\" \"$@\" >&-",
            folder.display(),
            env!("CARGO_BIN_EXE_lockkeeper"),
            rig.state().display(),
        );
        let orders = ["sh", "-c", &script, probe()].into_iter().chain(OBEDIENT);
        assert_well(&mut rig.command(orders).start_bare());
    }
}

#[test]
fn a_stderr_that_nobody_reads_does_not_keep_us_from_anything() {
    let (_reader, stderr) = full_pipe();
    assert_well(&mut Rig::new().child(OBEDIENT).stderr(stderr).start());
}

#[test]
fn a_stderr_whose_reader_has_gone_does_not_keep_us_from_anything() {
    for config in ["", CAPTURE] {
        let rig = Rig::new().config(config).child(OBEDIENT);
        assert_well(&mut rig.stderr(pipe_without_a_reader()).start());
    }
}

#[test]
fn a_crash_is_told_with_the_last_lines_of_the_child() {
    let config = format!("{CAPTURE}lines = 3\n{ONCE}");
    let script = "for n in 1 2 3 4 5; do echo line $n; done; printf 'cut \\033[31moff'; exit 3";
    let mut gateway = Rig::new().config(&config).command(["sh", "-c", script]).start();
    assert_eq!(gateway.wait(), 70);
    assert_eq!(last_lines(&gateway), ["line 4", "line 5", "cut  [31moff"]);
}

#[test]
fn the_last_lines_of_one_child_are_not_told_of_the_next() {
    let config = format!("{CAPTURE}[limit]\nburst = 2\nthen = 'park'\n");
    let script = "echo generation $LOCKKEEPER_GENERATION; exit 3";
    let mut gateway = Rig::new().config(&config).command(["sh", "-c", script]).start();
    assert_eq!(gateway.wait(), 70);
    assert_eq!(last_lines(&gateway), ["generation 2"]);
}

#[test]
fn an_end_that_is_no_failure_keeps_no_lines() {
    let mut gateway = Rig::new().config(CAPTURE).command(["sh", "-c", "echo bye"]).start();
    assert_eq!(gateway.wait(), 0);
    assert_eq!(last_lines(&gateway), [""; 0]);
}

#[test]
fn a_file_gets_the_output_too_and_is_rotated() {
    let rig = Rig::new();
    let file = rig.path("output.log");
    let keys = format!("file = '{}'\nfile_size = '1KiB'\nfiles = 3\n", file.display());
    let script = "seq 1 1000; echo last >&2";
    let rig = rig.config(&format!("{CAPTURE}{keys}")).command(["sh", "-c", script]);
    let mut gateway = rig.start();
    assert_eq!(gateway.wait(), 0);
    let newest = fs::read_to_string(&file).unwrap();
    assert!(newest.ends_with("last\n") || newest.ends_with("1000\n"), "{newest}");
    for (name, there) in [("output.log.1", true), ("output.log.2", true), ("output.log.3", false)] {
        let path = gateway.rig().path(name);
        assert_eq!(path.exists(), there, "{name}");
        assert!(!there || fs::metadata(path).unwrap().len() <= 1024, "{name}");
    }
}

#[test]
fn a_file_that_cannot_be_written_costs_lines_and_is_told() {
    let rig = Rig::new();
    let (link, target) = (rig.path("link.log"), rig.path("target"));
    symlink(&target, &link).unwrap();
    let missing = rig.path("missing/output.log");
    for file in [link, missing, "/dev/full".into()] {
        let keys = format!("{CAPTURE}file = '{}'\n", file.display());
        let rig = rig.clone().config(&keys).child(OBEDIENT);
        let mut gateway = rig.start();
        let child = gateway.next_child();
        child.perform("print this is passed on nevertheless");
        gateway.expect_log("this is passed on nevertheless");
        gateway.expect_log("bytes of the child's output were dropped: log.file: ");
        assert_eq!(gateway.stop(), 0);
    }
    assert!(!target.exists());
}

#[test]
fn our_own_log_is_json_where_it_is_told_to() {
    let mut gateway = Rig::new().config("[log]\nformat = 'json'").child(OBEDIENT).start();
    gateway.next_child();
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.stop(), 0);
    let lines = gateway.log().lines();
    let objects: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    let left = objects.last().unwrap();
    assert_eq!(left["message"], "leaving with code 0");
    assert_eq!(left["level"], "info");
    assert!(left["ts"].as_str().unwrap().ends_with('Z'), "{left}");
}

#[test]
fn our_own_log_has_priorities_where_it_is_told_to() {
    let mut gateway = Rig::new().config("[log]\nformat = 'journald'").child(OBEDIENT).start();
    gateway.next_child();
    gateway.until(|status| status.state == "ready");
    assert_eq!(gateway.stop(), 0);
    let lines = gateway.log().lines();
    assert!(lines.iter().all(|line| line.starts_with("<6>lockkeeper: ")), "{lines:?}");
}
