//! Starts this program anew beside us, and lets it go.
//!
//! Only for a gateway that nobody supervises: its restart is a new process, which it spawns as its
//! last act. The successor leads a process group of its own, so that what ends our group (a shell's
//! job control, Ctrl-C) does not end it. It stays in our session: `setsid` has to be called between
//! fork and exec, which needs `unsafe`, and so it keeps the controlling terminal. When that hangs
//! up, the kernel tells the foreground group alone, which the successor is not.
//!
//! Nobody waits for it and nothing ends it when we exit: it becomes a child of init.
#![allow(clippy::disallowed_methods)]

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal},
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::fs::Access;

use crate::protocol::env::{STATE_DIR, is_scrubbed};

/// What Linux appends to the path of a program whose file was removed or replaced.
const DELETED: &[u8] = b" (deleted)";

/// A program that is to follow us: everything that its start needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Successor {
    /// The file to execute.
    pub exe: PathBuf,
    /// All arguments, the program's name first.
    pub argv: Vec<OsString>,
    /// The complete environment.
    pub env: Vec<(OsString, OsString)>,
}

impl Successor {
    /// This very program, with the same arguments, and our environment without what was meant for
    /// this process alone. Reads the present working folder, environment and file system: the best
    /// moment is right before the spawn, when an update has put its files in place.
    ///
    /// # Errors
    ///
    /// The program's file has gone, and no other is found under the name that we were called by.
    pub fn of_this_process() -> io::Result<Self> {
        let argv: Vec<_> = env::args_os().collect();
        let name = argv.first().map(OsString::as_os_str);
        let exe = find(env::current_exe(), name, env::var_os("PATH").as_deref())?;
        Ok(Self { exe, argv, env: inherited(env::vars_os()) })
    }

    /// Starts it. Its stdout and stderr are ours; its stdin is, too, or `/dev/null` where that is a
    /// terminal, which would stop a background group that reads from it.
    ///
    /// Gives its number, which stays its own until we exit: it is our child, and nobody reaps it.
    ///
    /// # Errors
    ///
    /// It was not started: there is no such file, it cannot be executed, or the system has no
    /// process to spare. The message names the file.
    pub fn spawn_detached(&self) -> io::Result<u32> {
        let mut command = Command::new(&self.exe);
        if let Some((name, arguments)) = self.argv.split_first() {
            command.arg0(name).args(arguments);
        }
        command.env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        command.process_group(0);
        if io::stdin().is_terminal() {
            command.stdin(Stdio::null());
        }
        // Dropping the child neither ends it nor waits for it.
        match command.spawn() {
            Ok(child) => Ok(child.id()),
            Err(error) => Err(named(error.kind(), &self.exe, error)),
        }
    }
}

/// The file that holds this program now.
fn find(
    own: io::Result<PathBuf>,
    name: Option<&OsStr>,
    path: Option<&OsStr>,
) -> io::Result<PathBuf> {
    let own = match own {
        Ok(own) if is_executable(&own) => return Ok(own),
        Ok(own) => {
            // Replaced: the new file is what a restart is for.
            let before = own.as_os_str().as_bytes().strip_suffix(DELETED).map(OsStr::from_bytes);
            if let Some(replaced) = before.map(PathBuf::from).filter(|file| is_executable(file)) {
                return Ok(replaced);
            }
            own
        }
        Err(error) => match name {
            Some(_) => PathBuf::from("this program"),
            None => return Err(error),
        },
    };
    // Its folder has gone, as with a versioned one. The name that we were called by may lead to the
    // next version.
    name.and_then(|name| called(name, path))
        .ok_or_else(|| named(io::ErrorKind::NotFound, &own, "its file has gone"))
}

/// The file that a shell would execute for `name`.
fn called(name: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(|file| is_executable(file));
    }
    let files = env::split_paths(path?).map(|folder| folder.join(name)).collect::<Vec<_>>();
    files.into_iter().find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok()
}

/// What a successor may know of our environment: nothing that a supervisor or service manager said
/// to one process. Where state is kept is said to all.
fn inherited(ours: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let stays = |(name, _): &(OsString, OsString)| {
        name.to_str().is_none_or(|name| name == STATE_DIR || !is_scrubbed(name))
    };
    ours.into_iter().filter(stays).collect()
}

fn named(kind: io::ErrorKind, file: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(kind, format!("cannot start `{}` anew: {why}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read, os::unix::fs::PermissionsExt};

    use rustix::process::{Pid, WaitOptions, waitpid};

    use super::*;

    /// Tells the process of a test where the pipe is.
    const SAID: &str = "SUCCESSOR_TEST_SAID";

    fn shell(script: &str, env: &[(&str, &str)]) -> Successor {
        let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let argv = ["gateway", "-c", script, "zero", "one"].map(OsString::from).to_vec();
        Successor { exe: "/bin/sh".into(), argv, env }
    }

    fn program(folder: &Path, name: &str) -> PathBuf {
        let file = folder.join(name);
        fs::write(&file, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        file
    }

    fn reap(pid: u32) {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap());
        waitpid(pid, WaitOptions::empty()).unwrap();
    }

    /// A named pipe, which both sides wait at: no test here has to guess a time.
    fn fifo(folder: &Path, name: &str) -> PathBuf {
        let fifo = folder.join(name);
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        fifo
    }

    #[test]
    fn a_successor_has_the_arguments_the_environment_and_a_group_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = fifo(folder.path(), "said");
        let script = r#"exec > "$SAID"; echo "$$ $0 $1 $MARK $(ps -o pgid= -p $$)""#;
        let path = env::var("PATH").unwrap();
        let said = fifo.to_str().unwrap();
        let successor = shell(script, &[("SAID", said), ("MARK", "kept"), ("PATH", &path)]);
        let pid = successor.spawn_detached().unwrap();
        let mut text = String::new();
        fs::File::open(&fifo).unwrap().read_to_string(&mut text).unwrap();
        reap(pid);
        let words: Vec<_> = text.split_whitespace().collect();
        let pid = pid.to_string();
        assert_eq!(words, [pid.as_str(), "zero", "one", "kept", pid.as_str()]);
    }

    #[test]
    fn a_successor_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = fifo(folder.path(), "said");
        let script = r#"read word < "$SAID"; test "$word" = go"#;
        let pid = shell(script, &[("SAID", fifo.to_str().unwrap())]).spawn_detached().unwrap();
        // It still waits for a word, so nobody has waited for it.
        fs::write(&fifo, "go\n").unwrap();
        let pid = Pid::from_raw(i32::try_from(pid).unwrap());
        let (_, status) = waitpid(pid, WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
    }

    /// Not a test by itself: what runs in the process that is to be outlived.
    #[test]
    fn spawns_a_successor_and_exits_if_told_to() {
        let Some(said) = env::var_os(SAID) else { return };
        // The first word lets it speak, when its parent has gone.
        let script = r#"read word < "$SAID"; echo "$word" > "$SAID.answer" "#;
        shell(script, &[("SAID", said.to_str().unwrap())]).spawn_detached().unwrap();
    }

    #[test]
    fn a_successor_outlives_who_spawned_it() {
        let folder = tempfile::tempdir().unwrap();
        let said = fifo(folder.path(), "said");
        let answer = fifo(folder.path(), "said.answer");
        let helper = "sys::successor::tests::spawns_a_successor_and_exits_if_told_to";
        let mut spawner = Command::new(env::current_exe().unwrap());
        spawner.args([helper, "--exact", "--quiet"]).env(SAID, &said);
        spawner.stdout(Stdio::null());
        assert!(spawner.status().unwrap().success());
        fs::write(&said, "go\n").unwrap();
        assert_eq!(fs::read_to_string(&answer).unwrap(), "go\n");
    }

    #[test]
    fn a_successor_that_cannot_be_started_is_told_with_its_file() {
        let mut nobody = shell("", &[]);
        nobody.exe = "/nonexistent/gateway".into();
        let error = nobody.spawn_detached().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with("cannot start `/nonexistent/gateway` anew: "));
    }

    #[test]
    fn this_process_can_be_started_anew() {
        let successor = Successor::of_this_process().unwrap();
        assert_eq!(successor.exe, env::current_exe().unwrap());
        assert_eq!(successor.argv, env::args_os().collect::<Vec<_>>());
    }

    #[test]
    fn marks_of_one_generation_are_not_inherited() {
        let ours = [
            "PATH",
            "LOCKKEEPER_STATE_DIR",
            "LOCKKEEPER_NO_RESPAWN",
            "LOCKKEEPER_GENERATION",
            "LOCKKEEPER_CONTROL",
            "LOCKKEEPER_LOCK_FD",
            "NOTIFY_SOCKET",
            "INVOCATION_ID",
            "LISTEN_FDS",
            "WATCHDOG_USEC",
        ];
        let left = inherited(ours.map(|name| (name.into(), "1".into())));
        let names: Vec<_> = left.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["PATH", "LOCKKEEPER_STATE_DIR", "LOCKKEEPER_NO_RESPAWN"]);
    }

    #[test]
    fn a_replaced_program_is_found_where_it_was_or_by_the_name_it_was_called() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        let gateway = program(place, "gateway");
        let deleted = || Ok(place.join("gateway (deleted)"));
        let path = || Some(place.as_os_str());
        let is_found = |found: io::Result<PathBuf>| found.is_ok_and(|found| found == gateway);

        assert!(is_found(find(Ok(gateway.clone()), None, None)));
        assert!(is_found(find(deleted(), None, None)), "an update put a new file there");
        let gone = || Ok(place.join("v1/gateway (deleted)"));
        assert!(is_found(find(gone(), Some(gateway.as_os_str()), None)), "by its path");
        assert!(is_found(find(gone(), Some("gateway".as_ref()), path())), "by PATH");
        let unknown = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(is_found(find(unknown(), Some("gateway".as_ref()), path())));

        for name in [None, Some(""), Some("other"), Some("./other")] {
            let error = find(gone(), name.map(OsStr::new), path()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{name:?}");
        }
        assert!(find(unknown(), None, path()).is_err());
        // A name that really ends like this is no mark.
        let odd = program(place, "odd (deleted)");
        assert_eq!(find(Ok(odd.clone()), None, None).unwrap(), odd);
    }
}
