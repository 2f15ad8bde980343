//! The real processes, and where they live: `lockkeeper run` over `lockkeeper-gateway`, their
//! folders, a small disk of its own for the journal.

use std::{
    fs::{self, File, OpenOptions},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use lockkeeper::gateway::journal::{
    Journal,
    sqlite::{Sqlite, SqliteOptions},
    storage::Figures,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Every process of a run has this in its environment. Not `LOCKKEEPER_...`: the supervisor takes
/// those away.
const MARK: &str = "CHAOS_LEDGER_RUN";
/// The token of the chat.
pub(crate) const TOKEN: &str = "a-token-for-the-chaos-ledger";

/// Where it all happens.
#[derive(Debug)]
pub(crate) struct World {
    folder: TempDir,
    bin: PathBuf,
    mark: String,
    pub(crate) address: SocketAddr,
    /// Whether the journal has a disk of its own.
    pub(crate) has_disk: bool,
}

/// The supervisor that runs now.
#[derive(Debug)]
pub(crate) struct Parent {
    child: Child,
    pid: u32,
}

impl World {
    /// An empty one. `disk`: how many MiB the journal's disk has.
    pub(crate) fn new(disk: usize) -> Self {
        let folder = tempfile::Builder::new().prefix("chaos-").tempdir().expect("a folder");
        let bin = std::env::var_os("LOCKKEEPER_CHAOS_BIN_DIR").map_or_else(
            || Path::new(env!("CARGO_BIN_EXE_lockkeeper")).parent().expect("a folder").to_owned(),
            PathBuf::from,
        );
        let mark = format!("{}-{:x}", std::process::id(), fastrand::u64(..));
        let path = |name| folder.path().join(name);
        for name in ["supervisor", "disk", "messages", "messages/do"] {
            fs::create_dir(path(name)).expect("a folder");
        }
        let has_disk = std::env::var_os(super::INSIDE).is_some_and(|inside| inside == "1")
            && std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={disk}m,mode=700"), "chaos"])
                .arg(path("disk"))
                .status()
                .is_ok_and(|status| status.success());
        // Backoffs and limits that a person would wait for are not what is tested here.
        let settings = "[restart]\ncooldown = \"0s\"\n\
                        [backoff]\ninitial = \"50ms\"\nstep = \"100ms\"\nmax = \"500ms\"\n\
                        [limit]\nburst = 1000000\ninterval = \"1s\"\n";
        fs::write(path("lockkeeper.toml"), settings).expect("a file");
        Self { folder, bin, mark, address: free_address(), has_disk }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The gateway's config.
    pub(crate) fn config(&self) -> PathBuf {
        self.path("gateway.toml")
    }

    /// The gateway's state folder.
    pub(crate) fn state(&self) -> PathBuf {
        self.path("disk/state")
    }

    /// Starts the supervisor.
    pub(crate) fn start(&self) -> Parent {
        let log = OpenOptions::new().create(true).append(true).open(self.path("log"));
        let child = self
            .command("lockkeeper")
            .args(["run", "--config"])
            .arg(self.path("lockkeeper.toml"))
            .arg("--state-dir")
            .arg(self.path("supervisor"))
            .arg("--")
            .arg(self.bin.join("lockkeeper-gateway"))
            .arg("--config")
            .arg(self.config())
            .arg("--state-dir")
            .arg(self.state())
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .process_group(0)
            .spawn()
            .expect("lockkeeper can be started");
        let pid = child.id().expect("it was not waited for");
        Parent { child, pid }
    }

    /// A program of ours, in the surroundings of this run.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.folder.path())
            .env("RUST_BACKTRACE", "1")
            .env(MARK, &self.mark)
            .stdin(Stdio::null());
        command
    }

    /// Runs a verb of `lockkeeper`; gives its exit code and what it said.
    pub(crate) async fn lockkeeper(&self, args: &[&str]) -> (i32, String) {
        let mut command = self.command("lockkeeper");
        command.arg(args[0]).arg("--state-dir").arg(self.path("supervisor")).args(&args[1..]);
        let ran = tokio::time::timeout(Duration::from_secs(120), command.output()).await;
        let Ok(Ok(output)) = ran else { return (-1, format!("{args:?} does not end")) };
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }

    /// Runs a verb of `lockkeeper-gateway`; gives what it said.
    pub(crate) async fn gateway(&self, args: &[&str]) -> String {
        let mut command = self.command("lockkeeper-gateway");
        command.arg("--config").arg(self.config()).arg("--state-dir").arg(self.state()).args(args);
        let output = command.output().await.expect("it can be started");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// All processes of this run that have not ended, with their programs.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let mark = format!("{MARK}={}", self.mark);
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // One that ends meanwhile, or has ended, has neither.
            let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
            let Ok(program) = fs::read_link(entry.path().join("exe")) else { continue };
            if environment.split(|byte| *byte == 0).any(|it| it == mark.as_bytes()) {
                let name = program.file_name().unwrap_or_default().to_string_lossy();
                found.push((pid, name.into_owned()));
            }
        }
        found
    }

    /// The gateways that live. More than one never may.
    pub(crate) fn gateways(&self) -> Vec<u32> {
        let mut found = self.processes();
        found.retain(|(pid, name)| name == "lockkeeper-gateway" && is_serving(*pid));
        let all: Vec<_> = found.into_iter().map(|(pid, _)| pid).collect();
        // What a gateway starts is one itself, until it has become its own program.
        let is_own = |pid: &u32| !parent_of(*pid).is_some_and(|parent| all.contains(&parent));
        all.iter().copied().filter(is_own).collect()
    }

    /// Takes all that is left of the journal's disk.
    pub(crate) fn fill_disk(&self) {
        let stat = rustix::fs::statvfs(self.path("disk")).expect("a file system");
        let file = File::create(self.path("disk/ballast")).expect("a file");
        let left = stat.f_bavail * stat.f_frsize;
        // What the gateway writes at the same time makes it too much: page by page, then.
        let none = rustix::fs::FallocateFlags::empty();
        let mut at = 0;
        let mut piece = left.max(1 << 16);
        while piece >= 4096 {
            match rustix::fs::fallocate(&file, none, at, piece) {
                Ok(()) => at += piece,
                Err(_) => piece /= 2,
            }
        }
    }

    /// Gives it back.
    pub(crate) fn empty_disk(&self) {
        fs::remove_file(self.path("disk/ballast")).expect("it is there");
    }

    /// How many bytes the journal takes.
    pub(crate) fn journal_size(&self) -> u64 {
        fs::metadata(self.state().join("journal.db")).map_or(0, |it| it.len())
    }

    /// The journal, when nobody else has it.
    pub(crate) fn journal(&self) -> Journal {
        let path = self.state().join("journal.db");
        let opened = Sqlite::open(&path, SqliteOptions { sync: true }).expect("the journal");
        Journal::start(opened.storage)
    }

    /// What the journal holds, read beside the gateway.
    pub(crate) async fn figures(&self) -> Figures {
        let journal = self.journal();
        let figures = journal.figures().await.expect("the journal can be read");
        journal.close().await;
        figures
    }

    /// Whether anybody holds this lock.
    pub(crate) fn is_locked(&self, name: &str) -> bool {
        let Ok(file) = File::open(self.path(name)) else { return false };
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
    }

    /// The end of the log.
    pub(crate) fn log(&self, lines: usize) -> String {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let all: Vec<_> = log.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            signal(pid, Signal::KILL);
        }
        if self.has_disk {
            let disk = self.path("disk");
            let _ = std::process::Command::new("umount").arg("-l").arg(disk).status();
        }
    }
}

impl Parent {
    pub(crate) fn signal(&self, what: Signal) {
        signal(self.pid, what);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.expect("it is our child")
    }

    /// How it has ended, if it has.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }
}

/// Sends a signal; one that has ended takes none.
pub(crate) fn signal(pid: u32, what: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process number");
    let _ = kill_process(pid, what);
}

/// A gateway that serves, not one of its commands.
fn is_serving(pid: u32) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    !words.is_empty() && !words.split(|byte| *byte == 0).any(|word| word == b"journal")
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// Below the ports that the kernel gives to those who ask for any: nobody takes it while the gateway
/// is away.
fn free_address() -> SocketAddr {
    let ports = std::iter::repeat_with(|| fastrand::u16(20000..30000));
    let mut free = ports.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    let listener = free.next().expect("they never end");
    listener.local_addr().expect("it is bound")
}
