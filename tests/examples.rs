//! The gateways of `examples/` in Rust, under the real supervisor: clients are in the midst of their
//! work while it restarts them, and each request gets its one answer, or is refused aloud.
#![allow(clippy::disallowed_methods, reason = "process tests touch the world")]

mod support;

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use lockkeeper::protocol::{control::Status, signal::Signal};

use crate::support::{Process, Rig, Supervisor};

const SETTINGS: &str =
    "[ready]\nvia = 'notify'\n[restart]\ncooldown = '0s'\n[stop]\ngrace = '60s'\n";
/// The safety net under a read; no test is right because of it.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn minimal_answers_each_datagram_exactly_once_over_five_restarts() {
    let rig = Rig::new().config(SETTINGS);
    let (path, mine) = (rig.path("echo.sock"), rig.path("client.sock"));
    let mut gateway = rig.command([example("minimal"), path_text(&path)]).start();
    serving(&gateway, 1);
    let client = UnixDatagram::bind(&mine).expect("a socket");
    client.set_read_timeout(Some(LIMIT)).expect("a limit");
    thread::scope(|scope| {
        let answered = scope.spawn(|| {
            let mut numbers = Vec::new();
            while numbers.len() < 200 {
                numbers.extend(answer(&client));
            }
            numbers
        });
        for restart in 0..5 {
            let asked = gateway.ask(["restart", "--wait"]);
            for number in restart * 40..(restart + 1) * 40 {
                send(&client, &path, number);
                // So that they are spread over all that a restart is made of.
                gateway.cli(["status"]);
            }
            let asked = asked.finish();
            assert_eq!(asked.code, 0, "{asked:?}");
            assert!(asked.stdout.contains("nothing cut"), "{asked:?}");
            serving(&gateway, restart + 2);
        }
        let mut numbers = answered.join().expect("it reads");
        numbers.sort_unstable();
        assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    });
    assert_eq!(gateway.stop(), 0);
    client.set_nonblocking(true).expect("a socket");
    let more = client.recv(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(more, Err(ErrorKind::WouldBlock), "it was answered twice");
    assert_eq!(fs::read_to_string(path.with_extension("sock.spool")).expect("a spool"), "[]");
}

#[test]
fn minimal_answers_what_the_generation_before_had_left_in_its_spool() {
    let rig = Rig::new().config(SETTINGS);
    let (path, mine) = (rig.path("echo.sock"), rig.path("client.sock"));
    let client = UnixDatagram::bind(&mine).expect("a socket");
    client.set_read_timeout(Some(LIMIT)).expect("a limit");
    let spooled = serde_json::json!([[&mine, "7"], [&mine, "8"]]);
    fs::write(path.with_extension("sock.spool"), spooled.to_string()).expect("a spool");
    let mut gateway = rig.command([example("minimal"), path_text(&path)]).start();
    assert_eq!(answer(&client), [7, 8]);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn tcp_echo_ends_idle_sessions_at_once_and_answers_what_it_has_read() {
    let address = free_address();
    let mut gateway = start("tcp_echo", &address);
    let first = serving(&gateway, 1);
    let mut idle = Session::new(&address);
    idle.write("hello\n");
    assert_eq!(idle.line(), Some(format!("{}: hello", pid(&first))));
    // In one segment: when the first is answered, all three have been read.
    let mut busy = Session::new(&address);
    busy.write("quick\nslow 1500 tea\nlast\n");
    assert_eq!(busy.line(), Some(format!("{}: quick", pid(&first))));

    let restart = gateway.ask(["restart", "--wait"]);
    assert_eq!(idle.line(), None, "the end of an idle session");
    let draining = gateway.until(|status| status.drain.is_some());
    assert_eq!(draining.pid, first.pid);
    until_refused(&address);
    assert_eq!(busy.line(), Some(format!("{}: tea", pid(&first))));
    assert_eq!(busy.line(), Some(format!("{}: last", pid(&first))));
    assert_eq!(busy.line(), None);

    let restart = restart.finish();
    assert_eq!(restart.code, 0, "{restart:?}");
    assert!(restart.stdout.contains("nothing cut"), "{restart:?}");
    let second = serving(&gateway, 2);
    assert_ne!(second.pid, first.pid);
    let mut session = Session::new(&address);
    session.write("hello\n");
    assert_eq!(session.line(), Some(format!("{}: hello", pid(&second))));
    assert_eq!(gateway.stop(), 0);
    assert_eq!(session.line(), None);
}

#[test]
fn tcp_echo_answers_every_line_once_or_refuses_it_aloud_over_three_restarts() {
    let address = free_address();
    over_three_restarts("tcp_echo", &address, |name, go_on| {
        let mut session = None;
        for number in 0.. {
            let line = format!("{name} {number}");
            let answer = loop {
                let open = session.take().or_else(|| Session::try_new(&address));
                let answer = open.and_then(|mut open| Some((open.ask(&line)?, open)));
                if let Some((answer, open)) = answer {
                    session = Some(open);
                    break answer;
                }
                // Its session has ended, or nobody listens: it is asked again.
                thread::yield_now();
            };
            let (_, said) = answer.split_once(": ").expect("PID and text");
            assert_eq!(said, line);
            if !go_on() {
                return;
            }
        }
    });
}

#[test]
fn axum_service_finishes_what_it_has_admitted_and_refuses_the_rest_with_503() {
    let address = free_address();
    let mut gateway = start("axum_service", &address);
    let first = serving(&gateway, 1);
    assert_eq!(get(&address, "/readyz").expect("it listens").status, 200);
    let request = Upload::begin(&address);

    let restart = gateway.ask(["restart", "--wait"]);
    let draining =
        gateway.until(|status| status.drain.as_ref().is_some_and(|drain| drain.phase == "finish"));
    assert_eq!(draining.drain.expect("it drains").blockers, ["request /echo"]);
    let refused = get(&address, "/").expect("it still listens");
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: 2"), "{refused:?}");
    assert_eq!(refused.body, "the gateway is draining; try again when it is back\n");
    assert_eq!(get(&address, "/healthz").expect("it still listens").status, 200);
    let readiness = get(&address, "/readyz").expect("it still listens");
    assert_eq!((readiness.status, readiness.body.as_str()), (503, "draining: finish\n"));

    let answer = request.finish();
    assert_eq!((answer.status, answer.body), (200, format!("{}: hello", pid(&first))));
    let restart = restart.finish();
    assert_eq!(restart.code, 0, "{restart:?}");
    assert!(restart.stdout.contains("nothing cut"), "{restart:?}");
    let second = serving(&gateway, 2);
    assert_ne!(second.pid, first.pid);
    assert_eq!(get(&address, "/").expect("it listens").body, format!("{}\n", pid(&second)));
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn axum_service_leaves_as_soon_as_its_last_request_is_answered() {
    let address = free_address();
    let mut gateway = start("axum_service", &address);
    serving(&gateway, 1);
    let answer = thread::scope(|scope| {
        // Its end is all that happens in the drain: nothing else makes it look again.
        let request = scope.spawn(|| {
            // Where it comes too late even to be refused, it is the successor's.
            std::iter::repeat_with(|| get(&address, "/slow/1000")).flatten().next()
        });
        let restart = gateway.ask(["restart", "--wait"]).finish();
        assert!(restart.stdout.contains("nothing cut"), "{restart:?}");
        request.join().expect("it asks").expect("it goes on until it is answered")
    });
    assert!([200, 503].contains(&answer.status), "{answer:?}");
    serving(&gateway, 2);
    assert_eq!(gateway.stop(), 0);
}

#[test]
fn axum_service_answers_every_request_once_or_refuses_it_aloud_over_three_restarts() {
    let address = free_address();
    over_three_restarts("axum_service", &address, |_, go_on| {
        while go_on() {
            // None: refused by the kernel, or closed before a byte of an answer.
            if let Some(answer) = get(&address, "/slow/5") {
                match answer.status {
                    200 => assert!(answer.body.ends_with(": at last\n"), "{answer:?}"),
                    503 => assert!(answer.head.contains("retry-after: "), "{answer:?}"),
                    _ => panic!("{answer:?}"),
                }
            }
        }
    });
}

#[test]
fn in_process_builds_itself_anew_with_the_same_pid_and_does_what_waits_in_its_lane_first() {
    let rig = Rig::new().config(SETTINGS).env("LOCKKEEPER_NO_RESPAWN", "1");
    let path = rig.path("work.sock");
    let mut gateway = rig.command([example("in_process"), path_text(&path)]).start();
    let first = serving(&gateway, 1);
    assert_eq!(work(&path, "one"), format!("{}, iteration 1, line 1: one\n", pid(&first)));
    for iteration in 2..5 {
        // More than one is at work at a time: the others wait in the lane, or for the next life.
        let answers = thread::scope(|scope| {
            let path = &path;
            let clients: Vec<_> =
                (0..20).map(|n| scope.spawn(move || work(path, &format!("line {n}")))).collect();
            let restart = gateway.ask(["restart", "--wait"]).finish();
            assert_eq!(restart.code, 0, "{restart:?}");
            clients.into_iter().map(|client| client.join().expect("it asks")).collect::<Vec<_>>()
        });
        for (n, answer) in answers.iter().enumerate() {
            assert!(answer.ends_with(&format!(": line {n}\n")), "{answer}");
            assert!(answer.starts_with(&format!("{}, iteration ", pid(&first))), "{answer}");
        }
        gateway.expect_log("nothing of the old life is left");
        let now = work(&path, "again");
        assert!(now.contains(&format!(", iteration {iteration}, line ")), "{now}");
    }
    let last = gateway.status();
    assert_eq!((last.generation, last.pid), (1, first.pid));
    assert_eq!(gateway.stop(), 0);
    assert!(!path.exists());
}

#[test]
fn in_process_restarts_by_itself_where_nobody_is_above_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("work.sock");
    let mut bare = Bare::start(&example("in_process"), &path, "LOCKKEEPER_NO_RESPAWN");
    let said = work(&path, "one");
    assert_eq!(said, format!("{}, iteration 1, line 1: one\n", bare.child.id()));
    bare.process.signal(Signal::Usr1);
    bare.until("nothing of the old life is left");
    let said = work(&path, "two");
    assert_eq!(said, format!("{}, iteration 2, line 1: two\n", bare.child.id()));
    bare.process.signal(Signal::Term);
    bare.process.gone();
    assert_eq!(bare.child.wait().expect("it is our child").code(), Some(0));
}

#[test]
fn each_gateway_stops_with_0_where_nobody_is_above_it() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["minimal", "tcp_echo", "axum_service", "in_process"] {
        let argument = match name {
            "tcp_echo" | "axum_service" => free_address().into(),
            _ => folder.path().join(name),
        };
        let mut bare = Bare::start(&example(name), &argument, "NOTHING");
        bare.process.signal(Signal::Term);
        bare.process.gone();
        assert_eq!(bare.child.wait().expect("it is our child").code(), Some(0), "{name}");
    }
}

/// The path of an example that was built beside this test.
#[track_caller]
fn example(name: &str) -> String {
    let test = env::current_exe().expect("a test has a path");
    let folder = test.ancestors().nth(2).expect("target/debug/deps/TEST").join("examples");
    let path = folder.join(name);
    assert!(path.exists(), "there is no {}: cargo build --example {name}", path.display());
    path_text(&path)
}

fn path_text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// An address of this test's own, which is free until its gateway binds it, again and again.
fn free_address() -> String {
    let [high, low] = u16::try_from(std::process::id() & 0xffff).expect("16 bits").to_be_bytes();
    let listener = TcpListener::bind((format!("127.77.{high}.{low}"), 0)).expect("loopback");
    listener.local_addr().expect("it is bound").to_string()
}

fn start(name: &str, address: &str) -> Supervisor {
    Rig::new().config(SETTINGS).command([example(name), address.to_owned()]).start()
}

/// Waits until this generation serves.
fn serving(gateway: &Supervisor, generation: u64) -> Status {
    gateway.until(|status| status.generation == generation && status.state == "ready")
}

fn pid(status: &Status) -> u32 {
    status.pid.expect("it lives")
}

/// Four clients at work while the gateway is restarted thrice. Each gets its name, and what tells
/// whether it is to go on.
fn over_three_restarts(
    name: &str,
    address: &str,
    client: impl Fn(usize, &dyn Fn() -> bool) + Sync,
) {
    let mut gateway = start(name, address);
    let mut pids = BTreeSet::from([serving(&gateway, 1).pid]);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for name in 0..4 {
            let (client, is_over) = (&client, &is_over);
            scope.spawn(move || client(name, &|| !is_over.load(Ordering::Relaxed)));
        }
        // Also where an assertion fails: the clients have an end.
        let _over = Finally(|| is_over.store(true, Ordering::Relaxed));
        for generation in 2..5 {
            let restart = gateway.ask(["restart", "--wait"]).finish();
            assert_eq!(restart.code, 0, "{restart:?}");
            assert!(restart.stdout.contains("nothing cut"), "{restart:?}");
            pids.insert(serving(&gateway, generation).pid);
        }
    });
    assert_eq!(pids.len(), 4, "a fresh process each");
    assert_eq!(gateway.stop(), 0);
}

struct Finally<F: Fn()>(F);

impl<F: Fn()> Drop for Finally<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Sends until the kernel takes it.
fn send(client: &UnixDatagram, to: &Path, number: u64) {
    let text = number.to_string();
    while let Err(error) = client.send_to(text.as_bytes(), to) {
        let refusals = [ErrorKind::NotFound, ErrorKind::ConnectionRefused, ErrorKind::BrokenPipe];
        assert!(refusals.contains(&error.kind()), "{error}");
        thread::yield_now();
    }
}

/// The numbers of the next answer.
fn answer(client: &UnixDatagram) -> Vec<u64> {
    let mut text = [0; 4096];
    let length = client.recv(&mut text).expect("it answers");
    let text = String::from_utf8_lossy(&text[..length]);
    text.split(' ').map(|number| number.parse().expect("a number")).collect()
}

/// A session of `tcp_echo`.
struct Session(BufReader<TcpStream>);

impl Session {
    fn try_new(address: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        Some(Self(BufReader::new(stream)))
    }

    fn new(address: &str) -> Self {
        Self::try_new(address).expect("it listens")
    }

    fn write(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("it is open");
    }

    /// None: the session has ended.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.strip_suffix('\n').expect("a whole line").to_owned()),
            Err(error) => ended(&error),
        }
    }

    /// The answer to a line; none: the session has ended without one.
    fn ask(&mut self, line: &str) -> Option<String> {
        match self.0.get_mut().write_all(format!("{line}\n").as_bytes()) {
            Ok(()) => self.line(),
            Err(error) => ended(&error),
        }
    }
}

/// A connection that the other side has closed ends so, if something was on its way there.
fn ended<T>(error: &io::Error) -> Option<T> {
    let ends = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
    assert!(ends.contains(&error.kind()), "{error}");
    None
}

fn until_refused(address: &str) {
    while TcpStream::connect(address).is_ok() {
        thread::yield_now();
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// The answer that comes until the end of the connection; none: it was closed without one.
fn read_answer(mut stream: TcpStream) -> Option<Answer> {
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Ok(0) => return None,
        Ok(_) => {}
        Err(error) => return ended(&error),
    }
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// None: nobody listens, or the connection was closed without an answer.
fn get(address: &str, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    match stream.write_all(head.as_bytes()) {
        Ok(()) => read_answer(stream),
        Err(error) => ended(&error),
    }
}

/// A request to `/echo` whose body is yet to be sent.
struct Upload(TcpStream);

impl Upload {
    /// Returns when the service waits for the body: it has admitted the request.
    fn begin(address: &str) -> Self {
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let head = "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                    content-length: 5\r\nexpect: 100-continue\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("it reads");
        let mut go_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
        stream.read_exact(&mut go_on).expect("it wants the body");
        assert!(go_on.starts_with(b"HTTP/1.1 100"));
        Self(stream)
    }

    fn finish(mut self) -> Answer {
        self.0.write_all(b"hello").expect("it still reads");
        read_answer(self.0).expect("it answers")
    }
}

/// Has a line done by `in_process`. One that was refused is given again.
fn work(path: &Path, line: &str) -> String {
    loop {
        let mut stream = UnixStream::connect(path).expect("it listens in every life");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit");
        let mut answer = String::new();
        let done = stream.write_all(format!("{line}\n").as_bytes());
        match done.and_then(|()| stream.read_to_string(&mut answer)) {
            Ok(_) if answer.is_empty() || answer.starts_with("refused: ") => {}
            Ok(_) => return answer,
            Err(error) => assert_eq!(ended::<()>(&error), None),
        }
    }
}

/// A gateway with nobody above it.
struct Bare {
    child: Child,
    process: Process,
    log: BufReader<std::process::ChildStderr>,
}

impl Bare {
    /// Returns when it is ready.
    fn start(program: &str, argument: &Path, no_respawn: &str) -> Self {
        let mut child = Command::new(program)
            .arg(argument)
            .env_clear()
            .env(no_respawn, "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it can be started");
        let log = BufReader::new(child.stderr.take().expect("it was asked for"));
        let process = Process::of(child.id());
        let mut bare = Self { child, process, log };
        bare.until("ready");
        bare
    }

    /// Reads its log to the line that contains this.
    fn until(&mut self, pattern: &str) {
        let mut line = String::new();
        while !line.contains(pattern) {
            line.clear();
            let read = self.log.read_line(&mut line).expect("a log");
            assert_ne!(read, 0, "it has ended before it said `{pattern}`");
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.process.signal(Signal::Kill);
        let _ = self.child.wait();
    }
}
