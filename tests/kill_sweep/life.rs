//! One state folder, the supervisor that is killed there, and its successor.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use lockkeeper::protocol::signal::Signal;
use tempfile::TempDir;

use crate::{
    guests::{Guests, Order, Script},
    strace::{self, Point},
    support::{OBEDIENT, Process, probe},
};

const CONFIG: &str = "[stop]\nkill_after = '1s'\n[restart]\ncooldown = '0s'\n";
const RESTART: Order = Order::Ask(r#"{"v":1,"id":"1","verb":"restart","reason":"sweep"}"#);
const STOP: Order = Order::Ask(r#"{"v":1,"id":"1","verb":"stop"}"#);
/// What a child says once it is on its way.
const READY: &str = "done notify READY=1";
/// As long as this nothing may happen. A safety net.
const NET: Duration = Duration::from_secs(30);

/// What happens in a life.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scenario {
    /// Start, restart, a crash that leaves a process behind, stop.
    Whole,
    /// A ledger that is full: its older half goes with the restart's lines.
    Rotation,
    /// A supervisor was killed before, and its child lives on.
    Takeover,
}

impl Scenario {
    pub(crate) const ALL: [Self; 3] = [Self::Whole, Self::Rotation, Self::Takeover];

    fn script(self) -> Script {
        match self {
            Self::Whole => &[
                ("1", READY, RESTART),
                ("2", READY, Order::Child("orphan helper on TERM exit 0")),
                ("2", "done orphan", Order::Child("exit 3")),
                ("3", READY, STOP),
            ],
            Self::Rotation => &[("1", READY, RESTART), ("2", READY, STOP)],
            Self::Takeover => &[("1", READY, STOP)],
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) guests: Guests,
    manager: UnixDatagram,
    folder: TempDir,
}

impl Life {
    pub(crate) fn new(scenario: Scenario) -> Self {
        // Not where TMPDIR may lead: the path of a socket ends at 107 bytes.
        let folder = tempfile::Builder::new().prefix("lks").tempdir_in("/tmp").expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("config.toml"), CONFIG).expect("a settings file");
        let guests =
            Guests::at(&path("report"), path("state/control.sock"), "killed", scenario.script());
        let manager = UnixDatagram::bind(path("manager")).expect("a manager's socket");
        manager.set_read_timeout(Some(NET)).expect("a limit");
        let life = Self { guests, manager, folder };
        match scenario {
            Scenario::Whole => {}
            Scenario::Rotation => life.fill_ledger(),
            Scenario::Takeover => {
                let mut earlier = life.start("earlier");
                life.until_ready().expect("the earlier supervisor comes up");
                Process::of(earlier.id()).signal(Signal::Kill);
                earlier.wait().expect("it is our child");
            }
        }
        life
    }

    /// A path in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of its state folder.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.path("state").join(name)
    }

    /// The files of the state folder that the supervisor opens.
    pub(crate) fn files(&self) -> [PathBuf; 4] {
        ["gateway.lock", "gateway.child.lock", "ledger.jsonl", "ledger.jsonl.new"]
            .map(|name| self.state(name))
    }

    /// What strace saw of it.
    pub(crate) fn trace(&self) -> String {
        fs::read_to_string(self.path("trace")).unwrap_or_default()
    }

    /// The folder, which stays.
    pub(crate) fn keep(mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// Lives until its end by itself, or until it is killed at `point`.
    pub(crate) fn live(&self, point: Option<&Point>) {
        let mut command = Command::new("strace");
        command.args(strace::arguments(point, &self.files())).arg("-o").arg(self.path("trace"));
        // strace stays with the process that it starts: this one does not become another.
        command.arg(env!("CARGO_BIN_EXE_lockkeeper-run"));
        let mut traced = self.run(command, "killed");
        Process::of(traced.id()).gone();
        traced.wait().expect("it is our child");
        self.guests.end_script();
    }

    /// Starts a supervisor that nobody traces.
    pub(crate) fn start(&self, owner: &str) -> Child {
        self.run(Command::new(env!("CARGO_BIN_EXE_lockkeeper")), owner)
    }

    fn run(&self, mut command: Command, owner: &str) -> Child {
        command.arg("run").arg("--state-dir").arg(self.path("state"));
        command.arg("--config").arg(self.path("config.toml")).arg("--").arg(probe()).args(OBEDIENT);
        self.surround(&mut command);
        let said = File::create(self.path(&format!("{owner}.log"))).expect("a log");
        command.env("PROBE_OWNER", owner).env("NOTIFY_SOCKET", self.path("manager"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        command.spawn().expect("strace and lockkeeper can be started")
    }

    /// Runs another verb: its exit code, and what it said.
    pub(crate) fn cli(&self, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockkeeper"));
        command.args(args).arg("--state-dir").arg(self.path("state"));
        self.surround(&mut command);
        let output = command.output().expect("lockkeeper can be started");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }

    fn surround(&self, command: &mut Command) {
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.env("HOME", self.path("")).env("PROBE_REPORT", self.path("report"));
    }

    /// Waits until a supervisor tells its manager that it is ready.
    pub(crate) fn until_ready(&self) -> Result<(), String> {
        let mut datagram = [0; 1024];
        loop {
            let told = self.manager.recv(&mut datagram);
            let size = told.map_err(|error| format!("it does not become ready: {error}"))?;
            if datagram[..size].starts_with(b"READY=1") {
                return Ok(());
            }
        }
    }

    /// Forgets what the manager was told so far.
    pub(crate) fn forget_manager(&self) {
        self.manager.set_nonblocking(true).expect("it is a socket");
        while self.manager.recv(&mut [0]).is_ok() {}
        self.manager.set_nonblocking(false).expect("it is a socket");
    }

    /// As if it had been killed within the write of a line.
    pub(crate) fn tear_ledger(&self) {
        let ledger =
            fs::OpenOptions::new().append(true).create(true).open(self.state("ledger.jsonl"));
        ledger.and_then(|mut file| file.write_all(b"{\"at\":12,\"ev")).expect("a torn line");
    }

    /// Real lines, long ones, and no room for many more.
    fn fill_ledger(&self) {
        const ROOM: usize = 700;
        let mut text = String::new();
        for id in 1..=16 {
            let reason = "x".repeat((1 << 16) - 256);
            text += &format!(
                "{{\"at\":1,\"event\":\"requested\",\"id\":\"r-{id:04}\",\"what\":\"restart\",\
                 \"reason\":\"{reason}\",\"by\":{{\"kind\":\"supervisor\"}}}}\n"
            );
        }
        let filler = (1 << 20) - ROOM - text.len();
        text += &format!("{{\"x\":\"{}\"}}\n", "x".repeat(filler));
        fs::create_dir(self.path("state")).expect("a state folder");
        fs::write(self.state("ledger.jsonl"), text).expect("a ledger");
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        for (pid, _) in crate::judge::left(self) {
            Process::of(pid).signal(Signal::Kill);
        }
    }
}
