//! A client as cheap as can be: one socket, kept alive, one request at a time.

use std::{
    io::{Error, ErrorKind, Result},
    net::SocketAddr,
    str,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// What every hook's config and every request of ours has.
pub(crate) const BEARER: &str = "a-token-of-benches-0123456789abcdef";

/// A connection to a server.
pub(crate) struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: Vec::new(), response: Vec::new() })
    }

    /// Posts a message to the hook; gives the status.
    pub(crate) async fn post(&mut self, conversation: &str, id: &str) -> Result<u16> {
        let body = format!(
            "{{\"id\":\"{id}\",\"conversation\":\"{conversation}\",\"sender\":\"bench\",\
             \"text\":\"a message of about as many bytes as one that a person sends\"}}"
        );
        self.request.clear();
        self.request.extend_from_slice(
            format!(
                "POST /hooks/bench HTTP/1.1\r\nhost: localhost\r\n\
                 authorization: Bearer {BEARER}\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        self.exchange().await
    }

    /// Asks for a page; gives the status.
    pub(crate) async fn ask(&mut self, path: &str) -> Result<u16> {
        self.request.clear();
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        self.request.extend_from_slice(head.as_bytes());
        self.exchange().await
    }

    /// What came with the last answer, its head included.
    pub(crate) fn told(&self) -> &str {
        str::from_utf8(&self.response).unwrap_or_default()
    }

    async fn exchange(&mut self) -> Result<u16> {
        self.stream.write_all(&self.request).await?;
        read_message(&mut self.stream, &mut self.response).await?;
        let status = self.response.get(9..12).and_then(|it| str::from_utf8(it).ok()?.parse().ok());
        status.ok_or_else(|| Error::from(ErrorKind::InvalidData))
    }
}

/// Reads one request or response with a `content-length`, to its end. Gives where its body begins.
pub(crate) async fn read_message(stream: &mut TcpStream, into: &mut Vec<u8>) -> Result<usize> {
    into.clear();
    let mut whole = None;
    loop {
        if stream.read_buf(into).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if whole.is_none() {
            whole = length(into);
        }
        if let Some((head, _)) = whole.filter(|(head, body)| into.len() >= head + body) {
            return Ok(head);
        }
    }
}

/// Of head and body, once the head is there.
fn length(message: &[u8]) -> Option<(usize, usize)> {
    let head = message.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let lines = str::from_utf8(&message[..head]).ok()?.lines();
    let body = lines.filter_map(|line| line.split_once(": ")).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
    });
    Some((head, body.unwrap_or(0)))
}
