//! Just enough of an HTTP client for a gateway on loopback.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

pub fn get(port: u16, path: &str) -> io::Result<Answer> {
    ask(port, &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"))
}

pub fn post_json(port: u16, path: &str, token: &str, body: &str) -> io::Result<Answer> {
    let length = body.len();
    ask(
        port,
        &format!(
            "POST {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        ),
    )
}

/// HTTP 1.0, so that the end of the answer is the end of the connection. One that is cut before
/// its `Content-Length` is an error.
fn ask(port: u16, request: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;

    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{what}: {answer}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| bad("no head"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| bad("no status"))?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if length.is_some_and(|length| length != body.len()) {
        return Err(bad("cut short"));
    }
    Ok(Answer { status, body: body.to_owned() })
}
