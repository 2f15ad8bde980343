use std::collections::BTreeMap;

use proptest::{collection, prelude::*};

use super::*;

fn argv(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn invocation(line: &str) -> Invocation {
    Invocation::of(&argv(line))
}

fn port(line: &str, vars: &[(&str, &str)], config: Option<u16>) -> u16 {
    let vars: BTreeMap<_, _> = vars.iter().copied().collect();
    invocation(line).port(Contract::Current, |name| vars.get(name).copied(), config)
}

fn config_path(line: &str, vars: &[(&str, &str)]) -> Option<String> {
    let vars: BTreeMap<_, _> = vars.iter().copied().collect();
    let path = invocation(line).config_path(|name| vars.get(name).copied());
    path.map(|path| path.display().to_string())
}

#[test]
fn versions_are_compared_by_the_calendar() {
    let contract = |text: &str| text.parse().map(Version::contract);
    assert_eq!(contract("2026.3.13"), Ok(Contract::Legacy));
    assert_eq!(contract("2026.8.99"), Ok(Contract::Legacy));
    assert_eq!(contract("2026.9.0-beta.1"), Ok(Contract::Current));
    assert_eq!(contract("v2026.10.2"), Ok(Contract::Current));
    assert_eq!(contract("2027.1"), Ok(Contract::Current));
    for text in ["", "1", "a.b.c", "2026.9.6.1", "2026.-9.1", "2026.+9.1", "2026..1"] {
        assert_eq!(contract(text), Err(NotAVersion), "{text}");
    }
    assert!("2026.9.10".parse::<Version>().unwrap() > "2026.9.9".parse().unwrap());
}

#[test]
fn the_program_is_found_where_it_stands_in_the_command() {
    for (line, prefix) in [
        ("openclaw gateway run --port 1", "openclaw"),
        ("/usr/bin/openclaw gateway", "/usr/bin/openclaw"),
        (
            "node --max-old-space-size=1 /a/openclaw.mjs gateway",
            "node --max-old-space-size=1 /a/openclaw.mjs",
        ),
        ("node /a/openclaw/dist/index.js gateway --port 1", "node /a/openclaw/dist/index.js"),
        ("./my-wrapper gateway run", "./my-wrapper"),
        ("openclaw --profile work gateway", "openclaw --profile work"),
        ("openclaw gateway --profile=work", "openclaw --profile work"),
        ("openclaw --dev gateway", "openclaw --profile dev"),
        ("openclaw gateway --dev", "openclaw"),
        ("openclaw --log-level gateway --dev gateway", "openclaw --profile dev"),
        ("openclaw gateway -- --profile x", "openclaw"),
    ] {
        assert_eq!(invocation(line).prefix, Some(argv(prefix)), "{line}");
    }
    for line in ["node server.js", "sh -c openclaw-gateway", "docker exec gateway"] {
        assert_eq!(invocation(line), Invocation::default(), "{line}");
    }
    assert_eq!(invocation("./my-wrapper gateway").program, None);
    assert_eq!(Invocation::of(&[]), Invocation::default());
}

#[test]
fn the_port_comes_from_the_first_that_tells_it() {
    const ENV: &[(&str, &str)] = &[("OPENCLAW_GATEWAY_PORT", " 3 ")];
    let run = "openclaw gateway run";
    assert_eq!(port("openclaw gateway --port 1", ENV, Some(4)), 1);
    assert_eq!(port("openclaw gateway --port=1 --port=2", ENV, Some(4)), 2);
    assert_eq!(port(run, ENV, Some(4)), 3);
    assert_eq!(port(run, &[("OPENCLAW_GATEWAY_PORT", "127.0.0.1:5")], None), 5);
    assert_eq!(port(run, &[("OPENCLAW_GATEWAY_PORT", "[::1]:6")], None), 6);
    assert_eq!(port(run, &[("OPENCLAW_GATEWAY_PORT", "::1")], Some(4)), 4);
    assert_eq!(port(run, &[("OPENCLAW_GATEWAY_PORT", "x")], Some(4)), 4);
    assert_eq!(port("openclaw gateway --port 0", &[], None), DEFAULT_PORT);
    assert_eq!(port("openclaw gateway --port", &[], None), DEFAULT_PORT);
}

#[test]
fn a_named_profile_has_its_own_port() {
    // As `resolveGatewayPort` of 2026.9.6 answers.
    assert_eq!(port("openclaw --profile work gateway", &[], None), 41984);
    assert_eq!(port("openclaw gateway", &[("OPENCLAW_PROFILE", "a")], None), 22220);
    assert_eq!(port("openclaw gateway", &[("OPENCLAW_PROFILE", "dev")], None), 38556);
    assert_eq!(port("openclaw gateway", &[("OPENCLAW_PROFILE", " Default ")], None), 18789);
    assert_eq!(port("openclaw gateway", &[("OPENCLAW_PROFILE", "x y")], None), 18789);
    assert_eq!(port("openclaw --dev gateway", &[], Some(4)), DEV_PORT);
    let legacy = invocation("openclaw --profile work gateway");
    assert_eq!(legacy.port(Contract::Legacy, |_| None, None), DEFAULT_PORT);
}

#[test]
fn the_config_is_where_its_environment_says() {
    let run = "openclaw gateway";
    let home = ("HOME", "/home/ada");
    let state = ("OPENCLAW_STATE_DIR", "~/state");
    let at = |path: &str| Some(path.to_owned());
    assert_eq!(config_path(run, &[home]), at("/home/ada/.openclaw/openclaw.json"));
    assert_eq!(config_path(run, &[home, state]), at("/home/ada/state/openclaw.json"));
    assert_eq!(config_path(run, &[("OPENCLAW_CONFIG_PATH", "/c.json"), state]), at("/c.json"));
    assert_eq!(config_path(run, &[]), None);
    assert_eq!(
        config_path("openclaw --profile work gateway", &[home]),
        at("/home/ada/.openclaw-work/openclaw.json")
    );
    assert_eq!(
        config_path(run, &[home, ("OPENCLAW_HOME", "/srv")]),
        at("/srv/.openclaw/openclaw.json")
    );
}

#[test]
fn its_config_is_read_as_far_as_it_is_json() {
    let read = |text: &str| GatewayConfig::parse(text.as_bytes());
    let port = |port| Some(GatewayConfig { port, tls: false });
    assert_eq!(read(r#"{"gateway":{"port":4}}"#), port(Some(4)));
    assert_eq!(read(r#"{"gateway":{"port":0}}"#), port(None));
    assert_eq!(read(r#"{"gateway":{"port":70000}}"#), port(None));
    assert_eq!(read(r#"{"gateway":[]}"#), port(None));
    assert_eq!(read("[]"), port(None));
    assert_eq!(read("{} // json5"), None);
    let tls = read(r#"{"gateway":{"tls":{"enabled":true}}}"#).unwrap();
    assert!(tls.tls);
}

#[test]
fn only_its_own_package_tells_the_version() {
    let own = package_version(br#"{"name":"openclaw","version":"2026.9.6"}"#);
    assert_eq!(own.as_deref(), Some("2026.9.6"));
    assert_eq!(package_version(br#"{"name":"other","version":"1.0.0"}"#), None);
    assert_eq!(package_version(br#"{"type":"module"}"#), None);
    let loud = package_version(br#"{"name":"openclaw","version":"2026\u001b[31m\n.9"}"#);
    assert_eq!(loud.as_deref(), Some("2026 [31m .9"));
}

proptest! {
    #[test]
    fn no_command_line_panics(words in collection::vec(
        "openclaw|gateway|run|--|--dev|--port|--port=.{0,6}|--profile(=[a-z]{0,3})?|.{0,6}", 0..9,
    )) {
        let found = Invocation::of(&words);
        let port = found.port(Contract::Current, |_| Some("x:1"), None);
        prop_assert!(port != 0);
        if let Some(prefix) = found.prefix {
            prop_assert!(prefix.len() <= words.len() + 2);
        }
    }

    #[test]
    fn garbage_never_panics(text in ".*", bytes in any::<Vec<u8>>()) {
        let _ = (text.parse::<Version>(), port_of_variable(&text), expand(&text, Some("/h")));
        let _ = (GatewayConfig::parse(&bytes), package_version(&bytes));
    }
}
