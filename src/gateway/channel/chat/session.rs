//! One client's connection, as a machine: what comes in becomes answers and work.
//!
//! ```text
//!               connect, all well               the gateway leaves
//!   challenged ───────────────────▶ connected ───────────────────▶ leaving
//!       │                               │                             │
//!       │ no connect, not the first     │ a frame that no client      │ nothing is under way
//!       │ frame, not in time;           │ sends, an id twice, slow,   │ any more, or the time
//!       │ wrong token; not up           │ silent                      │ is over
//!       ▼                               ▼                             ▼
//!     closed ◀───────────────────────closed◀───────────────────────closed
//! ```
//!
//! - *challenged*: waits for `connect`, for [`Limits::connect`]. Nothing else is answered.
//! - *connected*: each request is answered once, when its work is done. Events of the sessions that
//!   the client has named are told, numbered from 1.
//! - *leaving*: what is under way is answered, waits at once; new requests are refused.
//! - *closed*: nothing is sent after the close.
//!
//! The id of a request names its work. Two requests under way with one id would make their answers
//! one: that closes the connection.
//!
//! Memory is bounded: so many requests under way, so many sessions followed; what is written and
//! not taken is the driver's to count, which tells [`Fact::Clogged`].

mod event;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

pub(super) use self::event::{Action, Close, Fact, Fault, Unsent, Work};
use super::{
    CHANNEL, Door, Limits,
    frame::{self, PROTOCOL, Request},
    params::Connect,
    payload,
};
use crate::gateway::{
    events::Event,
    message::{Conversation, Inbound},
    rpc::{Caller, ErrorCode, RpcError},
};

/// How many sessions one connection may follow.
const MOST_SESSIONS: usize = 64;
/// After so many pings without a sign of life the client is gone.
const SILENT_TICKS: u32 = 3;
/// When a client may try again that came too early, or asked for too much at once.
const RETRY: Duration = Duration::from_secs(1);
/// The longest reason that fits into a close frame.
const LONGEST_REASON: usize = 123;

/// The machine. See the module's picture.
pub(super) struct Session {
    limits: Limits,
    door: Arc<Door>,
    /// Names the connection in `hello-ok`.
    id: String,
    /// Where the client is, for people.
    from: String,
    state: State,
    /// The number of the last event.
    seq: u64,
    actions: VecDeque<Action>,
}

enum State {
    /// Until then.
    Challenged(Instant),
    Connected(Client),
    Leaving {
        client: Client,
        reason: String,
        until: Instant,
    },
    Closed,
}

struct Client {
    /// For people.
    name: String,
    /// The session of requests that name none.
    session: Arc<str>,
    /// The sessions whose events are told.
    follows: BTreeSet<Arc<str>>,
    /// The requests under way, by id.
    open: BTreeMap<String, Kind>,
    next_tick: Instant,
    /// Pings since the last sign of life. Counted, not timed: if the gateway itself stood still,
    /// the clients' answers are there, and only were not read yet.
    pings: u32,
}

/// Whether a request is answered by something that need not come soon.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Work,
    Wait,
}

impl Session {
    /// Challenges the client. `from` and `id` name the connection.
    pub(super) fn new(
        now: Instant,
        wall: SystemTime,
        limits: Limits,
        door: Arc<Door>,
        (id, from): (String, String),
    ) -> Self {
        let challenge = frame::challenge(&id, payload::millis(wall));
        Self {
            limits,
            door,
            id,
            from,
            state: State::Challenged(now + limits.connect),
            seq: 0,
            actions: VecDeque::from([Action::Send(challenge)]),
        }
    }

    /// Takes a fact in. After the close, nothing has an effect.
    pub(super) fn handle_event(&mut self, now: Instant, fact: Fact<'_>) {
        match fact {
            Fact::Received(text) => self.received(now, text),
            Fact::Heard => self.heard(),
            Fact::Faulted(fault) => {
                let (code, reason) = match fault {
                    Fault::TooLong => {
                        (1009, format!("a frame has at most {} bytes", self.limits.max_payload))
                    }
                    Fault::NotUtf8 => (1007, "a text frame must be UTF-8".to_owned()),
                    Fault::Binary => (1003, "frames must be text".to_owned()),
                    Fault::Protocol => (1002, "this is not WebSocket".to_owned()),
                };
                self.close(code, &reason);
            }
            Fact::Done { id, result } => self.done(&id, result),
            Fact::Happened(event) => self.happened(event),
            // A gap tells the client to read what it did not hear.
            Fact::Missed(count) => {
                if self.client().is_some() {
                    self.seq += count;
                }
            }
            Fact::Clogged => {
                let most = self.limits.max_buffered;
                self.close_with(Close {
                    code: 1013,
                    reason: format!("more than {most} bytes were not read: connect again"),
                    unsent: Unsent::Drop,
                });
            }
            Fact::Leaving { reason, until } => self.leave(reason, until),
        }
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant, wall: SystemTime) {
        match &mut self.state {
            State::Challenged(until) if now >= *until => {
                let reason = format!("no connect came within {:?}", self.limits.connect);
                self.close(1008, &reason);
            }
            State::Leaving { until, reason, .. } if now >= *until => {
                let reason = reason.clone();
                self.close(1012, &reason);
            }
            State::Connected(client) | State::Leaving { client, .. } if now >= client.next_tick => {
                // A task that was not run for long does not make up for what it missed.
                client.next_tick = now + self.limits.tick;
                client.pings += 1;
                if client.pings > SILENT_TICKS {
                    self.close(1008, &format!("you have not answered {SILENT_TICKS} pings"));
                } else {
                    self.tell("tick", &json!({ "ts": payload::millis(wall) }));
                    self.actions.push_back(Action::Ping);
                }
            }
            State::Challenged(_) | State::Connected(_) | State::Leaving { .. } | State::Closed => {}
        }
    }

    /// What is to be done next.
    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called; none: it is closed.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Challenged(until) => Some(*until),
            State::Connected(client) => Some(client.next_tick),
            State::Leaving { client, until, .. } => Some((*until).min(client.next_tick)),
            State::Closed => None,
        }
    }

    /// Whether the client was let in, and is not closed.
    pub(super) fn is_connected(&self) -> bool {
        self.client().is_some()
    }

    fn client(&self) -> Option<&Client> {
        match &self.state {
            State::Connected(client) | State::Leaving { client, .. } => Some(client),
            State::Challenged(_) | State::Closed => None,
        }
    }

    fn heard(&mut self) {
        match &mut self.state {
            State::Connected(client) | State::Leaving { client, .. } => client.pings = 0,
            // Pings do not prolong the time to connect.
            State::Challenged(_) | State::Closed => {}
        }
    }

    fn received(&mut self, now: Instant, text: &str) {
        self.heard();
        match &self.state {
            State::Closed => {}
            State::Challenged(_) => match frame::parse(text) {
                Ok(request) if request.method == "connect" => self.connect(now, &request),
                // To answer would tell a stranger what is understood here.
                Ok(_) | Err(_) => self.close(1008, "the first frame must be connect"),
            },
            State::Connected(client) | State::Leaving { client, .. } => match frame::parse(text) {
                Err(bad) if client.open.contains_key(&bad.id) => self.id_twice(&bad.id),
                Err(bad) => self.send(frame::refusal(&bad.id, &bad.why)),
                Ok(request) if client.open.contains_key(&request.id) => {
                    self.id_twice(&request.id);
                }
                Ok(request) => self.request(request),
            },
        }
    }

    fn id_twice(&mut self, id: &str) {
        self.close(1008, &format!("two requests under way have the id {id}"));
    }

    fn connect(&mut self, now: Instant, request: &Request) {
        let connect = match request.params.connect() {
            Ok(connect) => connect,
            Err(why) => return self.turn_away(request, &why, 1008),
        };
        if let Err((why, code)) = self.check(&connect) {
            return self.turn_away(request, &why, code);
        }
        let Some(snapshot) = (self.door.snapshot)() else {
            let why = unavailable("the gateway is not up: connect again soon");
            return self.turn_away(request, &why, 1013);
        };
        let hello = payload::hello(&self.id, &self.door.methods, &snapshot, &self.limits);
        self.state = State::Connected(Client {
            name: connect.client,
            follows: BTreeSet::from([connect.session.clone()]),
            session: connect.session,
            open: BTreeMap::new(),
            next_tick: now + self.limits.tick,
            pings: 0,
        });
        self.send(frame::answer(&request.id, &hello));
    }

    fn check(&self, connect: &Connect) -> Result<(), (RpcError, u16)> {
        // Before all else: a stranger is told nothing.
        let unauthorized = |message: &str| {
            let message = message.to_owned();
            (RpcError { code: ErrorCode::Unauthorized, message, retry_after: None }, 1008)
        };
        match &connect.token {
            None => return Err(unauthorized("`params.auth.token` is missing")),
            Some(token) if !(self.door.token_ok)(token) => {
                return Err(unauthorized(
                    "the token is wrong: use `server.token` of the config, or what the file \
                     `token` in the gateway's state folder holds",
                ));
            }
            Some(_) => {}
        }
        let (min, max) = (connect.min_protocol, connect.max_protocol);
        if !(min..=max).contains(&PROTOCOL) {
            let why = format!("version {PROTOCOL} is spoken here, and {min} to {max} by you");
            return Err((RpcError::invalid(why), 1002));
        }
        Ok(())
    }

    fn turn_away(&mut self, request: &Request, why: &RpcError, code: u16) {
        self.send(frame::refusal(&request.id, why));
        self.close(code, &why.message);
    }

    /// A request with an id of its own.
    fn request(&mut self, request: Request) {
        let id = request.id.clone();
        match self.plan(request) {
            Ok(work) => {
                let kind = if matches!(work, Work::Wait(_)) { Kind::Wait } else { Kind::Work };
                if let State::Connected(client) = &mut self.state {
                    client.open.insert(id.clone(), kind);
                }
                self.actions.push_back(Action::Do { id, work });
            }
            Err(why) => self.send(frame::refusal(&id, &why)),
        }
    }

    /// What is to be done for a request.
    fn plan(&mut self, request: Request) -> Result<Work, RpcError> {
        let State::Connected(client) = &mut self.state else {
            return Err(unavailable("the gateway leaves: connect again soon"));
        };
        if client.open.len() >= self.limits.max_requests {
            let most = self.limits.max_requests;
            return Err(unavailable(&format!("{most} requests of this connection are under way")));
        }
        let params = request.params;
        match request.method.as_str() {
            "connect" => Err(RpcError::invalid("`method`: you are connected already")),
            "chat.send" => {
                let say = params.say(&client.session, self.limits.max_message)?;
                client.follow(&say.session)?;
                Ok(Work::Accept(Inbound {
                    conversation: Conversation::new(CHANNEL, say.session),
                    id: say.key,
                    sender: client.name.clone(),
                    text: say.message,
                    context: Value::Null,
                }))
            }
            "chat.history" => {
                let history = params.history(&client.session)?;
                // Before it is read: what is said after that is told as an event.
                client.follow(&history.session)?;
                Ok(Work::History(history))
            }
            "chat.abort" => {
                let session = params.session(&client.session)?;
                let params = json!({ "sessionKey": session });
                Ok(client.call(&self.from, request.method, params))
            }
            "agent.wait" => params.wait().map(Work::Wait),
            method if self.door.methods.iter().any(|known| known == method) => {
                Ok(client.call(&self.from, request.method, params.into_value()))
            }
            method => {
                let method = super::params::shortened(method);
                Err(RpcError::invalid(format!("`method`: there is no `{method}`")))
            }
        }
    }

    fn done(&mut self, id: &str, result: Result<Value, RpcError>) {
        let (State::Connected(client) | State::Leaving { client, .. }) = &mut self.state else {
            return;
        };
        // A wait that was given up when the gateway left is answered already.
        if client.open.remove(id).is_none() {
            return;
        }
        self.send(match result {
            Ok(payload) => frame::answer(id, &payload),
            Err(why) => frame::refusal(id, &why),
        });
        self.close_if_left();
    }

    fn happened(&mut self, event: &Event) {
        let Some(client) = self.client() else { return };
        match event {
            Event::Chat { conversation, answers, said } => {
                if &*conversation.channel == CHANNEL && client.follows.contains(&conversation.peer)
                {
                    self.tell("chat", &payload::chat(&conversation.peer, answers, said));
                }
            }
            Event::Shutdown { reason, restart_expected } => {
                let expected = restart_expected.map(payload::duration_millis);
                self.tell("shutdown", &json!({ "reason": reason, "restartExpectedMs": expected }));
            }
            Event::Drain(step) => self.tell("drain", &json!({ "step": step })),
            Event::Resumed => self.tell("resumed", &json!({})),
        }
    }

    fn leave(&mut self, reason: &str, until: Instant) {
        match std::mem::replace(&mut self.state, State::Closed) {
            state @ State::Challenged(_) => {
                self.state = state;
                self.close(1012, reason);
            }
            State::Connected(mut client) => {
                let waits: Vec<_> =
                    client.open.extract_if(.., |_, kind| *kind == Kind::Wait).collect();
                self.state = State::Leaving { client, reason: reason.to_owned(), until };
                for (id, _) in waits {
                    let why = unavailable("the gateway leaves: connect again, and wait again");
                    self.send(frame::refusal(&id, &why));
                }
                self.close_if_left();
            }
            // Told twice: the first time counts.
            state @ (State::Leaving { .. } | State::Closed) => self.state = state,
        }
    }

    fn close_if_left(&mut self) {
        if let State::Leaving { client, reason, .. } = &self.state
            && client.open.is_empty()
        {
            let reason = reason.clone();
            self.close(1012, &reason);
        }
    }

    fn tell(&mut self, event: &str, payload: &Value) {
        self.seq += 1;
        self.send(frame::event(event, Some(self.seq), payload));
    }

    fn send(&mut self, frame: String) {
        self.actions.push_back(Action::Send(frame));
    }

    fn close(&mut self, code: u16, reason: &str) {
        self.close_with(closing(code, reason));
    }

    /// The first close counts.
    fn close_with(&mut self, close: Close) {
        if !matches!(self.state, State::Closed) {
            self.state = State::Closed;
            self.actions.push_back(Action::Close(close));
        }
    }
}

impl Client {
    /// From now on the events of this session are told.
    fn follow(&mut self, session: &Arc<str>) -> Result<(), RpcError> {
        if self.follows.len() >= MOST_SESSIONS && !self.follows.contains(session) {
            let why = format!("`params.sessionKey`: {MOST_SESSIONS} a connection are followed");
            return Err(RpcError::invalid(format!("{why}; open another connection")));
        }
        self.follows.insert(session.clone());
        Ok(())
    }

    fn call(&self, from: &str, method: String, params: Value) -> Work {
        let who = format!("chat client {}{from}", self.name);
        let conversation = Some(Conversation::new(CHANNEL, self.session.clone()));
        Work::Call { caller: Caller { who, conversation }, method, params }
    }
}

fn unavailable(message: &str) -> RpcError {
    let message = message.to_owned();
    RpcError { code: ErrorCode::Unavailable, message, retry_after: Some(RETRY) }
}

/// A close after all that was sent, its reason cut to what a close frame holds.
fn closing(code: u16, reason: &str) -> Close {
    let reason = reason[..reason.floor_char_boundary(LONGEST_REASON)].to_owned();
    Close { code, reason, unsent: Unsent::Flush }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to count from
mod tests;
