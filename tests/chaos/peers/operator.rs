//! Who asks for restarts and changes the config over the chat protocol, and wants to be told when the
//! gateway is back.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{AGAIN, chat::Socket};

/// The operator's own session.
const SESSION: &str = "operator";

/// What was asked for, and what is to be heard of it.
#[derive(Debug, Default)]
pub(crate) struct Operator {
    /// By the reason that the notice names: how many restarts were granted, and how many may have
    /// been, as the answer was lost.
    asked: BTreeMap<String, (usize, usize)>,
    /// How many restarts were begun under this name, over all.
    numbered: usize,
}

impl Operator {
    /// `gateway.restart`. What came of it, in words.
    pub(crate) async fn restart(&mut self, gateway: SocketAddr) -> String {
        self.numbered += 1;
        let reason = format!("chaos {}", self.numbered);
        let answer = call(gateway, "gateway.restart", json!({ "reason": reason })).await;
        self.note(reason, answer.as_ref(), |answer| &answer["payload"])
    }

    /// `config.patch` of a key that only a restart can change.
    pub(crate) async fn patch(&mut self, gateway: SocketAddr, seconds: u32) -> String {
        let Some(shown) = call(gateway, "config.get", json!({})).await else {
            return "nobody answers".to_owned();
        };
        let patch = json!({ "server": { "header_timeout": format!("{seconds}s") } });
        let params = json!({ "baseHash": shown["payload"]["hash"], "patch": patch });
        let answer = call(gateway, "config.patch", params).await;
        let reason = "config: server.header_timeout".to_owned();
        self.note(reason, answer.as_ref(), |answer| &answer["payload"]["restart"])
    }

    fn note(
        &mut self,
        reason: String,
        answer: Option<&Value>,
        restart: impl Fn(&Value) -> &Value,
    ) -> String {
        let (granted, perhaps) = self.asked.entry(reason).or_default();
        match answer {
            None => {
                *perhaps += 1;
                "no answer".to_owned()
            }
            Some(answer) if answer["ok"] != true => {
                // The restart may stand for all that: it was not noted that somebody waits.
                *perhaps += 1;
                format!("refused: {}", answer["error"]["message"])
            }
            Some(answer) if restart(answer).is_null() => "nothing to restart for".to_owned(),
            Some(answer) if restart(answer)["coalesced"] == true => {
                *perhaps += 1;
                "joined another".to_owned()
            }
            Some(_) => {
                *granted += 1;
                "granted".to_owned()
            }
        }
    }

    /// Everyone who was granted a restart has heard once that it is done, or that it is not. What is
    /// wrong, in words; to be asked until nothing is, as notices come after the restart.
    pub(crate) async fn heard(&self, gateway: SocketAddr) -> Result<usize, String> {
        let said = notices(gateway).await.ok_or("the notices cannot be read")?;
        let called_off =
            said.iter().filter(|text| text.starts_with("No restart after all")).count();
        let mut missing = 0;
        for (reason, (granted, perhaps)) in &self.asked {
            let wanted = format!("The gateway is back ({reason}).");
            let heard = said.iter().filter(|text| **text == wanted).count();
            if heard > granted + perhaps {
                let may = granted + perhaps;
                return Err(format!("told {heard} times, not {may}: {wanted}"));
            }
            missing += granted.saturating_sub(heard);
        }
        if missing > called_off {
            return Err(format!("{missing} notices are missing, {called_off} were called off"));
        }
        Ok(said.len())
    }
}

/// Asks once. None: no answer has come.
async fn call(gateway: SocketAddr, method: &str, params: Value) -> Option<Value> {
    let asked = async {
        let mut socket = connected(gateway).await;
        socket.ask("asked", method, params).await?;
        loop {
            let frame = socket.hear().await?;
            if frame["id"] == "asked" {
                return Some(frame);
            }
        }
    };
    timeout(Duration::from_secs(20), asked).await.ok().flatten()
}

async fn connected(gateway: SocketAddr) -> Socket {
    loop {
        if let Some(socket) = Socket::connect(gateway, SESSION).await {
            return socket;
        }
        sleep(AGAIN).await;
    }
}

/// All that the operator was ever told.
async fn notices(gateway: SocketAddr) -> Option<Vec<String>> {
    let (mut said, mut after) = (Vec::new(), 0);
    loop {
        let params = json!({ "sessionKey": SESSION, "afterReplyId": after, "limit": 1000 });
        let answer = call(gateway, "chat.history", params).await?;
        for message in answer["payload"]["messages"].as_array()? {
            after = message["replyId"].as_i64()?;
            said.push(message["text"].as_str()?.to_owned());
        }
        if answer["payload"]["hasMore"] != true {
            return Some(said);
        }
    }
}
