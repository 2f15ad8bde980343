use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::protocol::signal::Signal;

/// A folder with a config file, an installed OpenClaw and a home, and the sources that name them.
struct Setup {
    root: TempDir,
    sources: Sources,
}

impl Setup {
    fn new() -> Self {
        Self { root: TempDir::new().unwrap(), sources: Sources::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn var(mut self, name: &str, value: impl Into<String>) -> Self {
        self.sources.environment.insert(name.into(), value.into());
        self
    }

    fn command(mut self, line: &str) -> Self {
        self.sources.command = line.split(' ').map(str::to_owned).collect();
        self
    }

    fn file(mut self, text: impl AsRef<[u8]>) -> Self {
        self.sources.file = Some(self.write("lockkeeper.toml", text));
        self
    }

    /// As npm installs it globally: `bin/openclaw` leads to `lib/node_modules/openclaw`.
    fn openclaw(mut self, version: &str) -> Self {
        let package = "lib/node_modules/openclaw";
        let json = format!("{{\"name\":\"openclaw\",\"version\":\"{version}\"}}");
        self.write(&format!("{package}/package.json"), json);
        self.write(&format!("{package}/dist/package.json"), "{\"type\":\"module\"}");
        self.write(&format!("{package}/dist/index.js"), "");
        self.write(&format!("{package}/openclaw.mjs"), "");
        fs::create_dir_all(self.path("bin")).unwrap();
        symlink("../lib/node_modules/openclaw/openclaw.mjs", self.path("bin/openclaw")).unwrap();
        self.sources.profile = Some(ProfileName::Openclaw);
        let search = format!("/nowhere:{}", self.path("bin").display());
        let home = self.path("home").display().to_string();
        self.var("PATH", search).var("HOME", home)
    }

    fn load(&self) -> Effective {
        load(&self.sources).unwrap()
    }

    /// The refusal, with the file's path shortened to its name.
    fn refusal(&self) -> String {
        let root = format!("{}/", self.root.path().display());
        load(&self.sources).unwrap_err().to_string().replace(&root, "")
    }
}

fn via(effective: &Effective) -> String {
    effective.settings.ready.via.to_string()
}

#[test]
fn a_command_alone_gives_the_defaults() {
    let effective = Setup::new().command("gateway --port 1").load();
    let command = vec!["gateway".into(), "--port".into(), "1".into()];
    assert_eq!(effective.settings, Settings { command, ..Settings::default() });
    assert_eq!(effective.origins, [("command".to_owned(), Origin::CommandLine)].into());
    assert_eq!(effective.notes, Vec::<String>::new());
}

#[test]
fn without_a_command_it_is_told_how_to_give_one() {
    assert!(Setup::new().refusal().starts_with("no command; give it after `--`"));
    assert!(Setup::new().file("stop.grace = \"1s\"").refusal().starts_with("no command"));
    assert!(Setup::new().file("command = []").refusal().starts_with("no command"));
}

#[test]
fn the_command_line_outranks_the_file_and_the_file_the_profile() {
    let file = "command = [\"a\"]\nprofile = \"openclaw\"\n[stop]\ngrace = \"3s\"";
    let setup = Setup::new().file(file);
    let effective = setup.load();
    assert_eq!(effective.settings.command, ["a"]);
    assert_eq!(effective.settings.profile, ProfileName::Openclaw);
    assert_eq!(effective.settings.stop.grace.to_string(), "3s");
    assert_eq!(effective.settings.stop.hold.to_string(), "10s");
    assert!(effective.origin("stop.grace").to_string().ends_with("lockkeeper.toml:4"));
    assert_eq!(effective.origin("stop.hold").to_string(), "profile openclaw");
    assert_eq!(effective.origin("stop.signal"), &Origin::Default);

    let mut setup = setup.command("b");
    setup.sources.profile = Some(ProfileName::Generic);
    let effective = setup.load();
    assert_eq!(effective.settings.command, ["b"]);
    assert_eq!(effective.settings.profile, ProfileName::Generic);
    assert_eq!(effective.settings.stop.hold.to_string(), "0s");
    assert_eq!(effective.origin("profile"), &Origin::CommandLine);
}

#[test]
fn files_that_cannot_be_read_are_told_apart() {
    let mut setup = Setup::new().command("x");
    setup.sources.file = Some(setup.path("missing.toml"));
    assert_eq!(setup.refusal(), "cannot read missing.toml: No such file or directory (os error 2)");
    setup.sources.file = Some(setup.root.path().join("."));
    assert!(setup.refusal().contains("is a folder, not a file"));
    setup.sources.file = Some("/dev/null".into());
    assert!(setup.refusal().starts_with("/dev/null is a pipe or a device, not a file"));
    let setup = setup.file(b"# one\n# two\n# \xff\n");
    assert_eq!(setup.refusal(), "lockkeeper.toml:3: not UTF-8; save the file as UTF-8");
    let setup = setup.file("#".repeat((1 << 20) + 1));
    assert!(setup.refusal().starts_with("lockkeeper.toml is larger than 1 MiB"));
    let setup = setup.file("#".repeat(1 << 20));
    assert_eq!(setup.load().settings.command, ["x"]);
    let setup = setup.file("\u{feff}stop.grace = \"1s\"\r\n");
    assert_eq!(setup.load().settings.stop.grace.to_string(), "1s");
    let setup = setup.file("[reddy]");
    assert_eq!(setup.refusal(), "lockkeeper.toml:1: unknown key `reddy`, did you mean `ready`?");
}

#[test]
fn impossible_pairs_are_told_at_the_line_that_was_written() {
    let setup = Setup::new().command("x").file("\n[backoff]\nmax = \"1s\"\ninitial = \"2s\"");
    assert_eq!(
        setup.refusal(),
        "lockkeeper.toml:4: backoff.initial: 2s is longer than backoff.max, 1s"
    );
    // 79 stands in the default of exit.park, which nobody wrote.
    let setup = setup.file("\n[exit]\nrestart = [79]");
    assert_eq!(
        setup.refusal(),
        "lockkeeper.toml:3: exit.park: 79 stands in exit.restart too; a code has one meaning"
    );
    let setup = Setup::new().command("");
    assert_eq!(setup.refusal(), "command line: command: the program's name is empty");
}

#[test]
fn a_current_openclaw_is_found_behind_its_link() {
    let setup = Setup::new().openclaw("2026.9.6").command("openclaw gateway run --port 4000");
    let effective = setup.load();
    let settings = &effective.settings;
    assert_eq!(effective.version.as_deref(), Some("2026.9.6"));
    assert_eq!(effective.notes, Vec::<String>::new());
    assert_eq!(via(&effective), "http://127.0.0.1:4000/startupz");
    assert_eq!(settings.ready.field.to_string(), "status=started");
    assert_eq!(settings.restart.signal, Signal::Usr2);
    assert_eq!(settings.restart.in_process_signal, Signal::Usr2);
    assert_eq!(settings.ready.timeout.to_string(), "2min");
    assert_eq!(settings.stop.grace.to_string(), "330s");
    assert_eq!(settings.restart.grace.to_string(), "330s");
    assert_eq!(
        settings.exit.judge_of(12).join(" "),
        "openclaw gateway restart-handoff consume --expected-pid 12 --json"
    );
    assert_eq!(
        settings.recovery.command.join(" "),
        "openclaw doctor --fix --yes --non-interactive"
    );
    assert_eq!(settings.env.set["OPENCLAW_SUPERVISOR_MODE"], "external");
    for name in ["OPENCLAW_NO_RESPAWN", "OPENCLAW_SYSTEMD_UNIT", "NODE_COMPILE_CACHE"] {
        assert!(settings.env.removes(name), "{name}");
    }
    assert!(!settings.env.set.contains_key("OPENCLAW_NO_RESPAWN"));
}

#[test]
fn an_older_openclaw_has_its_own_signal_and_probe_and_no_judge() {
    let setup = Setup::new().openclaw("2026.3.13");
    let script = setup.path("lib/node_modules/openclaw/openclaw.mjs").display().to_string();
    let effective = setup.command(&format!("node {script} gateway")).load();
    assert_eq!(effective.version.as_deref(), Some("2026.3.13"));
    assert_eq!(effective.settings.restart.signal, Signal::Usr1);
    assert_eq!(effective.settings.restart.in_process_signal, Signal::Usr1);
    assert_eq!(effective.settings.exit.judge, Vec::<String>::new());
    assert_eq!(effective.settings.recovery.command[..2], ["node".to_owned(), script]);
    assert_eq!(via(&effective), "http://127.0.0.1:18789/healthz");
    assert_eq!(effective.settings.ready.field.to_string(), "status=live");
}

#[test]
fn an_older_openclaw_has_no_launcher_no_successor_of_its_own_and_a_doubtful_exit_0() {
    let setup = Setup::new().openclaw("2026.3.13");
    let script = setup.path("lib/node_modules/openclaw/openclaw.mjs").display().to_string();
    let settings = setup.command(&format!("node {script} gateway")).load().settings;
    assert_eq!(settings.env.set["OPENCLAW_NODE_OPTIONS_READY"], "1");
    assert_eq!(settings.env.set["OPENCLAW_SYSTEMD_UNIT"], "lockkeeper.service");
    assert!(!settings.env.set.contains_key("OPENCLAW_SUPERVISOR_MODE"));
    assert_eq!((settings.exit.restart, settings.exit.stop), (vec![0, 75], vec![]));
    // It has no breaker: it may fail as often as any other program.
    assert_eq!(settings.limit, Settings::default().limit);
}

#[test]
fn the_start_limit_is_the_breaker_of_a_current_openclaw() {
    let settings = Setup::new().command("openclaw gateway").openclaw("2026.9.6").load().settings;
    let breaker = Contract::Current.breaker().expect("it has one");
    assert_eq!(settings.limit.burst, breaker.unclean);
    let times = [settings.limit.interval, settings.limit.retry, settings.backoff.reset_after];
    assert!(times.iter().all(|time| time.to_string() == "5min"), "{times:?}");
}

#[test]
fn the_entry_of_its_service_units_is_known_too() {
    let setup = Setup::new().openclaw("2026.9.6");
    let script = setup.path("lib/node_modules/openclaw/dist/index.js").display().to_string();
    let effective = setup.command(&format!("node {script} gateway --port 1")).load();
    assert_eq!(effective.version.as_deref(), Some("2026.9.6"));
}

#[test]
fn an_unknown_version_is_taken_for_the_current_one_and_said() {
    let mut setup = Setup::new().command("./wrapper gateway run");
    setup.sources.profile = Some(ProfileName::Openclaw);
    let effective = setup.load();
    assert_eq!(effective.version, None);
    assert_eq!(effective.settings.restart.signal, Signal::Usr2);
    assert_eq!(effective.settings.exit.judge[0], "./wrapper");
    assert_eq!(effective.notes.len(), 1);
    assert!(effective.notes[0].starts_with("the version of openclaw is unknown"));

    let effective = setup.command("node server.js").load();
    assert_eq!(effective.settings.exit.judge, Vec::<String>::new());
    assert!(effective.notes[1].starts_with("no openclaw is seen in the command"));
}

#[test]
fn the_port_follows_openclaws_own_config_at_every_spawn() {
    let setup = Setup::new().openclaw("2026.9.6").command("openclaw gateway");
    let probe = |effective: &Effective| {
        openclaw_probe(effective, &setup.sources.environment).map(|probe| probe.to_string())
    };
    setup.write("home/.openclaw/openclaw.json", r#"{"gateway":{"port":5001}}"#);
    let effective = setup.load();
    assert_eq!(via(&effective), "http://127.0.0.1:5001/startupz");
    setup.write("home/.openclaw/openclaw.json", r#"{"gateway":{"port":5002}}"#);
    assert_eq!(probe(&effective).as_deref(), Some("http 127.0.0.1:5002/startupz"));
    let tls = r#"{"gateway":{"port":5003,"tls":{"enabled":true}}}"#;
    setup.write("home/.openclaw/openclaw.json", tls);
    assert_eq!(probe(&effective).as_deref(), Some("tcp 127.0.0.1:5003"));
    assert_eq!(setup.load().notes.len(), 1);
    setup.write("home/.openclaw/openclaw.json", "{ /* json5 */ gateway: {} }");
    assert_eq!(probe(&effective).as_deref(), Some("http 127.0.0.1:18789/startupz"));
    assert!(setup.load().notes[0].contains("openclaw.json is not plain JSON"));
}

#[test]
fn a_probe_that_the_file_gives_stays() {
    let setup = Setup::new().openclaw("2026.9.6").command("openclaw gateway --port 1");
    let setup = setup.file("ready.via = \"tcp://localhost:7\"");
    let probe = openclaw_probe(&setup.load(), &setup.sources.environment);
    assert_eq!(probe.map(|probe| probe.to_string()).as_deref(), Some("tcp localhost:7"));
}

#[test]
fn the_profile_sees_the_childs_environment_as_the_file_makes_it() {
    let setup = Setup::new().openclaw("2026.9.6").command("openclaw gateway");
    let setup = setup.var("OPENCLAW_GATEWAY_PORT", "6001");
    assert_eq!(via(&setup.load()), "http://127.0.0.1:6001/startupz");
    let setup = setup.file("env.remove = [\"OPENCLAW_GATEWAY_*\"]");
    assert_eq!(via(&setup.load()), "http://127.0.0.1:18789/startupz");
    let setup = setup.file("env.set.OPENCLAW_GATEWAY_PORT = \"6002\"");
    assert_eq!(via(&setup.load()), "http://127.0.0.1:6002/startupz");
}

#[test]
fn variables_are_merged_by_name_and_the_file_outranks_the_profile() {
    let setup = Setup::new().openclaw("2026.9.6").command("openclaw gateway").file(
        "[env]\nset.OPENCLAW_SUPERVISOR_MODE = \"mine\"\nset.EXTRA = \"1\"\n\
         remove = [\"OPENCLAW_SERVICE_*\"]",
    );
    let effective = setup.load();
    let set = &effective.settings.env.set;
    assert_eq!(set["OPENCLAW_SUPERVISOR_MODE"], "mine");
    assert_eq!(set["EXTRA"], "1");
    assert_eq!(set["OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED"], "1");
    assert!(!set.contains_key("OPENCLAW_SERVICE_REPAIR_POLICY"));
    assert_eq!(effective.settings.env.remove, ["OPENCLAW_SERVICE_*"]);
}

#[test]
fn a_wish_to_stay_in_the_process_is_passed_on() {
    for name in NO_RESPAWN {
        let setup = Setup::new().openclaw("2026.9.6").command("openclaw gateway").var(name, "yes");
        let effective = setup.load();
        assert_eq!(effective.settings.restart.respawn, Respawn::InProcess);
        assert_eq!(effective.origin("restart.respawn"), &Origin::Environment(name.into()));
        assert_eq!(effective.settings.env.set["OPENCLAW_NO_RESPAWN"], "1");
        assert!(!effective.settings.env.removes("OPENCLAW_NO_RESPAWN"));
        let generic = Setup::new().command("x").var(name, "1").load();
        assert_eq!(generic.settings.restart.respawn, Respawn::InProcess);
        let no = Setup::new().command("x").var(name, "0").load();
        assert_eq!(no.settings.restart.respawn, Respawn::Fresh);
    }
    let setup = Setup::new().openclaw("2026.9.6").command("openclaw gateway");
    let effective = setup.file("restart.respawn = \"in-process\"").load();
    assert_eq!(effective.settings.env.set["OPENCLAW_NO_RESPAWN"], "1");
}

#[test]
fn what_is_rendered_could_be_the_file() {
    let setup = Setup::new().openclaw("2026.9.6").command("openclaw gateway --port 1");
    let effective = setup.file("[limit]\nburst = 3\n[env]\nset.\"a.b\" = \"c\"").load();
    let read: Settings = toml::from_str(&effective.render()).unwrap();
    assert_eq!(read, effective.settings);
    assert!(effective.render().contains("lockkeeper.toml:2\n"));
}

#[test]
fn a_profile_is_printed_as_a_file() {
    let printed = profile::render(ProfileName::Openclaw);
    let setup = Setup::new().command("openclaw gateway").file(&printed);
    let effective = setup.load();
    assert_eq!(effective.settings.stop.grace.to_string(), "330s");
    assert_eq!(effective.settings.exit.judge[1], "gateway");
    assert!(!printed.contains("cooldown"), "{printed}");
    let generic: Settings = toml::from_str(&profile::render(ProfileName::Generic)).unwrap();
    assert_eq!(generic, Settings::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_in_a_file_make_it_panic(bytes in any::<Vec<u8>>()) {
        let _ = load(&Setup::new().command("x").file(bytes).sources);
    }
}
