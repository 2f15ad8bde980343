//! First words, and what keeps a gateway from starting.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt};

use nix::sys::signal::Signal;

use crate::gateway_rig::{GatewayRig, Running, command_line, http, within};

/// What `lockkeeper-gateway url` says.
async fn url(gateway: &Running) -> String {
    let output = within("url", gateway.rig.gateway(["url"]).output()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn the_first_command_of_the_readme_prints_where_the_page_is_and_keeps_the_token_secret() {
    let gateway = GatewayRig::new().without_config().start().await;
    let line = gateway.said.expect("chat page: ").await;
    let token = gateway.rig.token();
    let page = format!("http://{}/#token={token}", gateway.rig.address());
    assert_eq!(line, format!("chat page: {page}"));
    assert_eq!(url(&gateway).await, format!("{page}\n"));

    let (code, body) = http(gateway.rig.address(), "GET / HTTP/1.1", "").await.unwrap();
    assert_eq!(code, 200);
    assert!(body.contains("<html"), "{body}");
    let mut person = gateway.person();
    let key = person.say("hi").await;
    assert_eq!(person.until_shown(1).await, ["hi"]);
    person.expect_each_answered_once(&[key]).await;

    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(gateway.rig.state()), 0o700);
    assert_eq!(mode(gateway.rig.state().join("token")), 0o600);
    gateway.restart().await;
    gateway.started(2).await;
    assert_eq!(gateway.rig.token(), token, "the next life has the same");
    for pid in [gateway.pid(), gateway.gateway_pid().await] {
        assert!(!command_line(pid).contains(&token));
    }
    assert!(!gateway.status().await.to_string().contains(&token));
    assert!(!gateway.verb(["status", "--json"]).await.contains(&token));
    assert!(!gateway.verb(["why", "--json"]).await.contains(&token));
    assert_eq!(gateway.said.count(&token), 1, "said once, by the first life");
    assert_eq!(gateway.logged.count(&token), 0);
}

#[tokio::test]
async fn a_config_that_was_never_good_is_refused_with_78_line_and_key() {
    let mut gateway = GatewayRig::new().config("agent.concurency = 3").launch();
    assert_eq!(gateway.ended().await, 78);
    let told = gateway.logged.all().join("\n");
    assert!(told.contains("2:7: agent.concurency: `concurency` is unknown"), "{told}");
}

#[tokio::test]
async fn a_token_that_is_none_is_refused_with_78_and_its_key() {
    let mut gateway = GatewayRig::new().config("server.token = \"short\"").launch_bare();
    assert_eq!(gateway.ended().await, 78);
    let told = gateway.logged.all().join("\n");
    assert!(told.contains("server.token"), "{told}");
    assert!(!told.contains("short\""), "{told}");
}

#[tokio::test]
async fn an_agent_that_lacks_a_setting_is_refused_with_78_and_its_key() {
    let mut gateway = GatewayRig::new().config("agent.kind = \"openai\"").launch_bare();
    assert_eq!(gateway.ended().await, 78);
    gateway.logged.expect("agent.model").await;
}

#[tokio::test]
async fn a_config_that_went_wrong_since_is_told_and_the_last_good_one_is_in_force() {
    let mut gateway = GatewayRig::new().config("agent.concurrency = 3").start().await;
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.ended().await, 0);
    let rig = gateway.into_rig();
    rig.write_config("agent.concurrency = \"many\"");
    let gateway = rig.start().await;
    gateway.logged.expect("the config is not used").await;
    let status = gateway.status().await;
    assert!(status["warnings"].to_string().contains("agent.concurrency"), "{status}");
    let mut person = gateway.person();
    person.say("hi").await;
    assert_eq!(person.until_shown(1).await, ["hi"]);
    assert!(url(&gateway).await.contains(&gateway.rig.token()));
}

#[tokio::test]
async fn a_port_that_another_has_is_named_and_the_gateway_does_not_start() {
    let rig = GatewayRig::new();
    let taken = TcpListener::bind(rig.address()).unwrap();
    let address = rig.address().to_string();
    let mut gateway = rig.launch_bare();
    assert_eq!(gateway.ended().await, 1);
    let told = gateway.logged.expect(&address).await;
    assert!(told.contains("in use"), "{told}");
    drop(taken);
}

#[tokio::test]
async fn a_second_gateway_on_one_state_folder_leaves_with_69_and_names_the_first() {
    let gateway = GatewayRig::new().start_bare().await;
    let output = within("the second", gateway.rig.gateway([]).output()).await.unwrap();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains(&format!("held by process {} ", gateway.pid())), "{told}");
    assert_eq!(gateway.status().await["iteration"], 1);
}
