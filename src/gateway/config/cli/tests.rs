use std::fs;

use clap::Parser;
use tempfile::TempDir;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: ConfigCommand,
}

struct Lab(TempDir);

impl Lab {
    fn with(text: &str) -> Self {
        let lab = Self(TempDir::new().unwrap());
        lab.write("gateway.toml", text);
        lab
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("gateway.toml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    fn get(&self, key: &str) -> Result<String, String> {
        get(Some(self.path()), Some(key), false).map_err(told)
    }

    fn set(&self, key: &str, value: &str) -> Result<String, (u8, String)> {
        change(Some(self.path()), key, value, false).map_err(|failed| (failed.code, told(failed)))
    }
}

fn told(failed: Failed) -> String {
    match failed.told {
        Told::Error(text) | Told::Answer(text) => text,
    }
}

#[test]
fn the_command_lines_of_the_help_are_command_lines() {
    use clap::CommandFactory;
    for command in Line::command().get_subcommands_mut() {
        let help = command.render_long_help().to_string();
        let mut examples = 0;
        for line in
            help.lines().filter_map(|line| line.strip_prefix("  lockkeeper-gateway config "))
        {
            let words = line.split(" <").next().unwrap().split(" >").next().unwrap();
            let words = words.replace("'[\"my-agent\", \"--fast\"]'", "[]");
            let words = words.replace("'{ env: \"TELEGRAM_TOKEN\" }'", "{}");
            let parsed = Line::try_parse_from(format!("config {words}").split(' '));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
            examples += 1;
        }
        assert!(examples > 0 || command.get_name() == "help", "{help}");
    }
}

#[test]
fn get_shows_defaults_too_and_no_secret() {
    let lab = Lab::with("server.token = 's3cr3t'\nagent.model = 'm'");
    let all = get(Some(lab.path()), None, false).map_err(told).unwrap();
    assert!(
        all.contains("max_connections = 4096") && all.contains("token = \"<hidden>\""),
        "{all}"
    );
    let json = get(Some(lab.path()), None, true).map_err(told).unwrap();
    assert!(!all.contains("s3cr3t") && !json.contains("s3cr3t"));
    assert_eq!(lab.get("agent.model").unwrap(), "m");
    assert_eq!(lab.get("agent.concurrency").unwrap(), "4");
    assert_eq!(lab.get("agent.api_key").unwrap(), "");
    assert_eq!(lab.get("reload").unwrap(), "mode = \"hybrid\"");
}

#[test]
fn get_of_a_key_that_is_none_names_those_that_are() {
    let lab = Lab::with("");
    assert_eq!(lab.get("reload.mod").unwrap_err(), "reload.mod: no such key; known there: mode");
    let unset = lab.get("channels.telegram.token").unwrap_err();
    assert_eq!(unset, "channels.telegram.token: channels.telegram is not set");
    assert!(lab.get("reload.mode.x").unwrap_err().contains("reload.mode is no table"));
}

#[test]
fn set_writes_one_key_keeps_comments_and_tells_the_plan() {
    let lab = Lab::with("# ours\n[agent]\nmodel = 'a' # it\n");
    let said = lab.set("agent.model", "b").unwrap();
    assert!(said.ends_with("hot, agent: agent.model"), "{said}");
    assert_eq!(lab.text(), "# ours\n[agent]\nmodel = \"b\" # it\n");
    lab.set("agent.concurrency", "8").unwrap();
    // A number where a text is meant.
    lab.set("agent.model", "2024").unwrap();
    lab.set("agent.command", r#"["x", "-y"]"#).unwrap();
    lab.set("channels.telegram.token", r#"{ env: "T" }"#).unwrap();
    assert_eq!(lab.get("agent.model").unwrap(), "2024");
    assert_eq!(lab.get("agent.command").unwrap(), r#"["x","-y"]"#);
    assert_eq!(lab.get("channels.telegram.token.env").unwrap(), "T");
    lab.set("channels.telegram", "null").unwrap();
    assert_eq!(lab.get("channels.telegram").unwrap(), "");
}

#[test]
fn set_refuses_what_cannot_be_used_and_writes_nothing() {
    let lab = Lab::with("agent.model = 'a'\n");
    let (code, text) = lab.set("agent.modle", "b").unwrap_err();
    assert_eq!(code, exit::CONFIG);
    assert!(text.contains("did you mean `model`"), "{text}");
    let (code, text) = lab.set("agent.timeout", "60").unwrap_err();
    assert_eq!(code, exit::CONFIG);
    assert!(text.contains("60 has no unit"), "{text}");
    assert_eq!(lab.set("agent..x", "1").unwrap_err().0, exit::USAGE);
    assert_eq!(lab.text(), "agent.model = 'a'\n");
}

#[test]
fn set_mends_a_file_that_the_gateway_would_refuse_and_makes_one_that_is_missing() {
    let lab = Lab::with("agent.kind = 'openai'\n");
    lab.set("agent.model", "m").unwrap();
    fs::remove_file(lab.path()).unwrap();
    lab.set("agent.model", "m").unwrap();
    assert_eq!(lab.text(), "[agent]\nmodel = \"m\"\n");
}

#[test]
fn a_plan_is_a_table_of_what_each_path_needs() {
    let lab = Lab::with("");
    let old = lab.write("old.toml.last-good", "agent.model = 'a'\nserver.token = 's3cr3t'");
    let new = lab.write(
        "new.json5",
        "{agent: {model: 'b'}, server: {token: 's3cr4t', bind: '127.0.0.1:1'}}",
    );
    let table = plan(old.clone(), new.clone(), false).map_err(told).unwrap();
    assert_eq!(
        table,
        "agent.model   hot agent  \"a\" -> \"b\"\n\
         server.bind   restart    \"127.0.0.1:18780\" -> \"127.0.0.1:1\"\n\
         server.token  restart    changed"
    );
    let json: Value =
        serde_json::from_str(&plan(old.clone(), new, true).map_err(told).unwrap()).unwrap();
    assert_eq!(json["plan"]["restart"], json!(["server.bind", "server.token"]));
    assert_eq!(plan(old.clone(), old, false).map_err(told).unwrap(), "nothing changes");
}

#[test]
fn validate_tells_what_is_wrong_and_where() {
    let lab = Lab::with("agent.model = 'a'");
    let good = validate(Some(lab.path()), false).map_err(told).unwrap();
    assert!(good.ends_with("gateway.toml is a config"), "{good}");
    let bad = lab.write("bad.toml", "\nagent.modle = 1");
    let Failed { code, told: Told::Error(text) } = validate(Some(bad.clone()), false).unwrap_err()
    else {
        panic!("it goes to stdout")
    };
    assert!(code == exit::CONFIG && text.contains("bad.toml:2:7: agent.modle"), "{text}");
    let json: Value = serde_json::from_str(&told(validate(Some(bad), true).unwrap_err())).unwrap();
    assert_eq!(json["valid"], false);
    assert_eq!(json["problems"][0]["line"], 2);
    assert_eq!(json["problems"][0]["key"], "agent.modle");
}

#[test]
fn every_command_ends_with_its_exit_code() {
    let lab = Lab::with("agent.model = 'a'");
    let bad = lab.write("bad.toml", "x");
    let run = |words: &str, path: &PathBuf| {
        let line = Line::try_parse_from(format!("config {words}").split(' ')).unwrap();
        run(line.command, Some(path.clone()))
    };
    assert_eq!(run("get agent.model", &lab.path()), exit::OK);
    assert_eq!(run("get agent.x", &lab.path()), exit::USAGE);
    assert_eq!(run("get", &bad), exit::CONFIG);
    assert_eq!(run("validate", &bad), exit::CONFIG);
    assert_eq!(run("schema", &bad), exit::OK);
    assert_eq!(run("set agent.model b", &PathBuf::from("/proc/none/gateway.toml")), 73);
}
