//! The programs that are measured, each around the same static C child.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};

/// How long the slowest peer may take for anything before the bench gives up.
const LIMIT: Duration = Duration::from_secs(30);

/// A supervisor, by its program's name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// `vfork`, `execv`, `waitpid` in C, and nothing else.
    Loop,
    Lockkeeper,
    /// It, with a ledger that is full.
    Veteran,
    /// Another build of it, of an earlier day.
    OtherLockkeeper,
    /// That, with a ledger that is full.
    OtherVeteran,
    Runsv,
    S6,
    Supervisord,
    Pm2,
    Tini,
    DumbInit,
}

impl Kind {
    /// The program, as it is looked for in PATH.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Loop => "C loop",
            Self::Lockkeeper => "lockkeeper",
            Self::Veteran => "lockkeeper, full ledger",
            Self::OtherLockkeeper => "lockkeeper (other)",
            Self::OtherVeteran => "lockkeeper (other), full ledger",
            Self::Runsv => "runsv",
            Self::S6 => "s6-supervise",
            Self::Supervisord => "supervisord",
            Self::Pm2 => "pm2-runtime",
            Self::Tini => "tini",
            Self::DumbInit => "dumb-init",
        }
    }
}

/// What every peer is made of: the compiled C programs and the binary under test.
pub(crate) struct Shop {
    dir: tempfile::TempDir,
    lockkeeper: PathBuf,
    other_lockkeeper: Option<PathBuf>,
}

impl Shop {
    /// Compiles the C programs. `other`: a second build of lockkeeper.
    pub(crate) fn open(lockkeeper: PathBuf, other: Option<PathBuf>) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("lockkeeper-bench-").tempdir()?;
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
        for program in ["child", "loop"] {
            let built = Command::new("gcc")
                .args(["-O2", "-static", "-Wall", "-Wextra", "-o"])
                .arg(dir.path().join(program))
                .arg(sources.join(program).with_extension("c"))
                .status()?;
            if !built.success() {
                return Err(io::Error::other(format!("gcc cannot build {program}.c")));
            }
        }
        Ok(Self { dir, lockkeeper, other_lockkeeper: other })
    }

    /// Starts a peer around a child, until the child has said that it runs. `None`: not installed.
    pub(crate) fn start(&self, kind: Kind) -> io::Result<Option<Peer>> {
        let dir = self.dir.path().join(kind.name().replace(' ', "-"));
        // A second start of the same kind finds nothing of the first.
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let socket = dir.join("stamps");
        let stamps = UnixDatagram::bind(&socket)?;
        stamps.set_read_timeout(Some(LIMIT))?;
        let Some(program) = self.program(kind) else { return Ok(None) };

        // The peers die with the bench, however it ends; setpriv becomes the peer.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        self.prepare(kind, &dir, &socket, &mut command)?;
        let log = fs::File::create(dir.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut peer = Peer { kind, process: command.spawn()?, stamps, child: 0 };
        match peer.next_stamp() {
            Ok(_) => Ok(Some(peer)),
            Err(error) => {
                let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
                Err(io::Error::other(format!("{} starts no child ({error}): {log}", kind.name())))
            }
        }
    }

    fn program(&self, kind: Kind) -> Option<PathBuf> {
        match kind {
            Kind::Loop => Some(self.dir.path().join("loop")),
            Kind::Lockkeeper | Kind::Veteran => Some(self.lockkeeper.clone()),
            Kind::OtherLockkeeper | Kind::OtherVeteran => self.other_lockkeeper.clone(),
            other => std::env::split_paths(&std::env::var_os("PATH")?)
                .map(|folder| folder.join(other.name()))
                .find(|path| path.is_file()),
        }
    }

    /// Arguments and files, each as its manual says, with every deliberate delay off that has a
    /// switch.
    fn prepare(
        &self,
        kind: Kind,
        dir: &Path,
        socket: &Path,
        command: &mut Command,
    ) -> io::Result<()> {
        let child = self.dir.path().join("child");
        match kind {
            Kind::Loop | Kind::DumbInit => drop(command.arg(child).arg(socket)),
            // -s: it is not pid 1 here.
            Kind::Tini => drop(command.args(["-s", "--"]).arg(child).arg(socket)),
            Kind::Lockkeeper | Kind::Veteran | Kind::OtherLockkeeper | Kind::OtherVeteran => {
                let config = dir.join("lockkeeper.toml");
                fs::write(&config, LOCKKEEPER_TOML)?;
                let state = dir.join("state");
                DirBuilder::new().mode(0o700).create(&state)?;
                if matches!(kind, Kind::Veteran | Kind::OtherVeteran) {
                    fs::write(state.join("ledger.jsonl"), full_ledger())?;
                }
                command.args(["run", "--name", "bench", "--state-dir"]).arg(state);
                command.arg("--config").arg(config).arg("--").arg(child).arg(socket);
            }
            Kind::Runsv | Kind::S6 => {
                let service = dir.join("service");
                fs::create_dir_all(&service)?;
                // The child is its own interpreter: no shell between it and the peer.
                let run = service.join("run");
                fs::write(&run, format!("#!{} {}\n", child.display(), socket.display()))?;
                fs::set_permissions(&run, fs::Permissions::from_mode(0o755))?;
                command.arg(service);
            }
            Kind::Supervisord => {
                let config = dir.join("supervisord.conf");
                fs::write(
                    &config,
                    format!(
                        "[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\n\
                         pidfile={dir}/pid\nidentifier=bench\n\
                         [program:child]\ncommand={child} {socket}\nautorestart=true\nstartsecs=0\n",
                        dir = dir.display(),
                        child = child.display(),
                        socket = socket.display(),
                    ),
                )?;
                command.arg("-n").arg("-c").arg(config);
            }
            Kind::Pm2 => {
                command.env("PM2_HOME", dir).arg(child).args(["--interpreter", "none", "--"]);
                command.arg(socket);
            }
        }
        Ok(())
    }
}

/// Nothing of its own delays, so that its work is what is measured: no backoff, no start limit.
const LOCKKEEPER_TOML: &str = "\
ready.via = \"none\"
backoff.initial = \"0s\"
backoff.step = \"0s\"
backoff.reset_after = \"1ms\"
limit.burst = 1000000
";

/// A year of crashes, or a night of them.
fn full_ledger() -> String {
    let lines = (1_u32..).map(|n| {
        format!(
            "{{\"at\":1795274603536,\"event\":\"ended\",\"id\":\"r-{n:04}\",\"generation\":{n},\"pid\":{n},\
             \"exit\":{{\"code\":1}},\"ran_ms\":100,\"cut\":false,\"failed\":true,\"then\":\"respawn\"}}\n\
             {{\"at\":1795274603537,\"event\":\"spawned\",\"generation\":{n},\"pid\":{n}}}\n"
        )
    });
    let mut text = String::new();
    for lines in lines {
        text.push_str(&lines);
        if text.len() > 1000 * 1000 {
            break;
        }
    }
    text
}

/// A running supervisor with its child.
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    process: Child,
    stamps: UnixDatagram,
    /// The child's pid, by its last stamp.
    child: i32,
}

impl Peer {
    /// The supervisor's pid.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// From a SIGKILL of the child to the first instruction of the next one, in ns.
    pub(crate) fn respawn_gap(&mut self) -> io::Result<u64> {
        self.signal_and_await(self.child, Signal::KILL)
    }

    /// From a SIGWINCH to the supervisor to its handler in the child, in ns.
    pub(crate) fn forward_latency(&mut self) -> io::Result<u64> {
        self.signal_and_await(self.process.id().cast_signed(), Signal::WINCH)
    }

    /// From a SIGWINCH to the child to its handler: what the kernel alone takes, in ns.
    pub(crate) fn direct_latency(&mut self) -> io::Result<u64> {
        self.signal_and_await(self.child, Signal::WINCH)
    }

    fn signal_and_await(&mut self, pid: i32, signal: Signal) -> io::Result<u64> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let sent = clock_gettime(ClockId::Monotonic);
        kill_process(pid, signal)?;
        let at = self.next_stamp()?;
        let sent = u64::try_from(sent.tv_sec * 1_000_000_000 + sent.tv_nsec).unwrap_or_default();
        Ok(at.saturating_sub(sent))
    }

    /// The time of the child's next stamp.
    fn next_stamp(&mut self) -> io::Result<u64> {
        let mut bytes = [0_u8; 24];
        let length = self.stamps.recv(&mut bytes)?;
        let (words, _) = bytes.as_chunks::<8>();
        let [_kind, pid, at] = [0, 1, 2].map(|n| u64::from_ne_bytes(words[n]));
        self.child = i32::try_from(pid).map_err(io::Error::other)?;
        if length == bytes.len() { Ok(at) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

impl Drop for Peer {
    /// The child asked to be killed when its supervisor ends.
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
