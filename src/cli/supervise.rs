//! `lockkeeper run`, the process that stays.
//!
//! It lives for months beside its gateway and should be small. So it is a binary of its own,
//! `lockkeeper-run`, which `lockkeeper run` becomes; and it does not read its command line and
//! settings: a short-lived `lockkeeper` does, and prints what came out. Without the parsers 1.5 MiB
//! are resident instead of 2.1 (the kernel maps a program's code in pieces of 64 KiB, so that code
//! which is never run still counts).
#![allow(clippy::disallowed_methods)]

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    protocol::exit,
    supervisor::driver::{self, DriveError, Reader, Setup},
    sys::{
        clock,
        lock::{Holder, LockError},
        signals::Signals,
        stage,
    },
};

use super::{fail, human, log::OwnLog, run::Plan, say};

/// The hidden subcommand that stands for `run` in the process that only reads the settings.
pub(super) const RESOLVE: &str = "__resolve";

/// The binary that supervises, beside `lockkeeper` itself.
const PARENT: &str = "lockkeeper-run";

/// Becomes the small binary that supervises. Where there is none, as in an image with one file, we
/// supervise ourselves. `argv` is the whole command line, `lockkeeper run ...`.
pub(super) fn run(argv: &[OsString]) -> u8 {
    if let Ok(own) = env::current_exe() {
        let mut command = Command::new(own.with_file_name(PARENT));
        if let Some((name, arguments)) = argv.split_first() {
            command.arg0(name).args(arguments);
        }
        // Returns only if there is no such file, or it cannot be executed.
        let _ = command.exec();
    }
    supervise(argv, &stage::own_exe())
}

/// Supervises, in `lockkeeper-run`.
pub fn parent(argv: &[OsString]) -> u8 {
    match env::current_exe() {
        Ok(own) => supervise(argv, &own.with_file_name("lockkeeper")),
        Err(error) => fail(exit::CANNOT_CREATE, format!("where is lockkeeper? {error}")),
    }
}

/// Supervises. `reader` is the binary that reads the settings. Gives the exit code.
fn supervise(argv: &[OsString], reader: &Path) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(exit::CANNOT_CREATE, error),
    };
    // Before all else: until then a signal would end us without a word.
    let signals = {
        let _inside = runtime.enter();
        Signals::install()
    };
    let signals = match signals {
        Ok(signals) => signals,
        Err(error) => return fail(exit::CANNOT_CREATE, error),
    };
    let plan = match resolve(argv, reader) {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let log = match OwnLog::start(plan.effective.settings.log.format) {
        Ok(log) => log,
        Err(error) => return fail(exit::CANNOT_CREATE, error),
    };
    let setup = Setup {
        name: plan.name,
        state_dir: plan.state_dir,
        effective: plan.effective,
        environment: env::vars_os().collect(),
        reader: reader_again(argv, reader),
        wait_lock: Duration::from_millis(plan.wait_lock_ms),
    };
    let ended = runtime.block_on(driver::drive(setup, signals));
    // A thread that stands by for a lock must not keep us.
    runtime.shutdown_background();
    drop(log);
    ended.unwrap_or_else(|error| {
        let said = match &error {
            DriveError::Lock(LockError::Held { path, holder }) => {
                held(path, holder.as_ref(), &plan.place, plan.utc_offset_s)
            }
            other => chain(other),
        };
        fail(error.code(), said)
    })
}

/// Has the command line and the settings read. Errors were told already, and give the exit code.
fn resolve(argv: &[OsString], reader: &Path) -> Result<Plan, u8> {
    let arguments = argv.get(2..).unwrap_or_default();
    let name = argv.first().map_or_else(|| OsStr::new("lockkeeper"), OsString::as_os_str);
    let mut command = Command::new(reader);
    command.arg0(name).arg(RESOLVE).args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| {
        fail(exit::CANNOT_CREATE, format!("cannot run {}: {error}", reader.display()))
    })?;
    if !output.status.success() {
        let code = output.status.code().and_then(|code| u8::try_from(code).ok());
        return Err(code.unwrap_or(exit::FAILURE));
    }
    plan_of(&output.stdout).ok_or_else(|| {
        // `--help` is no plan, and goes where the user looks for it.
        say(&String::from_utf8_lossy(&output.stdout));
        exit::OK
    })
}

/// How the same is read again later, for a reload.
fn reader_again(argv: &[OsString], reader: &Path) -> Reader {
    let arguments = argv.get(2..).unwrap_or_default();
    let words = [reader.as_os_str(), OsStr::new(RESOLVE)].into_iter();
    let words = words.chain(arguments.iter().map(OsString::as_os_str));
    Reader {
        // What is not UTF-8 is not found then, which is told.
        argv: words.map(|word| word.to_string_lossy().into_owned()).collect(),
        parse: |text| plan_of(text.as_bytes()).map(|plan| plan.effective),
    }
}

/// In one place: a second kind of reader would be that much more code in the parent's memory.
fn plan_of(text: &[u8]) -> Option<Plan> {
    serde_json::from_slice(text).ok()
}

/// Who holds the lock, since when, and what to do.
fn held(path: &Path, holder: Option<&Holder>, place: &str, utc_offset_s: i32) -> String {
    let by = match holder {
        Some(holder) if holder.since_ms > 0 => format!(
            "pid {} {} ({})",
            holder.pid,
            human::since(holder.since_ms, clock::wall_ms(), utc_offset_s),
            holder.command
        ),
        Some(holder) => format!("pid {}", holder.pid),
        None => "another process".to_owned(),
    };
    format!(
        "cannot start: {} is held by {by}\n\
         {INDENT}to look at it: lockkeeper status{place}\n\
         {INDENT}to take over when it ends: lockkeeper run{place} --wait-lock 10m ...",
        path.display()
    )
}

/// As wide as `lockkeeper: `, for the second line of an error.
const INDENT: &str = "            ";

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text += &format!(": {said}");
        }
        cause = error.source();
    }
    text
}
