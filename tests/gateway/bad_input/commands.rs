//! The commands beside a running gateway, and without one.

use std::{fs, process::Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::live::Home;
use crate::http::{Callback, Does, LONG};

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn a_status_beside_the_gateway_is_what_it_says_itself_and_without_one_the_code_is_3() {
    let home = Home::new("");
    let gateway = home.start();
    gateway.still_answers().await;
    let told = json_of(&home.says(&["status", "--json"]));
    assert_eq!(told["pid"], gateway.pid());
    assert_eq!(told["journal"]["answered"], 1);
    let lines = home.says(&["status"]);
    for part in ["serving", "webhook    ready", "chat       ready", "1 answered"] {
        assert!(lines.contains(part), "{part}: {lines}");
    }
    let url = home.says(&["url"]);
    assert_eq!(url.trim(), format!("http://{}/#token={}", gateway.address, gateway.token));
    gateway.still_answers().await;
    gateway.stop();
    let after = home.run(&["status", "--json"]);
    assert_eq!(after.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&after.stderr).contains("no gateway answers"), "{after:?}");
    assert!(after.stdout.is_empty());
}

#[tokio::test]
async fn the_journal_is_listed_shown_and_purged_beside_the_gateway_and_without_one() {
    let home = Home::new("");
    let gateway = home.start();
    gateway.still_answers().await;
    gateway.settled().await;
    for beside in [true, false] {
        let listed = json_of(&home.says(&["journal", "ls", "--json"]));
        let messages = listed["messages"].as_array().unwrap();
        assert!(messages.iter().any(|message| message["id"] == "m1"), "{beside}: {listed}");
        assert_eq!(listed["replies"][0]["state"], "done", "{beside}");
        assert!(home.says(&["journal", "ls"]).contains("webhook:ci/main"), "{beside}");
        let shown = json_of(&home.says(&["journal", "show", "m1"]));
        assert_eq!(shown["channelId"], "ci/good-0", "{shown}");
        assert_eq!(json_of(&home.says(&["journal", "show", "r1"]))["answers"][0], "ci/good-0");
        // What is no dead letter is not tried again, and what is not there is not shown.
        for args in [["retry", "m1"], ["retry", "r9"], ["show", "m9"]] {
            let output = home.run(&["journal", args[0], args[1]]);
            assert_eq!(output.status.code(), Some(1), "{args:?}");
            assert!(output.stderr.starts_with(b"lockkeeper-gateway: "), "{output:?}");
        }
        for id in ["x", "m", "7", "m99999999999999999999"] {
            assert_eq!(home.run(&["journal", "show", id]).status.code(), Some(64), "{id}");
        }
        assert_eq!(home.says(&["journal", "purge"]).trim(), "0 entries are forgotten", "{beside}");
        if beside {
            gateway.still_answers().await;
            gateway.settled().await;
            gateway.signal(rustix::process::Signal::TERM);
            while home.run(&["status"]).status.success() {}
        }
    }
    drop(gateway);
    home.says(&["journal", "purge", "--older", "0s"]);
    assert_eq!(home.says(&["journal", "ls"]).trim(), "nothing");
    home.start().still_answers().await;
}

#[tokio::test]
async fn dead_letters_are_listed_by_the_status_and_sent_again_when_they_are_retried() {
    // The agent never answers this one, until it is mended; the callback refuses the first replies.
    let callback = Callback::start([Does::Answers(400)]).await;
    let home = Home::new("[placeholder]");
    let mended = home.path().join("mended");
    let agent = format!(
        "if [ -e '{}' ] || [ \"$LOCKKEEPER_PROMPT\" != hard ]; then printf %s \
         \"$LOCKKEEPER_PROMPT\"; else echo '{{\\\"type\\\":\\\"error\\\",\\\"text\\\":\\\"too hard\\\",\
         \\\"permanent\\\":true}}'; fi",
        mended.display(),
    );
    home.configure(&format!(
        "[server]\nbind = \"127.0.0.1:0\"\n[agent]\nkind = \"command\"\n\
         command = [\"sh\", \"-c\", \"{}\"]\n[hooks.ci]\nbearer = \"{}\"\ncallback = \"{}\"\n",
        agent.replace("\\\"", "\"").replace('"', "\\\""),
        super::live::BEARER,
        callback.url(),
    ));
    let gateway = home.start();
    let bearer = format!("authorization: Bearer {}\r\n", super::live::BEARER);
    let easy = json!({ "id": "easy", "text": "easy" }).to_string();
    assert_eq!(gateway.post_with("/hooks/ci", &bearer, easy.as_bytes()).await.status(), 202);
    callback.wait_for(1).await;
    let hard = json!({ "id": "hard", "text": "hard" }).to_string();
    assert_eq!(gateway.post_with("/hooks/ci", &bearer, hard.as_bytes()).await.status(), 202);
    // The notice that it could not be answered.
    callback.wait_for(2).await;

    let listed = loop {
        let status = json_of(&home.says(&["status", "--json"]));
        if status["deadLetters"].as_array().is_some_and(|letters| letters.len() == 2) {
            break status["deadLetters"].clone();
        }
    };
    let ids: Vec<_> = listed.as_array().unwrap().iter().map(|it| it["id"].clone()).collect();
    assert_eq!(ids, ["m2", "r1"], "{listed}");
    let lines = home.says(&["status"]);
    assert!(lines.contains("too hard") && lines.contains("answered 400"), "{lines}");
    assert_eq!(
        json_of(&home.says(&["journal", "ls", "--dead", "--json"]))["messages"][0]["id"],
        "m2"
    );

    fs::write(&mended, "").unwrap();
    for id in ["m2", "r1"] {
        assert!(home.says(&["journal", "retry", id]).contains("tried again"), "{id}");
    }
    gateway.stop();
    let gateway = home.start();
    callback.wait_for(4).await;
    let texts: Vec<_> = callback.got().iter().map(|got| got.json()["text"].clone()).collect();
    let again: Vec<_> = texts[2..].iter().map(Value::to_string).collect();
    assert!(again.contains(&"\"easy\"".to_owned()), "{texts:?}");
    assert!(again.contains(&"\"hard\"".to_owned()), "{texts:?}");
    loop {
        let status = gateway.status().await;
        if status["journal"]["done"] == 3 {
            assert_eq!(status["deadLetters"], json!([]));
            break;
        }
    }
}

#[test]
fn every_command_helps_with_examples_that_name_the_program() {
    let home = Home::new("");
    for command in [
        &[][..],
        &["status"],
        &["url"],
        &["journal"],
        &["journal", "ls"],
        &["journal", "show"],
        &["journal", "retry"],
        &["journal", "purge"],
        &["config"],
        &["config", "get"],
        &["config", "set"],
        &["config", "plan"],
        &["config", "validate"],
        &["config", "schema"],
    ] {
        let mut args = command.to_vec();
        args.push("--help");
        let help = home.says(&args);
        let (_, examples) = help.split_once("Example").unwrap_or_else(|| panic!("{command:?}"));
        assert!(examples.contains("lockkeeper-gateway"), "{help}");
    }
    for wrong in [&["stattus"][..], &["--no-such"], &["journal", "ls", "--limit", "x"]] {
        assert_eq!(home.run(wrong).status.code(), Some(64), "{wrong:?}");
    }
}

#[tokio::test]
async fn the_stdio_channel_has_stdout_for_itself() {
    let home = Home::new("[channels.stdio]\n");
    let mut command = tokio::process::Command::from(home.command(&[]));
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut gateway = piped.kill_on_drop(true).spawn().unwrap();
    use tokio::io::AsyncWriteExt;
    let mut stdin = gateway.stdin.take().unwrap();
    stdin.write_all(b"{\"id\":\"1\",\"text\":\"hi\"}\n").await.unwrap();
    let mut lines = BufReader::new(gateway.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let line = tokio::time::timeout(LONG, lines.next_line()).await.expect("it answers");
        let line = line.unwrap().expect("it is open");
        assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
    }
}
