//! A WebSocket with what waits to be taken by the other side: reads and writes at once.

#![allow(clippy::disallowed_methods)]

use std::{
    collections::VecDeque,
    future::poll_fn,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message, Utf8Bytes,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::session::{Close, Fault, Unsent};

/// What is read at once. The default of 128 KiB would be a connection's whole memory.
const READ_BUFFER: usize = 8 << 10;
/// How long a client has to take what is left.
const FLUSH_GRACE: Duration = Duration::from_secs(5);
/// How long it has to answer the close. A client that sleeps holds up a restart for so long.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// One side of a WebSocket.
pub(super) struct Wire<S> {
    socket: WebSocketStream<S>,
    /// What the socket has not taken yet.
    queue: VecDeque<Message>,
    /// Of what is queued.
    bytes: usize,
}

/// What came.
#[derive(Debug)]
pub(super) enum Heard {
    Text(Utf8Bytes),
    /// A ping or a pong.
    Life,
    Fault(Fault),
    /// Nothing comes any more.
    Gone,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// After the handshake. `longest` is how many bytes a message may have.
    pub(super) async fn new(stream: S, longest: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            // What is not taken shall stay in the queue, where it is counted.
            .write_buffer_size(0)
            .max_message_size(Some(longest))
            .max_frame_size(Some(longest));
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
        Self { socket, queue: VecDeque::new(), bytes: 0 }
    }

    /// How many bytes the other side has not taken.
    pub(super) fn waiting(&self) -> usize {
        self.bytes
    }

    pub(super) fn queue(&mut self, message: Message) {
        self.bytes += message.len();
        self.queue.push_back(message);
    }

    /// Writes what is queued until something comes. Cancel-safe.
    pub(super) async fn exchange(&mut self) -> Heard {
        poll_fn(|cx| {
            if let Poll::Ready(Err(_)) = self.poll_flush(cx) {
                return Poll::Ready(Heard::Gone);
            }
            self.socket.poll_next_unpin(cx).map(heard)
        })
        .await
    }

    /// Closes, and waits until the other side has.
    pub(super) async fn close(mut self, close: Close) {
        if close.unsent == Unsent::Drop {
            self.queue.clear();
        }
        let frame = CloseFrame { code: CloseCode::from(close.code), reason: close.reason.into() };
        self.queue(Message::Close(Some(frame)));
        let flushed = timeout(FLUSH_GRACE, poll_fn(|cx| self.poll_flush(cx))).await;
        if !matches!(flushed, Ok(Ok(()))) {
            return;
        }
        let end = async {
            while let Some(Ok(message)) = self.socket.next().await {
                if message.is_close() {
                    return Ok::<_, tungstenite::Error>(());
                }
            }
            // After a fault the socket reads no more. What is left unread when it is dropped
            // resets the connection, and the other side loses the close frame that lies before it.
            let stream = self.socket.get_mut();
            stream.shutdown().await?;
            let mut scratch = [0; 4096];
            while stream.read(&mut scratch).await? > 0 {}
            Ok(())
        };
        // Whatever comes of it: the connection is over.
        let _ = timeout(ANSWER_GRACE, end).await;
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), tungstenite::Error>> {
        while !self.queue.is_empty() {
            ready!(self.socket.poll_ready_unpin(cx))?;
            if let Some(message) = self.queue.pop_front() {
                self.bytes -= message.len();
                self.socket.start_send_unpin(message)?;
            }
        }
        self.socket.poll_flush_unpin(cx)
    }
}

fn heard(next: Option<Result<Message, tungstenite::Error>>) -> Heard {
    match next {
        Some(Ok(Message::Text(text))) => Heard::Text(text),
        Some(Ok(Message::Binary(_))) => Heard::Fault(Fault::Binary),
        // Of a close the socket makes its own answer; then it ends.
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_))) => {
            Heard::Life
        }
        Some(Err(tungstenite::Error::Capacity(_))) => Heard::Fault(Fault::TooLong),
        Some(Err(tungstenite::Error::Utf8(_))) => Heard::Fault(Fault::NotUtf8),
        // The client just left, as clients do.
        Some(Err(tungstenite::Error::Protocol(
            tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ))) => Heard::Gone,
        Some(Err(tungstenite::Error::Protocol(_))) => Heard::Fault(Fault::Protocol),
        Some(Err(_)) | None => Heard::Gone,
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use tokio::{io::duplex, time::Instant};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_took_the_close_and_sleeps_holds_it_up_for_a_second_and_no_longer() {
        let (ours, _theirs) = duplex(1024);
        let began = Instant::now();
        let reason = String::new();
        let close = Close { code: 1012, reason, unsent: Unsent::Flush };
        Wire::new(ours, 1024).await.close(close).await;
        assert_eq!(began.elapsed(), ANSWER_GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_has_five_seconds_to_take_what_is_left() {
        let (ours, _theirs) = duplex(16);
        let began = Instant::now();
        let reason = "longer than the pipe is wide".to_owned();
        let close = Close { code: 1012, reason, unsent: Unsent::Flush };
        Wire::new(ours, 1024).await.close(close).await;
        assert_eq!(began.elapsed(), FLUSH_GRACE);
    }
}
