//! Copies of the machine in each of which one guard is wrong: the exploration finds every one.
//!
//! A mutant is the product's files and the explorer's, copied into the build folder, with one text
//! in one file replaced; the text must be there exactly once, so that a mutant does not outlive the
//! guard that it breaks. `scripts/mutants` builds and runs them all; the usual run of the tests
//! builds one, which shows that the way there is sound.

#![allow(clippy::disallowed_methods)] // it copies files and runs cargo

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One guard that is wrong.
struct Mutant {
    name: &'static str,
    /// The policy under which it shows.
    under: &'static str,
    /// In `src/supervisor/`.
    file: &'static str,
    is: &'static str,
    becomes: &'static str,
}

const fn mutant(
    name: &'static str,
    under: &'static str,
    file: &'static str,
    is: &'static str,
    becomes: &'static str,
) -> Mutant {
    Mutant { name, under, file, is, becomes }
}

const MUTANTS: [Mutant; 29] = [
    mutant(
        "a_late_fact_counts",
        "notify",
        "machine.rs",
        "if event.generation().is_some_and(|of| of != self.generation) {",
        "if event.generation().is_some_and(|of| of > self.generation) {",
    ),
    mutant(
        "a_stop_is_announced_again_at_the_end",
        "notify",
        "ending.rs",
        "if !self.is_stopping() {\n            self.actions.push_back(Action::AnnounceStopping);",
        "if self.stops < 2 {\n            self.actions.push_back(Action::AnnounceStopping);",
    ),
    mutant(
        "the_second_stop_kills",
        "notify",
        "stopping.rs",
        "State::Draining(Goal::Stop) if self.stops > 2 =>",
        "State::Draining(Goal::Stop) if self.stops > 1 =>",
    ),
    mutant(
        "parking_answers_nobody",
        "park_and_stay",
        "ending.rs",
        "self.answer_all(verdict);\n        match self.policy.park {",
        "match self.policy.park {",
    ),
    mutant(
        "half_open_answers_nobody",
        "notify",
        "ending.rs",
        "self.answer_all(Verdict::StartLimit);\n",
        "",
    ),
    mutant(
        "a_refusal_leaves_what_was_prepared",
        "checked",
        "restarting.rs",
        "self.drop_preparations();\n        self.answer_restart(Verdict::Refused(refusal));",
        "self.answer_restart(Verdict::Refused(refusal));",
    ),
    mutant(
        "a_check_goes_on_unasked",
        "checked",
        "restarting.rs",
        "Some(Step::Checking) => self.actions.push_back(Action::AbortHooks),",
        "Some(Step::Checking) => {}",
    ),
    mutant(
        "a_stop_lets_the_successor_wait",
        "notify",
        "stopping.rs",
        "                self.actions.push_back(Action::DropStage);\n                self.drain(now, Goal::Stop);",
        "                self.drain(now, Goal::Stop);",
    ),
    mutant(
        "leftovers_are_given_up_at_once",
        "notify",
        "ending.rs",
        "        self.kills += 1;\n        if self.kills > MAX_KILLS {",
        "        self.kills += 1;\n        if self.kills > 1 {",
    ),
    mutant(
        "an_exit_is_read_before_the_sweep",
        "notify",
        "ending.rs",
        "        self.sweep_by(now, ended.rung.max(Rung::Term));",
        "        self.on_tree_empty(now);",
    ),
    mutant(
        "a_held_stop_is_forgotten_by_a_ready_child",
        "held",
        "starting.rs",
        "if stop_held {",
        "if stop_held && reloaded {",
    ),
    mutant(
        "a_restart_is_never_served",
        "notify",
        "starting.rs",
        "        self.serve_restart();\n",
        "",
    ),
    mutant(
        "ready_answers_twice",
        "notify",
        "starting.rs",
        "std::mem::take(&mut self.awaited)",
        "self.awaited.clone()",
    ),
    mutant(
        "each_ready_is_the_first",
        "notify",
        "starting.rs",
        "let first = !std::mem::replace(&mut self.ever_ready, true);",
        "let first = true;",
    ),
    mutant(
        "a_restart_is_taken_while_stopping",
        "notify",
        "machine.rs",
        "if self.is_stopping() {\n                    let verdict",
        "if self.stops > 1 {\n                    let verdict",
    ),
    mutant(
        "deadlines_outlive_their_state",
        "notify",
        "ending.rs",
        "        self.timers.clear_all();\n        self.ended = None;",
        "        self.ended = None;",
    ),
    mutant(
        "a_stop_overlooks_a_queued_start",
        "notify",
        "stopping.rs",
        "self.actions.retain(|a| !matches!(a, Action::Spawn { .. }));",
        "",
    ),
    mutant(
        "an_orphans_end_overrides_a_stop",
        "notify",
        "machine.rs",
        "State::Evicting(_) if self.is_stopping() => self.finish(exit::OK),\n                State::Awaiting | State::Evicting(_)",
        "State::Awaiting | State::Evicting(_)",
    ),
    mutant(
        "a_failed_start_overrides_a_stop",
        "notify",
        "starting.rs",
        "        if self.is_stopping() {\n            return self.finish(exit::OK);\n        }\n        let after",
        "        let after",
    ),
    mutant(
        "an_exit_overrides_a_stop",
        "notify",
        "ending.rs",
        "        if self.is_stopping() {\n            let code = self.stop_code(&ended);",
        "        if self.stops > 1 {\n            let code = self.stop_code(&ended);",
    ),
    mutant(
        "what_cannot_be_killed_keeps_us",
        "notify",
        "stopping.rs",
        "        if self.kills > MAX_KILLS && self.is_stopping() {\n            // It hangs",
        "        if self.kills > MAX_KILLS && self.stops > 9 {\n            // It hangs",
    ),
    mutant(
        "a_held_stop_has_no_end",
        "held",
        "stopping.rs",
        "        self.timers.set(Timer::StopHold, now + self.policy.stop.hold);\n",
        "",
    ),
    mutant(
        "a_lost_look_is_not_repeated",
        "notify",
        "restarting.rs",
        "        self.timers.set(Timer::Handlers, now + INSPECT_EVERY);\n",
        "",
    ),
    mutant(
        "a_stage_that_hangs_is_waited_for",
        "notify",
        "restarting.rs",
        "                self.actions.push_back(Action::DropStage);\n                self.after_stage(now, false);",
        "                self.actions.push_back(Action::DropStage);",
    ),
    mutant(
        "the_recovery_command_is_run_for_ever",
        "mended",
        "ending.rs",
        "        self.failures.begin_mending(ended.boot);\n",
        "",
    ),
    mutant(
        "a_restart_starts_in_safe_mode",
        "mended",
        "starting.rs",
        "let safe_mode = self.safe_mode && self.restart.is_none();",
        "let safe_mode = self.safe_mode;",
    ),
    mutant(
        "a_leaving_child_is_declared_hung",
        "watched",
        "heart.rs",
        "            | State::Parked(_)\n            | State::Done(_) => return,",
        "            | State::Parked(_)\n            | State::Done(_) => {}",
    ),
    mutant(
        "a_lack_is_met_by_starting_at_once_for_ever",
        "at_once",
        "limit.rs",
        "AfterFailure::Retry(wait.max(least))",
        "AfterFailure::Retry(wait.min(least))",
    ),
    mutant(
        "who_asks_waits_with_the_orphan",
        "watched",
        "restarting.rs",
        "            State::Awaiting => self.evict(now, Rung::Asked),\n",
        "            State::Awaiting => {}\n",
    ),
];

/// What the mutants are built of, from the package's folder. Those of `src/supervisor/` are the
/// files that `tests/explore/supervisor.rs` names.
const COPIED: [&str; 3] = ["src/protocol", "src/supervisor", "tests/explore"];

#[test]
fn each_mutant_breaks_a_guard_that_is_there_once() {
    for mutant in &MUTANTS {
        mutated(mutant);
    }
}

/// The first, or all that `scripts/mutants` asks for.
#[test]
fn mutants_are_caught() {
    let all = std::env::var_os("LOCKKEEPER_MUTANTS").is_some_and(|wanted| wanted == "all");
    let wanted = if all { &MUTANTS[..] } else { &MUTANTS[..1] };
    let laws = run(wanted);
    assert_eq!(laws[0], "a fact of another generation, or an early call, changes nothing");
    println!("{} of {} mutants caught", laws.len(), wanted.len());
}

/// The mutant's file, with its one change.
fn mutated(mutant: &Mutant) -> String {
    let path = home().join("src/supervisor").join(mutant.file);
    let text = fs::read_to_string(&path).expect("the machine's file");
    let found = text.matches(mutant.is).count();
    assert_eq!(found, 1, "{}: `{}` in {}", mutant.name, mutant.is, mutant.file);
    text.replace(mutant.is, mutant.becomes)
}

/// Builds the mutants and runs each until it is caught. Gives the laws that they break.
fn run(mutants: &[Mutant]) -> Vec<String> {
    let target = target_dir();
    let place = target.join("mutants");
    fs::create_dir_all(&place).expect("a folder for the mutants");
    let lockfile = fs::copy(home().join("Cargo.lock"), place.join("Cargo.lock"));
    lockfile.expect("the package's own versions");
    write(&place.join("Cargo.toml"), &manifest(mutants));
    for mutant in mutants {
        let copy = place.join(mutant.name);
        for folder in COPIED {
            copy_files(&home().join(folder), &copy.join(folder), mutant.file);
        }
        write(&copy.join("src/supervisor").join(mutant.file), &mutated(mutant));
    }
    let built = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--quiet", "--manifest-path"])
        .arg(place.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(place.join("target"))
        .env("RUSTFLAGS", "-Awarnings")
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let caught = mutants.iter().map(|mutant| {
        let Mutant { name, under, .. } = mutant;
        let explored = Command::new(place.join("target/debug").join(name)).arg(under).output();
        let said = explored.expect("the mutant was built").stdout;
        let said = String::from_utf8_lossy(&said);
        let law = said.split_once("violated: ").and_then(|(_, after)| after.lines().next());
        let law = law.unwrap_or_else(|| panic!("{name} was not caught:\n{said}"));
        println!("{name} ({under}): {law}");
        law.to_owned()
    });
    caught.collect()
}

fn manifest(mutants: &[Mutant]) -> String {
    let mut text = String::from(
        r#"[package]
name = "lockkeeper-mutants"
version = "0.0.0"
edition = "2024"
autobins = false

[workspace]

[dependencies]
fastrand = "2.5"
libc = "0.2"
serde = { version = "1", features = ["derive"] }
serde_json = "1"
thiserror = "2"

[profile.dev]
debug = false
"#,
    );
    for Mutant { name, .. } in mutants {
        let path = format!("{name}/tests/explore/mutant.rs");
        text.push_str(&format!("\n[[bin]]\nname = \"{name}\"\npath = \"{path}\"\n"));
    }
    text
}

/// Writes a file, unless it says that already: cargo would build it anew.
fn write(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return;
    }
    fs::write(path, text).expect("a file in the build folder");
}

/// Copies the files of a folder, but none below it, and not the one of this name.
fn copy_files(from: &Path, to: &Path, but: &str) {
    fs::create_dir_all(to).expect("a folder for the copy");
    for entry in fs::read_dir(from).expect("a folder of ours") {
        let path = entry.expect("an entry").path();
        match path.file_name() {
            Some(name) if path.is_file() && name != but => {
                write(&to.join(name), &fs::read_to_string(&path).expect("a text"));
            }
            Some(_) | None => {}
        }
    }
}

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where this test was built.
fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("the test has a path");
    let is_target = |folder: &&Path| folder.join("CACHEDIR.TAG").exists();
    let target = exe.ancestors().find(is_target);
    target.map_or_else(|| home().join("target"), Path::to_path_buf)
}
