//! A language model whose thoughts take as long as a test says.
//!
//! It speaks as much of OpenAI's streamed chat completions as OpenClaw's `openai-completions`
//! adapter asks for: one `POST …/chat/completions`, answered by server-sent events.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use crate::limit;

/// What it says before it thinks, and after.
pub const ANSWER: [&str; 2] = ["before the thought, ", "and after it"];

/// The server. It lives as long as the test's process.
#[derive(Debug)]
pub struct Model {
    port: u16,
    calls: Arc<AtomicUsize>,
    called: Receiver<()>,
}

impl Model {
    /// Listens on loopback.
    pub fn thinking_for(time: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port on loopback");
        let port = listener.local_addr().expect("it is bound").port();
        let calls = Arc::new(AtomicUsize::new(0));
        let (caller, called) = mpsc::channel();
        let count = Arc::clone(&calls);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (count, caller) = (Arc::clone(&count), caller.clone());
                thread::spawn(move || answer(stream, time, &count, &caller));
            }
        });
        Self { port, calls, called }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How often it was asked.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Waits until it thinks.
    #[track_caller]
    pub fn called(&self) {
        let left = limit::left(limit::deadline());
        self.called.recv_timeout(left).expect("awaited a call of the model");
    }
}

/// An error means that the gateway hung up, which it is free to do.
fn answer(
    mut stream: TcpStream,
    time: Duration,
    calls: &AtomicUsize,
    caller: &Sender<()>,
) -> io::Result<()> {
    read_request(&stream)?;
    calls.fetch_add(1, Ordering::SeqCst);
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
    )?;
    say(&mut stream, &serde_json::json!({ "role": "assistant", "content": ANSWER[0] }), None)?;
    // The test may be over.
    let _ = caller.send(());
    // The thought itself: this is the work that a restart must not cut, not a wait for anything.
    thread::sleep(time);
    say(&mut stream, &serde_json::json!({ "content": ANSWER[1] }), None)?;
    say(&mut stream, &serde_json::json!({}), Some("stop"))?;
    stream.write_all(b"data: [DONE]\n\n")
}

fn read_request(stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    io::copy(&mut reader.take(length), &mut io::sink()).map(drop)
}

fn say(stream: &mut TcpStream, delta: &serde_json::Value, finish: Option<&str>) -> io::Result<()> {
    let chunk = serde_json::json!({
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "slow",
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }],
    });
    write!(stream, "data: {chunk}\n\n")
}
