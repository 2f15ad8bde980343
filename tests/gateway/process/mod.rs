//! The gateway as a process: started, changed, restarted, stopped, killed.

mod bare;
mod change;
mod kill;
mod restart;
mod start;
mod stop;

use std::path::Path;

use serde_json::{Value, json};

use crate::gateway_rig::{GatewayRig, Person, lines_of, until};

/// An agent that waits for [`go`].
fn with_waiting_agent(more: &str) -> GatewayRig {
    let rig = GatewayRig::new();
    let agent = crate::gateway_rig::waiting_agent(&rig.path(""));
    rig.config(&format!("{more}\n{agent}"))
}

/// Waits until the agent has begun so many turns.
async fn begun(home: &Path, turns: usize) -> Vec<String> {
    let begun = home.join("begun");
    until("the turn begins", async || Some(lines_of(&begun)).filter(|it| it.len() >= turns)).await
}

/// All turns may end from now on.
fn go(home: &Path) {
    std::fs::write(home.join("go"), "").unwrap();
}

/// Changes the config, and gives the whole answer.
async fn patch(person: &mut Person, patch: Value) -> Value {
    let base = person.request("config.get", json!({})).await["hash"].clone();
    person.ask("config.patch", json!({ "baseHash": base, "patch": patch })).await
}

/// The incidents that `lockkeeper why` tells of.
async fn why(running: &crate::gateway_rig::Running) -> Vec<Value> {
    serde_json::from_str(&running.verb(["why", "--json"]).await).unwrap()
}
