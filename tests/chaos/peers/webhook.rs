//! Programs that post messages.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{Client, StatusCode};
use serde_json::json;
use tokio::time::sleep;

use super::AGAIN;
use crate::ledger::{Ledger, Peer};

/// What the hook knows its clients by.
pub(crate) const BEARER: &str = "a-bearer-for-the-chaos-ledger";

/// Posts the messages of one conversation, each until it is accepted.
pub(crate) async fn produce(ledger: Arc<Ledger>, peer: Peer, gateway: SocketAddr) {
    let client = Client::builder().timeout(Duration::from_secs(5)).build().expect("a client");
    let url = format!("http://{gateway}/hooks/chaos");
    loop {
        let (number, text) = ledger.next(peer).await;
        let id = format!("c{}-{number}", peer.1);
        let body = json!({ "id": id, "conversation": format!("c{}", peer.1), "text": text });
        loop {
            let posted = client.post(&url).bearer_auth(BEARER).json(&body).send().await;
            match posted.map(|response| response.status()) {
                Ok(status) if status.is_success() => break ledger.accepted(peer, number),
                Ok(StatusCode::SERVICE_UNAVAILABLE) => ledger.count("refused: webhook"),
                Ok(status) => {
                    ledger.violate(format!("webhook: {id} was answered {status}"));
                    break;
                }
                Err(_) => ledger.count("unanswered: webhook"),
            }
            sleep(AGAIN).await;
        }
    }
}
