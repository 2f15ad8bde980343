//! The packaged service files: read by the tools that will read them, and the systemd unit run on
//! a real systemd. Those tests need root (namespaces, mounts); without it they say so and return.

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::{fs, path::Path, process::Command};

use lockkeeper::protocol::exit;

#[path = "support/lab.rs"]
mod lab;

use lab::{Lab, Pipe};

const UNIT: &str = include_str!("../packaging/systemd/lockkeeper@.service");
const AGENT: &str = include_str!("../packaging/launchd/dev.lockkeeper.gateway.plist");
/// Where the unit expects the program.
const INSTALLED: &str = "/usr/local/bin/lockkeeper";
const GATEWAY: &str = "lockkeeper@gateway.service";

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let dir = tempfile::tempdir().expect("a folder");
    let unit = dir.path().join("lockkeeper@gateway.service");
    // verify insists that the program exists.
    fs::write(&unit, UNIT.replace(INSTALLED, env!("CARGO_BIN_EXE_lockkeeper"))).expect("written");
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&unit)
        .output()
        .expect("systemd-analyze can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    // It warns of what it does not know, and yet succeeds.
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn no_exit_code_that_a_restart_cannot_help_is_restarted() {
    let listed: Vec<u8> = setting("RestartPreventExitStatus")
        .split_whitespace()
        .map(|code| code.parse().expect("a code"))
        .collect();
    let cannot_be_helped = [
        exit::USAGE,
        exit::UNAVAILABLE,
        exit::START_LIMIT,
        exit::CANNOT_CREATE,
        exit::CONFIG,
        exit::PARKED,
        exit::NOT_EXECUTABLE,
        exit::NOT_FOUND,
    ];
    assert_eq!(listed, cannot_be_helped);
}

#[test]
fn launchd_gets_a_property_list_with_every_key_of_its_type() {
    // plistlib, because xmllint knows XML but not property lists.
    let told = python(
        "import json, plistlib, sys\n\
         print(json.dumps(plistlib.loads(sys.argv[1].encode()), sort_keys=True))",
        AGENT,
    );
    let agent: serde_json::Value = serde_json::from_str(&told).expect("json");
    assert_eq!(agent["Label"], "dev.lockkeeper.gateway");
    assert_eq!(agent["ProgramArguments"][0], INSTALLED);
    assert_eq!(agent["ProgramArguments"][1], "run");
    assert_eq!(agent["KeepAlive"]["SuccessfulExit"], false);
    assert_eq!(agent["RunAtLoad"], true);
    assert_eq!(agent["ProcessType"], "Interactive");
    assert!(agent["ThrottleInterval"].is_u64(), "{agent}");
    assert!(agent["StandardErrorPath"].is_string(), "{agent}");
    let path = agent["EnvironmentVariables"]["PATH"].as_str().expect("a PATH");
    assert!(path.split(':').all(|folder| folder.starts_with('/')), "{path}");
    // Both managers grant the same.
    assert_eq!(agent["ExitTimeOut"].to_string(), setting("TimeoutStopSec"));

    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging/launchd/dev.lockkeeper.gateway.plist");
    let output = Command::new("xmllint")
        .args(["--noout", "--nonet"])
        .arg(file)
        .output()
        .expect("xmllint can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_start_returns_when_the_gateway_is_ready_and_a_stop_leaves_nothing() {
    let Some(service) = Service::install() else { return };
    let start = service.lab.start(&["systemctl", "start", GATEWAY]);
    let child = service.started.read();
    assert_eq!(service.property("ActiveState"), "activating");
    assert!(!start.has_ended(), "start returned before the gateway was ready");

    service.go.write("serve");
    let started = start.finish();
    assert_eq!(started.code, Some(0), "{started:?}");
    assert_eq!(service.property("ActiveState"), "active");
    assert_eq!(service.property("SubState"), "running");
    assert_ne!(service.property("StatusText"), "");
    assert_eq!(service.processes(), 2, "the supervisor and the gateway");
    let program = service.lab.path("lockkeeper");
    let status = || service.lab.run(&[program.to_str().expect("a path"), "status"]).text;
    // systemd is not waited for for ever, and not here either.
    let told = std::iter::repeat_with(status).find(|told| told.contains("systemd")).expect("told");
    // The default of 10 s and twice 5 s; the unit's 360 s.
    let budget = "budget    a stop takes at most 20.0 s, systemd allows 6 min 0 s: fits\n";
    assert!(told.contains(budget), "{told}");

    let stopped = service.lab.run(&["systemctl", "stop", GATEWAY]);
    assert_eq!(stopped.code, Some(0), "{stopped:?}");
    assert_eq!(service.property("ActiveState"), "inactive");
    assert_eq!(service.property("Result"), "success");
    assert_eq!(service.property("ExecMainStatus"), exit::OK.to_string());
    assert!(!service.is_alive(&child), "the gateway outlived its service");
    assert_eq!(service.processes(), 0);
}

#[test]
fn a_reload_is_a_fresh_gateway_under_the_same_supervisor() {
    let Some(service) = Service::install() else { return };
    let first = service.start();
    let supervisor = service.property("MainPID");

    let reload = service.lab.start(&["systemctl", "reload", GATEWAY]);
    let second = service.started.read();
    assert!(!service.is_alive(&first), "two gateways");
    assert_eq!(service.property("ActiveState"), "reloading");
    assert!(!reload.has_ended(), "reload returned before the new gateway was ready");
    service.go.write("serve");
    let reloaded = reload.finish();

    assert_eq!(reloaded.code, Some(0), "{reloaded:?}");
    assert_ne!(first, second);
    assert_eq!(service.property("ActiveState"), "active");
    assert_eq!(service.property("MainPID"), supervisor);
    assert_eq!(service.property("NRestarts"), "0");
    assert_eq!(service.processes(), 2, "the supervisor and the gateway");
}

#[test]
fn a_killed_supervisor_comes_back_with_one_gateway() {
    let Some(service) = Service::install() else { return };
    let first = service.start();

    let supervisor = service.property("MainPID");
    assert_eq!(service.lab.run(&["kill", "-KILL", &supervisor]).code, Some(0));
    let second = service.started.read();
    assert!(!service.is_alive(&first), "two gateways");
    service.go.write("serve");
    // A start of what is being started waits for the same end.
    let active = service.lab.run(&["systemctl", "start", GATEWAY]);

    assert_eq!(active.code, Some(0), "{active:?}");
    assert_ne!(first, second);
    assert_ne!(service.property("MainPID"), supervisor);
    assert_eq!(service.property("NRestarts"), "1");
    assert_eq!(service.processes(), 2, "the supervisor and the gateway");
}

#[test]
fn a_bad_config_fails_the_unit_for_good() {
    let Some(service) = Service::install() else { return };
    fs::write(service.lab.path("gateway.toml"), "comand = [\"true\"]\n").expect("written");

    let started = service.lab.run(&["systemctl", "start", GATEWAY]);

    assert_eq!(started.code, Some(1), "{started:?}");
    assert_eq!(service.property("ExecMainStatus"), exit::CONFIG.to_string());
    assert_eq!(service.property("ActiveState"), "failed");
    assert_eq!(service.property("NRestarts"), "0");
}

/// The unit, installed in a systemd of its own, around a gateway that tells when it was started
/// and is ready when it is told to.
struct Service {
    lab: Lab,
    /// Each generation writes its pid (the lab's) here.
    started: Pipe,
    /// Each generation waits for a line here before it is ready.
    go: Pipe,
}

impl Service {
    fn install() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("not run: a systemd of our own (namespaces, mounts) needs root");
            return None;
        }
        let lab = Lab::boot();
        let (started, go) = (Pipe::new(lab.path("started")), Pipe::new(lab.path("go")));
        let program = lab.path("lockkeeper");
        fs::copy(env!("CARGO_BIN_EXE_lockkeeper"), &program).expect("the program is copied");
        let gateway = format!(
            "echo $$ >{started}; read -r _ <{go}; systemd-notify --ready; exec sleep infinity",
            started = lab.path("started").display(),
            go = lab.path("go").display(),
        );
        let config = format!("command = [\"sh\", \"-c\", {gateway:?}]\nready.via = \"notify\"\n");
        fs::write(lab.path("gateway.toml"), config).expect("written");
        // As a machine has them: the unit as it is shipped, its differences in a drop-in.
        fs::write(lab.path("unit"), UNIT).expect("written");
        let config = lab.path("gateway.toml");
        let (program, config) = (program.display(), config.display());
        let drop_in = format!(
            "[Service]\n\
             ExecStart=\nExecStart={program} run --name %i --config {config}\n\
             ExecReload=\nExecReload={program} restart --name %i --wait\n",
        );
        fs::write(lab.path("drop-in"), drop_in).expect("written");
        let folder = "/run/systemd/system";
        let install = format!(
            "cp unit {folder}/lockkeeper@.service && mkdir {folder}/lockkeeper@.service.d && \
             cp drop-in {folder}/lockkeeper@.service.d/lab.conf && systemctl daemon-reload"
        );
        let install = format!("cd {} && {install}", lab.path("").display());
        let installed = lab.run(&["sh", "-c", &install]);
        assert_eq!(installed.code, Some(0), "{installed:?}");
        Some(Self { lab, started, go })
    }

    /// Starts the unit until it is active; the gateway's pid.
    fn start(&self) -> String {
        let start = self.lab.start(&["systemctl", "start", GATEWAY]);
        let child = self.started.read();
        self.go.write("serve");
        let started = start.finish();
        assert_eq!(started.code, Some(0), "{started:?}");
        child
    }

    fn property(&self, name: &str) -> String {
        self.lab.property(GATEWAY, name)
    }

    fn is_alive(&self, pid: &str) -> bool {
        self.lab.run(&["kill", "-0", pid]).code == Some(0)
    }

    /// How many processes the unit has.
    fn processes(&self) -> usize {
        let group = self.property("ControlGroup");
        if group.is_empty() {
            return 0;
        }
        self.lab.run(&["cat", &format!("/sys/fs/cgroup{group}/cgroup.procs")]).text.lines().count()
    }
}

/// The value of a setting that the unit gives once.
fn setting(name: &str) -> &'static str {
    let values: Vec<_> =
        UNIT.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect();
    let [value] = values[..] else { panic!("{name} is given {} times", values.len()) };
    value
}

fn python(script: &str, argument: &str) -> String {
    let output = Command::new("python3")
        .args(["-c", script, argument])
        .output()
        .expect("python3 can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
