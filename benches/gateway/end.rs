//! End to end with the echo agent: from a message to its answer, which has been on the disk twice.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};

use crate::{
    chat::Chat,
    client::{Client, read_message},
    disk::Disk,
    figures::Samples,
    gateway::{self, Gateway, Settings},
    runtime,
};

const CLIENTS: [usize; 2] = [1, 16];
const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_secs(1);

pub(crate) fn run() {
    runtime().block_on(compare());
}

async fn compare() {
    let answers = Answers::listen().await;
    let folder = gateway::folder();
    let mut disk = Disk::new(folder.path());
    let gateway =
        Gateway::start(&Settings { callback: Some(answers.address), ..Settings::default() }).await;
    println!("\n## End to end, `echo` agent, {ROUNDS} rounds of {} s each\n", TIME.as_secs());
    println!("| clients | from, to | answers/s | p50 | p99 |");
    println!("| ---: | --- | ---: | ---: | ---: |");
    for clients in CLIENTS {
        let [mut hook, mut chat, mut syncs] = [(); 3].map(|()| Samples::default());
        for round in 0..=ROUNDS {
            let mut all = [Samples::default(), Samples::default(), disk.sync(100)];
            let mut tasks = JoinSet::new();
            for number in 0..clients {
                let name = format!("{clients}-{round}-{number}");
                tasks.spawn(posting(gateway.address, name, answers.clone()));
            }
            while let Some(one) = tasks.join_next().await {
                all[0].extend(one.expect("no client panics"));
            }
            let mut tasks = JoinSet::new();
            for number in 0..clients {
                let name = format!("{clients}-{round}-{number}");
                tasks.spawn(saying(gateway.address, gateway.token(), name));
            }
            while let Some(one) = tasks.join_next().await {
                all[1].extend(one.expect("no client panics"));
            }
            if round > 0 {
                let [one, two, three] = all;
                hook.extend(one);
                chat.extend(two);
                syncs.extend(three);
            }
        }
        let rows =
            [("webhook POST, answer at its callback", hook), ("chat.send, final event", chat)];
        for (name, samples) in rows {
            let rate = samples.len() as f64 / (ROUNDS as f64 * TIME.as_secs_f64());
            let (median, p99) = (samples.median(), samples.p99());
            println!("| {clients} | {name} | {rate:.0} | {median} | {p99} |");
        }
        let (median, p99) = (syncs.median(), syncs.p99());
        println!("| {clients} | one fdatasync of 4 KiB | | {median} | {p99} |");
    }
}

async fn posting(address: SocketAddr, name: String, answers: Answers) -> Samples {
    let mut client = Client::connect(address).await.expect("it listens");
    let (begun, mut samples) = (Instant::now(), Samples::default());
    for number in 0_u64.. {
        let id = format!("{name}-{number}");
        let answered = answers.expect(&id);
        let sent = Instant::now();
        let status = client.post(&name, &id).await.expect("an answer");
        assert_eq!(status, 202, "{}", client.told());
        let answered = answered.await.expect("it comes");
        samples.push(answered - sent);
        if begun.elapsed() >= TIME {
            break;
        }
    }
    samples
}

async fn saying(address: SocketAddr, token: String, name: String) -> Samples {
    let mut chat = Chat::connect(address, &token, &name).await.expect("it lets us in");
    let (begun, mut samples) = (Instant::now(), Samples::default());
    for number in 0_u64.. {
        let sent = Instant::now();
        chat.say(&format!("{name}-{number}")).await.expect("an answer");
        samples.push(sent.elapsed());
        if begun.elapsed() >= TIME {
            break;
        }
    }
    samples
}

/// A server to which answers are posted.
#[derive(Clone)]
struct Answers {
    address: SocketAddr,
    awaited: Arc<Mutex<HashMap<String, oneshot::Sender<Instant>>>>,
}

impl Answers {
    async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let it = Self { address, awaited: Arc::default() };
        let server = it.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(server.clone().serve(stream));
            }
        });
        it
    }

    /// Resolves when the answer to this message is here.
    fn expect(&self, id: &str) -> oneshot::Receiver<Instant> {
        let (tell, told) = oneshot::channel();
        self.awaited.lock().expect("nobody panics with it").insert(id.to_owned(), tell);
        told
    }

    async fn serve(self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut message = Vec::new();
        while let Ok(body) = read_message(&mut stream, &mut message).await {
            let answered = Instant::now();
            let body: serde_json::Value =
                serde_json::from_slice(&message[body..]).expect("an answer is JSON");
            for id in body["answers"].as_array().into_iter().flatten() {
                let id = id.as_str().expect("an id is a text");
                let awaited = self.awaited.lock().expect("nobody panics with it").remove(id);
                let _ = awaited.map(|tell| tell.send(answered));
            }
            if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
                return;
            }
        }
    }
}
