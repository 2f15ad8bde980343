//! The child of the process tests: it does what the Rig says, and tells the Rig what happens.
//!
//! It speaks with the Rig as `report.rs` says. Each line from the Rig is an order, and each order is
//! answered by `done ORDER: RESULT`; a signal that arrives is told as `signal NAME from=PID`. If the
//! Rig goes, so does the probe: nothing can be left over by a test that was killed.
//!
//! Orders are given over the connection, or one an argument on the command line. Those of the
//! command line that install handlers are carried out before the opening line, so that a test which
//! has seen it may send signals at once, and those that say `first`; the others follow it. `A ; B` are two orders where an
//! order takes orders:
//!
//! | order | effect |
//! | --- | --- |
//! | `handle SIG` | from now on this signal is only told |
//! | `on SIG ORDERS` | from now on this signal is told, and the orders carried out |
//! | `first ORDER` | this order; on the command line, before all else |
//! | `exit N`, `die SIG` | leave with this code; of this signal |
//! | `notify TEXT` | a datagram to `NOTIFY_SOCKET`; `\n`, `{pid}`, `{nonce}` are filled in |
//! | `notify-padded N TEXT` | the same, padded to N bytes by a last line |
//! | `notify-with-fds N TEXT` | the same, with N descriptors |
//! | `fork ROLE ORDERS` | a child process that takes these orders |
//! | `reap` | wait for the last `fork` to end |
//! | `orphan ROLE ORDERS` | the same, forked twice and in a session of its own |
//! | `exec ORDERS` | become a new program in the same process |
//! | `listen PORT` | hold this port of the loopback (0: any; the result names it) |
//! | `serve ADDRESS` | answer each HTTP request there, with 200 |
//! | `answer STATUS` | from now on with this status |
//! | `ask JSON` | a request to `LOCKKEEPER_CONTROL`; the result is the first answer |
//! | `print TEXT` | a line on standard error |
//! | `close FD` | close a descriptor, as some programs do with all that they inherit |
//! | `grow MIB` | hold so much memory |
//! | `name TEXT` | change the name of this process, as `ps` shows it; `\n` is filled in |
#![allow(clippy::disallowed_methods, reason = "a test's child does what real programs do")]

use std::{
    collections::HashMap,
    env, fs,
    io::{self, BufRead, BufReader, IoSlice, Write},
    mem::MaybeUninit,
    net::TcpListener,
    os::{
        fd::AsFd,
        unix::{
            net::{UnixDatagram, UnixStream},
            process::CommandExt,
        },
    },
    process::{self, Child, Command},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    thread,
};

use lockkeeper::protocol::{env as names, signal::Signal};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde_json::Value;
use signal_hook::{
    iterator::{Handle, SignalsInfo, exfiltrator::WithOrigin},
    low_level::siginfo::Origin,
};

mod report;

use self::report::{RIG_IS_GONE, Report, lock, surroundings};

const MAX_FDS: usize = 253;

/// What an order came to.
type Outcome = Result<String, Box<dyn std::error::Error>>;

fn main() {
    let mut role = "child".to_owned();
    let mut orders = Vec::new();
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        if let Some(name) = arg.strip_prefix("--role=") {
            role = name.to_owned();
        } else if arg == "--own-session" {
            nix::unistd::setsid().expect("a process that was just forked leads no group");
        } else if arg == "--fork-and-leave" {
            let orphan = Command::new(own_path()).arg("--own-session").args(args).spawn();
            process::exit(i32::from(orphan.is_err()));
        } else {
            orders.push(arg);
        }
    }
    // Before this program opens anything itself.
    let surroundings = surroundings();
    Probe::start(orders, &role, surroundings);
}

struct Probe {
    report: Report,
    /// Takes further signals.
    signals: Handle,
    /// Orders by the number of the signal that sets them off.
    on_signal: Mutex<HashMap<i32, String>>,
    /// What is held until the end of the process.
    listeners: Mutex<Vec<TcpListener>>,
    memory: Mutex<Vec<Vec<u8>>>,
    forked: Mutex<Option<Child>>,
    /// What is answered over HTTP.
    status: Arc<AtomicU16>,
}

impl Probe {
    fn start(orders: Vec<String>, role: &str, opening: Value) {
        let (report, mut rig) = Report::connect();
        let signals = SignalsInfo::<WithOrigin>::new([0; 0]).expect("an empty set is valid");
        let probe = Arc::new(Self {
            report,
            signals: signals.handle(),
            on_signal: Mutex::default(),
            listeners: Mutex::default(),
            memory: Mutex::default(),
            forked: Mutex::default(),
            status: Arc::new(AtomicU16::new(200)),
        });
        let (before, others): (Vec<_>, Vec<_>) = orders
            .into_iter()
            .partition(|o| ["on ", "handle ", "first "].iter().any(|verb| o.starts_with(verb)));
        for order in &before {
            probe.carry_out(order).expect("an order that comes first can be carried out");
        }
        probe.report.greet(role, opening, &mut rig);
        // Not before the opening line, or else a signal could be told ahead of it.
        let listener = Arc::clone(&probe);
        thread::spawn(move || listener.await_signals(signals));
        others.into_iter().chain(rig).for_each(|order| probe.obey(&order));
        process::exit(RIG_IS_GONE);
    }

    fn await_signals(&self, mut signals: SignalsInfo<WithOrigin>) {
        for Origin { signal, process, .. } in &mut signals {
            let name = Signal::from_number(signal).map_or("?", Signal::name);
            let sender = process.map_or_else(|| "kernel".to_owned(), |p| p.pid.to_string());
            self.tell(&format!("signal {name} from={sender}"));
            let orders = lock(&self.on_signal).get(&signal).cloned();
            orders.iter().flat_map(|o| o.split(" ; ")).for_each(|order| self.obey(order));
        }
    }

    fn obey(&self, order: &str) {
        let result = match self.carry_out(order) {
            Ok(result) => format!("done {order}: {result}"),
            Err(error) => format!("failed {order}: {error}"),
        };
        self.tell(&result);
    }

    fn carry_out(&self, order: &str) -> Outcome {
        let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
        let (first, more) = rest.split_once(' ').unwrap_or((rest, ""));
        match verb {
            "first" => self.carry_out(rest),
            "handle" => self.take(first, None),
            "on" => self.take(first, Some(more)),
            "exit" => process::exit(first.parse()?),
            "die" => die_of(first.parse()?),
            "notify" => notify(&filled(rest), 0),
            "notify-padded" => notify(&padded(&filled(more), first.parse()?), 0),
            "notify-with-fds" => notify(&filled(more), first.parse()?),
            "fork" => {
                let child = successor(first, more).spawn()?;
                let pid = child.id();
                *lock(&self.forked) = Some(child);
                Ok(pid.to_string())
            }
            "reap" => match lock(&self.forked).as_mut() {
                Some(child) => Ok(child.wait()?.to_string()),
                None => Err("nothing was forked".into()),
            },
            "orphan" => {
                let mut twice = Command::new(own_path());
                twice.arg("--fork-and-leave").args(successor(first, more).get_args());
                Ok(twice.status()?.to_string())
            }
            "exec" => Err(successor("child", rest).exec().into()),
            "listen" => {
                let listener = TcpListener::bind(("127.0.0.1", first.parse()?))?;
                let port = listener.local_addr()?.port();
                lock(&self.listeners).push(listener);
                Ok(port.to_string())
            }
            "serve" => {
                let listener = TcpListener::bind(first)?;
                let status = Arc::clone(&self.status);
                thread::spawn(move || serve(&listener, &status));
                Ok(String::new())
            }
            "answer" => {
                self.status.store(first.parse()?, Ordering::SeqCst);
                Ok(String::new())
            }
            "ask" => ask(rest),
            // By one write, or another's line could come between the text and its end.
            "print" => Ok(io::stderr()
                .write_all(format!("{rest}\n").as_bytes())
                .map(|()| String::new())?),
            "close" => Ok(nix::unistd::close(first.parse::<i32>()?).map(|()| String::new())?),
            "name" => Ok(fs::write("/proc/self/comm", filled(rest)).map(|()| String::new())?),
            "grow" => {
                lock(&self.memory).push(vec![1; first.parse::<usize>()? << 20]);
                Ok(String::new())
            }
            _ => Err("no such order".into()),
        }
    }

    fn take(&self, name: &str, orders: Option<&str>) -> Outcome {
        let number = name.parse::<Signal>()?.number();
        if let Some(orders) = orders {
            lock(&self.on_signal).insert(number, orders.to_owned());
        }
        self.signals.add_signal(number)?;
        Ok(String::new())
    }

    fn tell(&self, line: &str) {
        self.report.tell(line);
    }
}

/// This program, also when its file has been replaced meanwhile.
fn own_path() -> &'static str {
    "/proc/self/exe"
}

fn successor(role: &str, orders: &str) -> Command {
    let mut command = Command::new(own_path());
    command.arg(format!("--role={role}")).args(orders.split(" ; ").filter(|o| !o.is_empty()));
    command
}

fn die_of(signal: Signal) -> Outcome {
    let signal = nix::sys::signal::Signal::try_from(signal.number())?;
    // Twice: the standard library's handler of SIGSEGV takes the first, and then itself away.
    nix::sys::signal::raise(signal)?;
    nix::sys::signal::raise(signal)?;
    Err("this signal does not kill".into())
}

fn filled(text: &str) -> String {
    let nonce = env::var(names::NONCE).unwrap_or_default();
    text.replace("\\n", "\n")
        .replace("{pid}", &process::id().to_string())
        .replace("{nonce}", &nonce)
}

fn padded(text: &str, size: usize) -> String {
    let padding = size.saturating_sub(text.len() + "\nX_PAD=".len());
    format!("{text}\nX_PAD={}", "x".repeat(padding))
}

fn notify(text: &str, descriptors: usize) -> Outcome {
    let socket = UnixDatagram::unbound()?;
    socket.connect(env::var(names::NOTIFY_SOCKET)?)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let same = vec![socket.as_fd(); descriptors];
    if descriptors > 0 && !ancillary.push(SendAncillaryMessage::ScmRights(&same)) {
        return Err("too many descriptors for one datagram".into());
    }
    let text = [IoSlice::new(text.as_bytes())];
    let sent = rustix::net::sendmsg(&socket, &text, &mut ancillary, SendFlags::empty())?;
    Ok(sent.to_string())
}

fn serve(listener: &TcpListener, status: &AtomicU16) {
    for mut client in listener.incoming().flatten() {
        // A request without a body ends with an empty line.
        let lines = BufReader::new(&client).lines();
        lines.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
        let status = status.load(Ordering::SeqCst);
        let _ = write!(client, "HTTP/1.1 {status} Probe\r\ncontent-length: 0\r\n\r\n");
    }
}

fn ask(request: &str) -> Outcome {
    let mut control = UnixStream::connect(env::var(names::CONTROL)?)?;
    writeln!(control, "{request}")?;
    let mut answer = String::new();
    BufReader::new(control).read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}
