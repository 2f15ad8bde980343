//! Asks a foreign child over its port whether it is ready.
//!
//! A port that answers proves nothing by itself: the old child, or anybody, may hold it. So the
//! listener must belong to the child's tree, where the system tells whose it is.
#![allow(clippy::disallowed_methods)]

use std::{fs, io, net::SocketAddr, time::Duration};

use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::{sleep, timeout},
};

use self::http::{Framing, MAX_BODY, field_of, parse_body, parse_head};
use super::tree;
use crate::config::probe::{Field, Host, Probe};

mod http;

/// One attempt takes no longer.
pub const ATTEMPT: Duration = Duration::from_secs(5);
/// The pause after the first attempt; it doubles up to [`LONGEST_PAUSE`].
pub const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause between two attempts.
pub const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A host as the resolver takes it: an IPv6 address without brackets.
fn name_of(host: &Host) -> String {
    match host {
        Host::V4(address) => address.to_string(),
        Host::V6(address) => address.to_string(),
        Host::Name(name) => name.clone(),
    }
}

/// Why the child is not ready yet.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NotReady {
    /// The name could not be resolved, or nobody listens.
    #[error("{address}: no connection")]
    NoConnection {
        /// Host and port.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody else listens.
    #[error("{0} is answered by a process that is not the child's")]
    Stranger(SocketAddr),
    /// The connection broke before the answer was whole.
    #[error("the answer broke off")]
    BrokeOff(#[source] io::Error),
    /// The answer is not HTTP.
    #[error("the answer is not HTTP")]
    NotHttp(#[source] httparse::Error),
    /// The answer is larger than a probe reads.
    #[error("the answer is larger than {MAX_BODY} bytes")]
    TooLarge,
    /// Another status.
    #[error("status {found} instead of {wanted}")]
    Status {
        /// The status of the answer.
        found: u16,
        /// The expected one.
        wanted: u16,
    },
    /// The field has another value, or is missing.
    #[error("field `{name}` is {found:?} instead of {wanted:?}")]
    Field {
        /// Its name.
        name: String,
        /// Its value in the answer.
        found: Option<String>,
        /// The expected value.
        wanted: String,
    },
    /// No whole answer in time.
    #[error("no answer within {} s", ATTEMPT.as_secs())]
    TimedOut,
}

impl NotReady {
    /// Whether it says something of us and nothing of the child: we have no descriptor, port or
    /// memory to ask with. Nor can it be told then whose a listener is.
    pub fn is_ours(&self) -> bool {
        use rustix::io::Errno;
        const OURS: [Errno; 5] =
            [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::ADDRNOTAVAIL];
        match self {
            Self::NoConnection { source, .. } | Self::BrokeOff(source) => {
                Errno::from_io_error(source).is_some_and(|errno| OURS.contains(&errno))
            }
            Self::Stranger(_) => fs::File::open("/dev/null").is_err(),
            Self::NotHttp(_)
            | Self::TooLarge
            | Self::Status { .. }
            | Self::Field { .. }
            | Self::TimedOut => false,
        }
    }
}

/// Asks once, for at most [`ATTEMPT`]. `members` are the pids of the child's tree at the moment of
/// asking; they are compared with the listener's owner when `target` is on this machine.
///
/// # Errors
///
/// Why it is not ready; an ordinary answer.
pub async fn check(target: &Probe, members: impl Fn() -> Vec<u32>) -> Result<(), NotReady> {
    timeout(ATTEMPT, attempt(target, members)).await.unwrap_or(Err(NotReady::TimedOut))
}

/// Asks until the child is ready: at first every `first_pause` ([`FIRST_PAUSE`]), then ever less
/// often. `on_failure` is told why it is not, each time. To be cancelled when the child ends or its
/// time is up.
pub async fn until_ready(
    target: &Probe,
    members: impl Fn() -> Vec<u32>,
    first_pause: Duration,
    mut on_failure: impl FnMut(NotReady),
) {
    let mut pause = first_pause;
    while let Err(reason) = check(target, &members).await {
        on_failure(reason);
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Asks until the child is not ready any more. To be cancelled when its time is up.
pub async fn until_gone(target: &Probe, members: impl Fn() -> Vec<u32>) {
    while check(target, &members).await.is_ok() {
        sleep(FIRST_PAUSE).await;
    }
}

async fn attempt(target: &Probe, members: impl Fn() -> Vec<u32>) -> Result<(), NotReady> {
    let (Probe::Tcp(authority) | Probe::Http { authority, .. }) = target;
    let no_connection = |source| NotReady::NoConnection { address: authority.to_string(), source };
    let host = name_of(&authority.host);
    let addresses = lookup_host((host.as_str(), authority.port)).await.map_err(no_connection)?;
    let mut last = no_connection(io::ErrorKind::NotFound.into());
    // `localhost` is two addresses, of which the child may have only one.
    for address in addresses {
        let connected = TcpStream::connect(address).await;
        let result = match connected {
            Ok(stream) if is_strangers(&stream, &members) => Err(NotReady::Stranger(address)),
            Ok(stream) => ask(target, stream).await,
            Err(error) => Err(no_connection(error)),
        };
        match result {
            Ok(()) => return Ok(()),
            Err(reason) => last = reason,
        }
    }
    Err(last)
}

/// Whether the other end is on this machine, and known not to be one of `members`.
fn is_strangers(stream: &TcpStream, members: impl Fn() -> Vec<u32>) -> bool {
    let (Ok(here), Ok(there)) = (stream.local_addr(), stream.peer_addr()) else {
        // Reset already; asking will say so.
        return false;
    };
    if here == there {
        // Nobody listens, and our own port happened to be the one that we asked.
        return true;
    }
    let is_local = there.ip().to_canonical().is_loopback() || there.ip() == here.ip();
    tree::IS_KNOWN && is_local && !tree::owns_listener(there, &members())
}

async fn ask(target: &Probe, mut stream: TcpStream) -> Result<(), NotReady> {
    let Probe::Http { authority, path, status: wanted, field } = target else {
        return Ok(());
    };
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: lockkeeper\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(NotReady::BrokeOff)?;
    let mut received = Vec::new();
    let head = loop {
        if let Some(head) = parse_head(&received)? {
            break head;
        }
        if read_more(&mut stream, &mut received).await? == 0 {
            return Err(NotReady::BrokeOff(io::ErrorKind::UnexpectedEof.into()));
        }
    };
    if head.status != *wanted {
        return Err(NotReady::Status { found: head.status, wanted: *wanted });
    }
    let Field::Equals { name, value: wanted } = field else {
        return Ok(());
    };
    let mut received = received.split_off(head.length);
    let body = loop {
        if let Some(body) = parse_body(&received, head.framing)? {
            break body;
        }
        if read_more(&mut stream, &mut received).await? == 0 {
            match head.framing {
                Framing::UntilClose => break received,
                _ => return Err(NotReady::BrokeOff(io::ErrorKind::UnexpectedEof.into())),
            }
        }
    };
    match field_of(&body, name) {
        Some(found) if found == *wanted => Ok(()),
        found => Err(NotReady::Field { name: name.clone(), found, wanted: wanted.clone() }),
    }
}

async fn read_more(stream: &mut TcpStream, received: &mut Vec<u8>) -> Result<usize, NotReady> {
    stream.read_buf(received).await.map_err(NotReady::BrokeOff)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, Ipv6Addr},
        process,
    };

    use tokio::{net::TcpListener, task::JoinHandle};

    use super::{http::MAX_HEAD, *};
    use crate::config::probe::Authority;

    /// Answers every connection with the next of `answers`, and then with the last for ever.
    async fn answering(answers: Vec<Vec<u8>>) -> (u16, JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            for n in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut asked).await.unwrap() == 0 {
                        break;
                    }
                }
                let _ = stream.write_all(&answers[n.min(answers.len() - 1)]).await;
            }
        });
        (port, serving)
    }

    fn at(host: Host, port: u16) -> Authority {
        Authority { host, port }
    }

    fn http(port: u16, field: Option<(&str, &str)>) -> Probe {
        Probe::Http {
            authority: at(Host::V4(Ipv4Addr::LOCALHOST), port),
            path: "/health".into(),
            status: 200,
            field: field.map_or(Field::Any, |(name, value)| Field::Equals {
                name: name.into(),
                value: value.into(),
            }),
        }
    }

    fn ourselves() -> Vec<u32> {
        vec![process::id()]
    }

    async fn answer(answer: &str, field: Option<(&str, &str)>) -> Result<(), NotReady> {
        let (port, serving) = answering(vec![answer.into()]).await;
        let result = check(&http(port, field), ourselves).await;
        serving.abort();
        result
    }

    #[tokio::test]
    async fn a_port_is_ready_when_the_child_listens() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in [Host::V4(Ipv4Addr::LOCALHOST), Host::Name("localhost".into())] {
            let target = Probe::Tcp(at(host, port));
            assert!(check(&target, ourselves).await.is_ok(), "{target}");
        }
        let target = Probe::Tcp(at(Host::V4(Ipv4Addr::LOCALHOST), port));
        if tree::IS_KNOWN {
            let strange = check(&target, || vec![1]).await;
            assert!(matches!(strange, Err(NotReady::Stranger(_))), "{strange:?}");
        }
        drop(listener);
        let nobody = check(&target, ourselves).await;
        assert!(matches!(nobody, Err(NotReady::NoConnection { .. })), "{nobody:?}");
    }

    #[tokio::test]
    async fn an_answer_is_compared_by_status() {
        assert!(answer("HTTP/1.1 200 OK\r\n\r\n", None).await.is_ok());
        assert!(answer("HTTP/1.0 200\r\nContent-Length: 9999999\r\n\r\n", None).await.is_ok());
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        assert!(answer(hints, None).await.is_ok());
        let busy = answer("HTTP/1.1 503 Busy\r\n\r\n", None).await;
        assert!(matches!(busy, Err(NotReady::Status { found: 503, wanted: 200 })), "{busy:?}");
    }

    #[tokio::test]
    async fn a_field_is_compared_by_its_text() {
        let body = r#"{"ok":true,"state":"live","n":3,"deep":{"ok":true},"none":null}"#;
        let length = body.len();
        let (first, second) = body.split_at(20);
        for answered in [
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}and more"),
            format!("HTTP/1.1 200 OK\r\n\r\n{body}"),
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                 14\r\n{first}\r\n{:x};ext\r\n{second}\r\n0\r\n\r\n",
                second.len()
            ),
        ] {
            for (name, wanted, is_ready) in [
                ("ok", "true", true),
                ("state", "live", true),
                ("n", "3", true),
                ("state", "dead", false),
                ("none", "null", false),
                ("deep", "{\"ok\":true}", false),
                ("missing", "", false),
            ] {
                let result = answer(&answered, Some((name, wanted))).await;
                assert_eq!(result.is_ok(), is_ready, "{name}: {result:?}");
            }
        }
    }

    #[tokio::test]
    async fn garbage_and_halves_are_not_ready() {
        let field = Some(("ok", "true"));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let not_http = answer("SSH-2.0-OpenSSH_9.6\r\n", None).await;
        assert!(matches!(not_http, Err(NotReady::NotHttp(_))), "{not_http:?}");
        let not_chunks = answer(&format!("{chunked}xyz\r\n"), field).await;
        assert!(matches!(not_chunks, Err(NotReady::NotHttp(_))), "{not_chunks:?}");
        for half in ["", "HTTP/1.1 200 OK\r\nA: b", &format!("{chunked}5\r\nabc")] {
            let broken = answer(half, field).await;
            assert!(matches!(broken, Err(NotReady::BrokeOff(_))), "{broken:?}");
        }
        let endless = "HTTP/1.1 200 OK\r\nA: ".to_owned() + &"b".repeat(MAX_HEAD);
        let huge = format!("HTTP/1.1 200 OK\r\n\r\n{}", "b".repeat(2 * MAX_BODY));
        let told = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX);
        let chunk = format!("{chunked}{:x}\r\n", u64::MAX);
        for large in [endless, huge, told, chunk] {
            let large = answer(&large, field).await;
            assert!(matches!(large, Err(NotReady::TooLarge)), "{large:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_answers_is_not_waited_for() {
        // Accepted by the kernel, and by nobody else.
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let result = check(&http(silent.local_addr().unwrap().port(), None), ourselves).await;
        assert!(matches!(result, Err(NotReady::TimedOut)), "{result:?}");
    }

    #[tokio::test]
    async fn it_asks_until_the_child_is_ready_and_tells_why_it_was_not() {
        let starting = b"HTTP/1.1 503 Starting\r\n\r\n".to_vec();
        let ready = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        let (port, _serving) = answering(vec![starting.clone(), starting, ready]).await;
        let mut told = Vec::new();
        let target = http(port, None);
        until_ready(&target, ourselves, Duration::from_millis(1), |why| told.push(why)).await;
        assert_eq!(told.len(), 2);
        assert_eq!(told[0].to_string(), "status 503 instead of 200");
    }

    #[test]
    fn the_resolver_takes_an_address_without_brackets() {
        assert_eq!(name_of(&Host::V6(Ipv6Addr::LOCALHOST)), "::1");
        assert_eq!(name_of(&Host::Name("localhost".into())), "localhost");
    }
}
