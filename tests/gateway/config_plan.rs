//! What differs, and what that needs.
#![allow(clippy::unwrap_used, reason = "a test may panic, in what it shares, too")]

use lockkeeper::gateway::config::{
    diff::{Difference, diff, graft},
    document::{Document, Format},
    plan::{Effect, Plan, Subsystem, effect},
    schema::{Config, ReloadMode},
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn config(toml: &str) -> Config {
    Document::parse(toml, Format::Toml).unwrap().config().unwrap()
}

fn paths(old: &str, new: &str) -> Vec<String> {
    diff(&config(old), &config(new)).into_iter().map(|found| found.path).collect()
}

fn plan(old: &str, new: &str) -> Plan {
    Plan::between(&config(old), &config(new))
}

#[test]
fn a_diff_is_a_list_of_dotted_paths() {
    let new = "agent = { model = 'm', concurrency = 2 }
        server.bind = '127.0.0.1:1'
        hooks.ci.secret = 'x'
        channels.telegram.token = 't'
        server.origins = ['https://a.example']";
    assert_eq!(
        paths("", new),
        [
            "agent.concurrency",
            "agent.model",
            "channels.telegram",
            "hooks.ci",
            "server.bind",
            "server.origins",
        ]
    );
    assert_eq!(paths(new, new), [""; 0]);
    // A list is one value; what is in both is looked into.
    assert_eq!(
        paths("hooks.a.secret = 'x'", "hooks.a.bearer = 'x'"),
        ["hooks.a.bearer", "hooks.a.secret"]
    );
}

#[test]
fn a_secret_that_differs_is_told_of_and_never_shown() {
    for (old, new) in [
        ("server.token = 's3cr3t'", "server.token = 's3cr3t2'"),
        ("server.token = 's3cr3t'", "server.token = { env = 'X' }"),
        ("server.token = { env = 'Y' }", "server.token = { env = 'X' }"),
        ("", "server.token = 's3cr3t'"),
    ] {
        let found = diff(&config(old), &config(new));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].path, "server.token");
        assert!(!format!("{found:?}").contains("s3cr3t"), "{found:?}");
        assert!(!json!(found).to_string().contains("s3cr3t"));
    }
    let hook = diff(&config("hooks.a.secret = 's3cr3t'"), &config(""));
    assert!(!format!("{hook:?}").contains("s3cr3t"), "{hook:?}");
}

#[test]
fn the_rule_with_the_longest_prefix_holds() {
    assert_eq!(effect("server.origins"), Effect::Hot(Subsystem::Origins));
    assert_eq!(effect("server.bind"), Effect::Restart);
    assert_eq!(effect("restart.delay"), Effect::None);
    assert_eq!(effect("restart.drain"), Effect::Restart);
    assert_eq!(effect("journal.ttl"), Effect::Hot(Subsystem::JournalPolicy));
    assert_eq!(effect("journal.sync"), Effect::Restart);
    assert_eq!(
        effect("channels.telegram.poll"),
        Effect::Hot(Subsystem::Channel("telegram".into()))
    );
    assert_eq!(effect("hooks.ci.secret"), Effect::Hot(Subsystem::Hooks));
    // A prefix is whole names.
    assert_eq!(effect("server.originsx"), Effect::Restart);
    assert_eq!(effect("agents"), Effect::Restart);
}

#[test]
fn a_path_without_a_rule_needs_a_restart() {
    for path in ["", "something.new", "channels", "channels.sms", "journal", "journal.new"] {
        assert_eq!(effect(path), Effect::Restart, "{path}");
    }
}

#[test]
fn a_plan_says_hot_restart_or_nothing_for_each_path() {
    let plan = plan(
        "",
        "server.bind = '127.0.0.1:1'
         restart.delay = '5s'
         agent.model = 'm'
         journal.ttl = '2h'
         channels.chat.enabled = false
         channels.stdio = {}",
    );
    assert_eq!(plan.restart, ["server.bind"]);
    assert_eq!(plan.none, ["restart.delay"]);
    assert_eq!(
        plan.hot.keys().map(ToString::to_string).collect::<Vec<_>>(),
        ["channel:chat", "channel:stdio", "agent", "journal-policy"]
    );
    assert!(plan.needs_restart() && !plan.is_whole() && !plan.is_empty());
    assert_eq!(
        plan.to_string(),
        "restart: server.bind\n\
         hot, channel:chat: channels.chat.enabled\n\
         hot, channel:stdio: channels.stdio\n\
         hot, agent: agent.model\n\
         hot, journal-policy: journal.ttl\n\
         nothing to do: restart.delay"
    );
    assert_eq!(json!(plan)["hot"]["channel:chat"], json!(["channels.chat.enabled"]));
    assert_eq!(Plan::default().to_string(), "nothing changes");
}

#[test]
fn each_mode_folds_the_plan_in_its_own_way() {
    let changed = |mode| {
        plan(
            "",
            &format!("reload.mode = '{mode}'\nserver.bind = '127.0.0.1:1'\nagent.model = 'm'\n"),
        )
    };
    let told = |mode| {
        let plan = changed(mode);
        let hot: Vec<_> = plan.hot.into_values().flatten().collect();
        [plan.restart, hot, plan.later].map(|paths| paths.join(" "))
    };
    assert_eq!(Config::default().reload.mode, ReloadMode::Hybrid);
    assert_eq!(told("hybrid"), ["server.bind", "agent.model", ""]);
    assert_eq!(told("hot"), ["", "agent.model", "server.bind"]);
    assert_eq!(told("restart"), ["agent.model server.bind", "", ""]);
    assert_eq!(told("off"), ["", "", "agent.model server.bind"]);
    // The mode itself always counts.
    assert_eq!(changed("off").none, ["reload.mode"]);
}

#[test]
fn what_is_taken_up_is_grafted_and_nothing_else() {
    let old = config("agent.model = 'a'\nserver.max_connections = 1\nhooks.x.secret = 's'");
    let new = config("agent.model = 'b'\nserver.max_connections = 2\nhooks.y.secret = 't'");
    let plan = Plan::between(&old, &new);
    let both = graft(&old, &new, plan.taken_up());
    assert_eq!(both.agent.model, "b");
    assert_eq!(both.server.max_connections, 1);
    assert_eq!(both.hooks, new.hooks);
}

/// A config made of some of these lines.
fn some_config() -> impl Strategy<Value = Config> {
    let lines = [
        "server.bind = '127.0.0.1:1'",
        "server.token = 'aaa'",
        "server.origins = ['https://a.example']",
        "journal.sync = false",
        "journal.ttl = '2h'",
        "agent.model = 'm'",
        "agent.api_key = { env = 'K' }",
        "inbound.busy = 'collect'",
        "reload.mode = 'hot'",
        "restart.delay = '1s'",
        "restart.drain = '1s'",
        "channels.chat.enabled = false",
        "channels.telegram = { token = 't', allow = [1, 2] }",
        "channels.stdio = {}",
        "channels.imessage = {}",
        "hooks.a = { secret = 's' }",
        "hooks.b = { bearer = { file = '/x' } }",
    ];
    proptest::sample::subsequence(lines.to_vec(), 0..=lines.len())
        .prop_map(|lines| config(&lines.join("\n")))
}

proptest! {
    #[test]
    fn each_difference_is_in_the_plan_exactly_once_in_every_mode(
        old in some_config(), new in some_config(),
    ) {
        let differences = diff(&old, &new);
        prop_assert_eq!(differences.is_empty(), old == new);
        for mode in [ReloadMode::Hybrid, ReloadMode::Hot, ReloadMode::Restart, ReloadMode::Off] {
            let plan = Plan::of(&differences).under(mode);
            let hot = plan.hot.values().flatten();
            let all = plan.restart.iter().chain(hot).chain(&plan.none).chain(&plan.later);
            let mut all: Vec<_> = all.cloned().collect();
            all.sort();
            let mut paths: Vec<_> = differences.iter().map(|found| found.path.clone()).collect();
            paths.sort();
            prop_assert_eq!(all, paths);
            prop_assert_eq!(plan.is_empty(), old == new);
        }
    }

    #[test]
    fn a_diff_back_has_the_same_paths_with_the_values_changed_about(
        old in some_config(), new in some_config(),
    ) {
        let back = diff(&new, &old).into_iter();
        let back: Vec<_> = back
            .map(|Difference { path, was, now }| Difference { path, was: now, now: was })
            .collect();
        prop_assert_eq!(back, diff(&old, &new));
    }

    #[test]
    fn all_paths_grafted_make_the_new_config(old in some_config(), new in some_config()) {
        let differences = diff(&old, &new);
        let paths = differences.iter().map(|found| found.path.as_str());
        prop_assert_eq!(graft(&old, &new, paths), new);
    }

    #[test]
    fn any_path_has_an_effect(path in r"[a-z.]{0,20}|(server|agent|channels)\.[a-z.]{0,10}") {
        effect(&path);
        let difference = Difference { path, was: Value::Null, now: Value::Null };
        prop_assert!(!Plan::of([&difference]).is_empty());
    }
}
