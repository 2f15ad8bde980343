//! What the docs say to type, typed; and the client of the docs, with a restart in its midst.

use std::{fs, process::Command};

use serde_json::Value;
use tokio::process::Command as AsyncCommand;

use super::live::{BEARER, Home, SECRET};
use crate::http::LONG;

const HTTP: &str = include_str!("../../../docs/gateway-http.md");
const PROTOCOL: &str = include_str!("../../../docs/protocol.md");

/// The blocks of a doc after a heading, each with its language.
fn blocks(doc: &'static str, heading: &str) -> Vec<(&'static str, &'static str)> {
    let (_, section) = doc.split_once(heading).expect("the heading is there");
    let fenced = section.split("```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').expect("it has a language")).collect()
}

/// Values that differ from one gateway to the next.
fn told_anew(value: &mut Value) {
    for key in ["pid", "uptimeMs", "version"] {
        if let Some(told) = value.get_mut(key) {
            *told = Value::Null;
        }
    }
}

#[tokio::test]
async fn each_curl_line_of_the_docs_gets_the_answer_that_stands_below_it() {
    let home = Home::new("");
    let gateway = home.start();
    let mut told = Vec::new();
    let mut checked = 0;
    for (language, text) in blocks(HTTP, "## By curl") {
        match language {
            "sh" if text.contains("curl") => {
                let output = Command::new("sh")
                    .args(["-euc", text])
                    .env("GATEWAY", format!("http://{}", gateway.address))
                    .env("TOKEN", &gateway.token)
                    .env("CI_BEARER", BEARER)
                    .env("CI_SECRET", SECRET)
                    .output()
                    .expect("there is a shell");
                let errors = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{text}: {errors}");
                told = output.stdout;
                gateway.settled().await;
            }
            "json" => {
                let parse = |text: &[u8]| {
                    let values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
                    let mut values = values.collect::<Result<Vec<_>, _>>().expect("it is JSON");
                    values.iter_mut().for_each(told_anew);
                    values
                };
                assert_eq!(parse(&told), parse(text.as_bytes()), "{text}");
                checked += 1;
            }
            "text" => {
                assert_eq!(String::from_utf8_lossy(&told), text);
                checked += 1;
            }
            _ => {}
        }
    }
    assert_eq!(checked, 5);
    gateway.still_answers().await;
}

#[tokio::test]
async fn the_python_client_of_the_docs_gets_its_answer_through_a_kill_and_a_new_process() {
    // The agent does not answer until there is somebody to hear it.
    let home = Home::new("");
    let (begun, go) = (home.path().join("begun"), home.path().join("go"));
    let config = |bind: &str| {
        format!(
            "[server]\nbind = \"{bind}\"\n[agent]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", \
             \": > '{}'; while ! [ -e '{}' ]; do sleep 0.1; done; \
             echo \\\"$LOCKKEEPER_PROMPT, too\\\"\"]\n",
            begun.display(),
            go.display()
        )
    };
    home.configure(&config("127.0.0.1:0"));
    let gateway = home.start();
    let (_, rest) = PROTOCOL.split_once("```python\n").expect("there is an example");
    let (program, _) = rest.split_once("```").expect("it ends");
    let client = AsyncCommand::new("/usr/bin/python3")
        .args(["-c", program, "hello"])
        .env("GATEWAY_URL", format!("ws://{}/ws", gateway.address))
        .env("GATEWAY_TOKEN", &gateway.token)
        .kill_on_drop(true)
        .output();
    let client = tokio::spawn(client);
    // Until the agent is at work: a process that is just being forked holds the gateway's lock.
    while gateway.status().await["journal"]["accepted"] != 1 || !begun.exists() {
        assert!(!client.is_finished(), "{:?}", client.await);
    }
    home.configure(&config(&gateway.address.to_string()));
    gateway.kill();
    fs::write(&go, "").unwrap();

    let gateway = home.start();
    let output = tokio::time::timeout(LONG, client).await.expect("it ends").unwrap();
    let output = output.expect("python3 can be started");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "it needs python3-websockets: {told}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello, too\n", "{told}");
    let status = gateway.status().await;
    assert_eq!(
        (&status["journal"]["answered"], &status["journal"]["done"]),
        (&1.into(), &1.into())
    );
}
