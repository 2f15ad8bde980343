//! The gateways of `examples/` in other languages, under the real supervisor.
//!
//! A request is held in flight by its body: the gateway has its head and waits for the rest.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use lockkeeper::protocol::{control::Status, signal::Signal};

use crate::support::{Rig, Supervisor};

const PYTHON: [&str; 2] = ["python3", "examples/python/gateway.py"];
const NODE: [&str; 2] = ["node", "examples/node/gateway.mjs"];

#[test]
fn a_python_gateway_answers_what_it_has_accepted_before_it_is_restarted() {
    answers_before_it_is_restarted(PYTHON);
}

#[test]
fn a_node_gateway_answers_what_it_has_accepted_before_it_is_restarted() {
    answers_before_it_is_restarted(NODE);
}

#[test]
fn a_python_gateway_answers_what_it_has_accepted_before_it_is_stopped() {
    answers_before_it_is_stopped(PYTHON);
}

#[test]
fn a_node_gateway_answers_what_it_has_accepted_before_it_is_stopped() {
    answers_before_it_is_stopped(NODE);
}

fn answers_before_it_is_restarted(program: [&str; 2]) {
    let mut gateway = start(program);
    let first = serving(&gateway, 1);
    let request = Request::begin(&gateway, &first);

    let restart = gateway.ask(["restart", "--wait"]);
    let draining = gateway.until(|status| status.drain.is_some());
    is_waiting_for_the_request(&draining);
    assert_eq!((draining.generation, draining.pid), (1, first.pid));

    assert_eq!(request.finish(), hello_from(&first));
    let restart = restart.finish();
    assert_eq!(restart.code, 0, "{restart:?}");
    for word in ["POST /ada", "code 75", "nothing cut"] {
        assert!(restart.stdout.contains(word), "{word}: {restart:?}");
    }

    let second = serving(&gateway, 2);
    assert_ne!(second.pid, first.pid);
    let answer = Request::begin(&gateway, &second).finish();
    assert_eq!(answer, hello_from(&second));
    assert_eq!(gateway.stop(), 0);
    let incidents = gateway.why();
    assert_eq!(incidents[0]["ends"][0]["exit"]["code"], 75, "{incidents:#?}");
    assert_eq!(incidents[0]["ends"][0]["cut"], false, "{incidents:#?}");
}

fn answers_before_it_is_stopped(program: [&str; 2]) {
    let mut gateway = start(program);
    let only = serving(&gateway, 1);
    let request = Request::begin(&gateway, &only);
    gateway.signal(Signal::Term);
    is_waiting_for_the_request(&gateway.until(|status| status.drain.is_some()));
    assert_eq!(request.finish(), hello_from(&only));
    assert_eq!(gateway.wait(), 0);
}

fn start(program: [&str; 2]) -> Supervisor {
    let rig = Rig::new().config(
        "[ready]\nvia = 'notify'\n\
         [restart]\ncooldown = '0s'\nhandler = 'ready'\n\
         [stop]\ngrace = '60s'\n",
    );
    let [interpreter, path] = program;
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    rig.env("PORT", "0").env("THINK_SECONDS", "0.01").command([interpreter, &path]).start()
}

/// Waits until this generation serves.
fn serving(gateway: &Supervisor, generation: u64) -> Status {
    gateway.until(|status| {
        let is_ready = status.generation == generation && status.state == "ready";
        is_ready && says(status, "0 in flight")
    })
}

fn says(status: &Status, what: &str) -> bool {
    status.says.as_ref().is_some_and(|says| says.ends_with(what))
}

/// The answer to [`Request::finish`].
fn hello_from(gateway: &Status) -> String {
    format!("{}: hello", gateway.pid.expect("it lives"))
}

#[track_caller]
fn is_waiting_for_the_request(status: &Status) {
    let drain = status.drain.as_ref().expect("it told of its drain");
    assert_eq!(drain.phase, "finish");
    assert_eq!(drain.left, [("requests".to_owned(), 1)].into());
    assert_eq!(drain.blockers, ["POST /ada"]);
}

/// A request whose body is yet to be sent.
struct Request(TcpStream);

impl Request {
    /// Returns when the gateway has told that it has accepted it.
    fn begin(gateway: &Supervisor, to: &Status) -> Self {
        let told = to.says.as_deref().and_then(|says| says.strip_prefix("port "));
        let (port, _) = told.and_then(|told| told.split_once(',')).expect("it tells its port");
        let mut stream =
            TcpStream::connect(("127.0.0.1", port.parse().expect("a number"))).expect("it listens");
        let head = "POST /ada HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("it reads");
        gateway.until(|status| says(status, "1 in flight"));
        Self(stream)
    }

    /// Sends the body, and returns that of the answer.
    fn finish(mut self) -> String {
        self.0.write_all(b"hello").expect("it still reads");
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        assert!(head.contains(" 200 "), "{answer}");
        body.to_owned()
    }
}
