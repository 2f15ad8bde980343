//! What is to be started, and how.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{BufRead, BufReader},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, process::CommandExt},
    },
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    cli::{Asked, Output},
    home::{Home, OWNER},
    process::Process,
    supervisor::Supervisor,
    transcript::Transcript,
};

/// The probe's path.
pub fn probe() -> &'static str {
    env!("CARGO_BIN_EXE_probe")
}

/// The test gateway's path.
const GATEWAY: &str = env!("CARGO_BIN_EXE_drain-probe");

/// The supervisor's path.
const LOCKKEEPER: &str = env!("CARGO_BIN_EXE_lockkeeper");

/// A supervisor to be started, in a folder of its own. A clone shares the folder, so that two
/// supervisors can meet over one lock.
#[derive(Clone, Debug)]
#[must_use]
pub struct Rig {
    pub(super) home: Arc<Home>,
    program: PathBuf,
    through: Vec<OsString>,
    config: Option<String>,
    args: Vec<String>,
    command: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    state_dir: PathBuf,
    stdin: Option<Arc<File>>,
    stdout: Option<Arc<File>>,
    stderr: Option<Arc<File>>,
    user: Option<u32>,
}

impl Rig {
    /// A supervisor of a probe that takes no orders from its command line.
    pub fn new() -> Self {
        let home = Arc::new(Home::new());
        let state_dir = home.state_dir();
        let rig = Self {
            home,
            program: LOCKKEEPER.into(),
            through: Vec::new(),
            config: None,
            args: Vec::new(),
            command: vec![probe().into()],
            env: Vec::new(),
            state_dir,
            stdin: None,
            stdout: None,
            stderr: None,
            user: None,
        };
        rig.env("RUST_BACKTRACE", "1")
    }

    /// The text of its settings file.
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// Further arguments of `lockkeeper run`.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// The orders that the probe takes on its command line, one an argument.
    pub fn child<S: Into<OsString>>(self, orders: impl IntoIterator<Item = S>) -> Self {
        let orders = orders.into_iter().map(Into::into);
        self.command([OsString::from(probe())].into_iter().chain(orders))
    }

    /// Another command than the probe. An empty one leaves `--` away.
    pub fn command<S: Into<OsString>>(mut self, argv: impl IntoIterator<Item = S>) -> Self {
        self.command = argv.into_iter().map(Into::into).collect();
        self
    }

    /// The [test gateway](../support/gateway.rs) as its command, with these settings.
    pub fn gateway<S: Into<OsString>>(self, settings: impl IntoIterator<Item = S>) -> Self {
        let settings = settings.into_iter().map(Into::into);
        self.command([OsString::from(GATEWAY)].into_iter().chain(settings))
    }

    /// A variable of the supervisor's environment, which holds little else.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Puts the supervisor under a service manager: see [`Supervisor::manager`].
    pub fn managed(self) -> Self {
        let socket = self.home.path("manager");
        self.env("NOTIFY_SOCKET", socket)
    }

    /// Starts the supervisor by this command, which gets its command line as further arguments and
    /// is to become it: `prlimit`, `strace -D`, `sh -c`.
    pub fn through<S: Into<OsString>>(mut self, argv: impl IntoIterator<Item = S>) -> Self {
        self.through = argv.into_iter().map(Into::into).collect();
        self
    }

    /// Another state folder.
    pub fn state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = path.into();
        self
    }

    /// Another standard input than `/dev/null`.
    pub fn stdin(mut self, file: File) -> Self {
        self.stdin = Some(Arc::new(file));
        self
    }

    /// Another standard output than the file `stdout` in the test's folder.
    pub fn stdout(mut self, file: impl Into<OwnedFd>) -> Self {
        self.stdout = Some(Arc::new(File::from(file.into())));
        self
    }

    /// Another standard error than the log of the [`Supervisor`], which then stays empty.
    pub fn stderr(mut self, file: impl Into<OwnedFd>) -> Self {
        self.stderr = Some(Arc::new(File::from(file.into())));
        self
    }

    /// Runs a copy of the supervisor as this user, who gets the test's folder.
    pub fn user(mut self, uid: u32) -> Self {
        let program = self.path("lockkeeper");
        fs::copy(LOCKKEEPER, &program).expect("a copy of the supervisor");
        std::os::unix::fs::chown(self.path(""), Some(uid), None).expect("only root may do this");
        for socket in ["report", "manager"] {
            let all = fs::Permissions::from_mode(0o666);
            fs::set_permissions(self.path(socket), all).expect("it is ours");
        }
        self.program = program;
        self.user = Some(uid);
        self
    }

    /// A path in the test's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path(name)
    }

    /// The state folder.
    pub fn state(&self) -> PathBuf {
        self.state_dir.clone()
    }

    /// Starts it.
    #[track_caller]
    pub fn start(&self) -> Supervisor {
        let owner = new_owner();
        let mut command = self.run();
        if let Some(text) = &self.config {
            let file = self.path(&format!("config-{owner}.toml"));
            fs::write(&file, text).expect("a settings file");
            command.arg("--config").arg(file);
        }
        command.args(&self.args);
        if !self.command.is_empty() {
            command.arg("--").args(&self.command);
        }
        self.spawn(command, owner)
    }

    /// Starts its command by itself, with nobody above it. What is said of a supervisor below is
    /// then said of that.
    #[track_caller]
    pub fn start_bare(&self) -> Supervisor {
        let (program, args) = self.command.split_first().expect("a command");
        let mut command = Command::new(program);
        command.args(args);
        self.surround(&mut command);
        self.spawn(command, new_owner())
    }

    #[track_caller]
    fn spawn(&self, mut command: Command, owner: String) -> Supervisor {
        let given = |file: &Option<Arc<File>>| {
            file.as_ref().map(|file| Stdio::from(file.try_clone().expect("a descriptor")))
        };
        let stdout = given(&self.stdout).unwrap_or_else(|| {
            File::create(self.path("stdout")).expect("a file for the output").into()
        });
        let spawned = command
            .env(OWNER, &owner)
            .stdin(given(&self.stdin).unwrap_or_else(Stdio::null))
            .stdout(stdout)
            .stderr(given(&self.stderr).unwrap_or_else(Stdio::piped))
            .spawn();
        let mut child = spawned.expect("the supervisor can be started");
        let stderr = child.stderr.take().map(BufReader::new);
        let log = Arc::new(Transcript::default());
        let writer = Arc::clone(&log);
        thread::spawn(move || {
            for line in stderr.into_iter().flat_map(|s| s.split(b'\n')).map_while(Result::ok) {
                writer.push(String::from_utf8_lossy(&line).into_owned());
            }
            writer.close();
        });
        let process = Process::of(child.id());
        Supervisor { rig: self.clone(), owner, child, process, log }
    }

    /// Runs another verb of `lockkeeper` to its end. The first argument is the verb.
    #[track_caller]
    pub fn cli<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.ask(args).finish()
    }

    /// Starts another verb of `lockkeeper`, to be waited for later.
    #[track_caller]
    pub fn ask<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Asked {
        let mut args = args.into_iter();
        let mut command = self.verb(args.next().expect("a verb"));
        command.args(args);
        Asked::start(command)
    }

    /// The incidents that `why` tells, oldest first.
    #[track_caller]
    pub fn why(&self) -> Vec<serde_json::Value> {
        let output = self.cli(["why", "--json"]);
        assert_eq!(output.code, 0, "{output:?}");
        serde_json::from_str(&output.stdout).expect("a JSON array of incidents")
    }

    /// How many children ever reported.
    pub fn children(&self) -> usize {
        self.home.children()
    }

    fn run(&self) -> Command {
        let run = self.verb("run");
        let Some((program, arguments)) = self.through.split_first() else { return run };
        let mut command = Command::new(program);
        command.args(arguments).arg(run.get_program()).args(run.get_args());
        self.surround(&mut command);
        command
    }

    fn verb(&self, verb: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb).arg("--state-dir").arg(&self.state_dir);
        self.surround(&mut command);
        command
    }

    /// Its environment and user.
    fn surround(&self, command: &mut Command) {
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.env("HOME", self.path("")).env("PROBE_REPORT", self.path("report"));
        // Else `scripts/coverage` would not see what the supervisor does.
        command.envs(std::env::var_os(PROFILE).map(|file| (PROFILE, file)));
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(uid) = self.user {
            command.uid(uid);
        }
    }
}

/// Where an instrumented program writes what of it was run.
const PROFILE: &str = "LLVM_PROFILE_FILE";

fn new_owner() -> String {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    STARTED.fetch_add(1, Ordering::Relaxed).to_string()
}
