//! Messages.app, as `tests/support/imsg.py` has it: a file of rows, to which people and the gateway
//! append.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::ledger::{Channel, Ledger, Peer};

/// How often it is looked for new rows.
const LOOK: Duration = Duration::from_millis(20);

/// Writes the messages of one chat. The database keeps them until the gateway has them.
pub(crate) async fn produce(ledger: Arc<Ledger>, peer: Peer, folder: PathBuf) {
    let open = OpenOptions::new().create(true).append(true).open(folder.join("rows"));
    let mut rows = open.expect("the rows");
    loop {
        let (number, text) = ledger.next(peer).await;
        let row = json!({
            "chat_id": peer.1 + 1,
            "chat_identifier": format!("+49{}", peer.1),
            "guid": format!("c{}-{number}", peer.1),
            "sender": format!("+49{}", peer.1),
            "is_from_me": false,
            "text": text,
        });
        // In one piece: others append, too.
        rows.write_all(format!("{row}\n").as_bytes()).expect("a row");
        ledger.accepted(peer, number);
    }
}

/// Reads what the gateway has sent.
pub(crate) async fn read(ledger: Arc<Ledger>, folder: PathBuf) {
    let path = folder.join("rows");
    OpenOptions::new().create(true).append(true).open(&path).expect("the rows");
    let mut rows = BufReader::new(File::open(&path).expect("the rows"));
    let (mut line, mut number) = (String::new(), 0);
    loop {
        if rows.read_line(&mut line).expect("text") == 0 || !line.ends_with('\n') {
            sleep(LOOK).await;
            continue;
        }
        number += 1;
        let row: Value = serde_json::from_str(&line).expect("a row");
        line.clear();
        if row["is_from_me"] == true {
            let text = row["text"].as_str().unwrap_or_default();
            ledger.answered(Channel::Imessage, &format!("row {number}"), text);
        }
    }
}

/// Tells `imsg.py` to misbehave, once.
pub(crate) fn order(folder: &Path, order: &str) {
    File::create(folder.join("do").join(order)).expect("an order");
}

/// What the gateway is to start.
pub(crate) fn command(folder: &Path) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/imsg.py");
    json!(["/usr/bin/python3", script, folder])
}
