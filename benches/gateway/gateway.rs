//! A gateway in a process of its own, and one under the supervisor.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;

use crate::client::{BEARER, Client};

/// Where the gateway's binary is.
pub(crate) const GATEWAY: &str = "LOCKKEEPER_BENCH_GATEWAY";
/// Where another build of it is, to be measured beside it; need not be.
pub(crate) const OTHER: &str = "LOCKKEEPER_BENCH_OTHER_GATEWAY";
/// Where the supervisor's is.
const SUPERVISOR: &str = "LOCKKEEPER_BENCH_BINARY";
/// A child that lived for so long is respawned at once when it dies: what is measured is one crash.
pub(crate) const CRASH_LOOP: &str = "1s";

/// What a gateway is started with.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    /// `journal.sync`.
    pub(crate) is_unsynced: bool,
    /// The agent answers nothing: what is measured is acceptance alone.
    pub(crate) is_held: bool,
    /// It is the other build.
    pub(crate) is_other: bool,
    /// Where replies are posted.
    pub(crate) callback: Option<SocketAddr>,
}

/// A gateway that serves. Dropped, it is killed.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) address: SocketAddr,
    folder: TempDir,
    is_held: bool,
}

impl Gateway {
    pub(crate) async fn start(settings: &Settings) -> Self {
        let folder = folder();
        let mut command = gateway(folder.path(), settings, "127.0.0.1:0");
        let child = command.spawn().expect("it starts");
        let written = folder.path().join("state/address");
        let address = loop {
            let address = fs::read_to_string(&written).ok().and_then(|it| it.parse().ok());
            match address {
                Some(address) => break address,
                None => thread::sleep(Duration::from_millis(1)),
            }
        };
        until_ready(address).await;
        Self { child, address, folder, is_held: settings.is_held }
    }

    /// Whether its agent does.
    pub(crate) fn answers(&self) -> bool {
        !self.is_held
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What opens the chat.
    pub(crate) fn token(&self) -> String {
        token(self.folder.path())
    }

    /// Waits until every accepted message is answered, and every answer delivered.
    pub(crate) async fn until_idle(&self) {
        let mut client = Client::connect(self.address).await.expect("it listens");
        loop {
            client.ask("/metrics").await.expect("an answer");
            let waits = |line: &str| {
                line.starts_with("lockkeeper_gateway_journal{")
                    && (line.contains("\"accepted\"") || line.contains("\"pending\""))
                    && !line.ends_with(" 0")
            };
            if !client.told().lines().any(waits) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A gateway under `lockkeeper run`. Dropped, both are ended.
pub(crate) struct Supervised {
    child: Child,
    pub(crate) address: SocketAddr,
    folder: TempDir,
}

impl Supervised {
    pub(crate) async fn start(settings: &Settings) -> Self {
        let folder = folder();
        let reserved = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = reserved.local_addr().expect("it has an address");
        drop(reserved);
        let config = format!(
            "[ready]\nvia = 'notify'\n[restart]\ncooldown = '0s'\n\
             [backoff]\nreset_after = '{CRASH_LOOP}'\n"
        );
        fs::write(folder.path().join("lockkeeper.toml"), config).expect("a settings file");
        let gateway = gateway(folder.path(), settings, &address.to_string());
        let child = verb(folder.path(), "run")
            .arg("--config")
            .arg(folder.path().join("lockkeeper.toml"))
            .arg("--")
            .arg(gateway.get_program())
            .args(gateway.get_args())
            .spawn()
            .expect("it starts");
        until_ready(address).await;
        Self { child, address, folder }
    }

    pub(crate) fn token(&self) -> String {
        token(self.folder.path())
    }

    /// Waits until messages get in.
    pub(crate) async fn until_ready(&self) {
        until_ready(self.address).await;
    }

    /// Begins a restart; its process ends when the next generation is ready.
    pub(crate) fn restart(&self) -> Child {
        verb(self.folder.path(), "restart").arg("--wait").spawn().expect("it starts")
    }

    /// The gateway's process number.
    pub(crate) fn gateway(&self) -> u32 {
        let pid = self.child.id();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = fs::read_to_string(path).expect("Linux tells it");
        let first = children.split_whitespace().next();
        first.and_then(|pid| pid.parse().ok()).expect("it has a child")
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // By its own verb: killed, it would leave its child behind.
        let _ = verb(self.folder.path(), "stop").status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a run keeps its things: on the disk that the build is on, which is no memory.
pub(crate) fn folder() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

fn gateway(folder: &Path, settings: &Settings, bind: &str) -> Command {
    let agent = if settings.is_held {
        "kind = 'command'\ncommand = ['sleep', '100000']\ntimeout = '1h'\nconcurrency = 1"
    } else {
        "kind = 'echo'"
    };
    let callback = settings.callback.map(|it| format!("callback = 'http://{it}/answers'"));
    let config = format!(
        "[journal]\nsync = {}\n[agent]\n{agent}\n[inbound]\nqueue = 1000000000\n\
         [restart]\ncooldown = '0s'\n[hooks.bench]\nbearer = '{BEARER}'\n{}\n",
        !settings.is_unsynced,
        callback.unwrap_or_default(),
    );
    let path = folder.join("gateway.toml");
    fs::write(&path, config).expect("a settings file");
    let mut command = Command::new(binary(if settings.is_other { OTHER } else { GATEWAY }));
    command.arg("--config").arg(path).arg("--state-dir").arg(folder.join("state"));
    command.args(["--bind", bind]).stdin(Stdio::null()).stdout(Stdio::null());
    quiet(&mut command);
    command
}

fn verb(folder: &Path, verb: &str) -> Command {
    let mut command = Command::new(binary(SUPERVISOR));
    command.arg(verb).arg("--state-dir").arg(folder.join("supervisor"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    quiet(&mut command);
    command
}

/// Its log, unless somebody wants to see it.
fn quiet(command: &mut Command) {
    if env::var_os("LOCKKEEPER_BENCH_LOG").is_none() {
        command.stderr(Stdio::null());
    }
}

fn binary(variable: &str) -> PathBuf {
    env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| panic!("{variable} is not set"))
}

fn token(folder: &Path) -> String {
    let token = fs::read_to_string(folder.join("state/token")).expect("it was made");
    token.trim().to_owned()
}

async fn until_ready(address: SocketAddr) {
    loop {
        if let Ok(mut client) = Client::connect(address).await
            && client.ask("/readyz").await.is_ok_and(|status| status == 200)
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
