//! From an accepted message to its delivered answer, by the real journal and drain.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use lockkeeper::{
    drain::{Drain, DrainOptions, plan::Leaving},
    gateway::{
        agent::{Agent, AgentError, Answer, Exchange, Turn},
        channel::{Channel, ChannelError, ChannelLife, Custody, Delivery, roster::Roster},
        config::schema::{Busy, Config, UnknownReply},
        events::Events,
        journal::{
            Journal,
            sqlite::{Sqlite, SqliteOptions},
            storage::{DeadLetterId, MessageState, ReplyState, StoredReply},
        },
        message::{Accepted, Conversation, Inbound, Intake, MessageId, NotAccepted, Outgoing},
        router::{Parts, Router},
        server::metrics::Metrics,
    },
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(30);

/// A router with all that it needs, in one process life.
struct Life {
    drain: Drain,
    journal: Journal,
    router: Router,
    roster: Roster,
    intake: Intake,
    peer: Arc<Peer>,
    mind: Arc<Mind>,
}

/// The other side of a channel.
#[derive(Debug)]
struct Peer {
    sent: watch::Sender<Vec<String>>,
    outcomes: Mutex<VecDeque<Delivery>>,
    found: Mutex<Custody>,
    is_idempotent: bool,
    is_up: bool,
}

/// An agent that says what it was told, unless it is told otherwise.
#[derive(Debug)]
struct Mind {
    outcomes: Mutex<VecDeque<Result<Answer, AgentError>>>,
    /// While true a turn waits.
    held: watch::Sender<bool>,
    /// Prompts of turns that began.
    begun: watch::Sender<Vec<String>>,
    takes_steer: bool,
    steered: Notify,
}

impl Peer {
    fn new() -> Self {
        Self {
            sent: watch::Sender::default(),
            outcomes: Mutex::default(),
            found: Mutex::new(Custody::Unknown),
            is_idempotent: false,
            is_up: true,
        }
    }

    async fn until_sent(&self, count: usize) -> Vec<String> {
        let mut sent = self.sent.subscribe();
        let sent = timeout(LIMIT, sent.wait_for(|sent| sent.len() >= count)).await;
        sent.expect("replies arrive").unwrap().clone()
    }
}

impl Mind {
    fn new() -> Self {
        Self {
            outcomes: Mutex::default(),
            held: watch::Sender::new(false),
            begun: watch::Sender::default(),
            takes_steer: false,
            steered: Notify::new(),
        }
    }

    async fn until_begun(&self, count: usize) -> Vec<String> {
        let mut begun = self.begun.subscribe();
        let begun = timeout(LIMIT, begun.wait_for(|begun| begun.len() >= count)).await;
        begun.expect("turns begin").unwrap().clone()
    }
}

impl Channel for Peer {
    fn name(&self) -> &str {
        "peer"
    }

    fn run(&self, life: ChannelLife) -> BoxFuture<'_, Result<(), ChannelError>> {
        life.ready.send_replace(self.is_up);
        Box::pin(async move {
            life.stop.cancelled().await;
            Ok(())
        })
    }

    fn send<'a>(&'a self, reply: &'a Outgoing) -> BoxFuture<'a, Delivery> {
        let outcome = self.outcomes.lock().unwrap().pop_front();
        let outcome = outcome.unwrap_or(Delivery::Sent(None));
        if matches!(outcome, Delivery::Sent(_) | Delivery::Unknown(_)) {
            self.sent.send_modify(|sent| sent.push(reply.text.clone()));
        }
        Box::pin(async { outcome })
    }

    fn is_idempotent(&self) -> bool {
        self.is_idempotent
    }

    fn look_up<'a>(&'a self, _: &'a Outgoing) -> BoxFuture<'a, Custody> {
        let found = *self.found.lock().unwrap();
        Box::pin(async move { found })
    }
}

impl Agent for Mind {
    fn turn(&self, mut turn: Turn) -> BoxFuture<'_, Result<Answer, AgentError>> {
        Box::pin(async move {
            self.begun.send_modify(|begun| begun.push(turn.prompt.clone()));
            let mut said = turn.prompt.clone();
            if self.takes_steer
                && let Some(steered) = turn.steer.recv().await
            {
                said = format!("{said}, {}", steered.take());
                self.steered.notify_one();
            }
            let mut held = self.held.subscribe();
            tokio::select! {
                _ = held.wait_for(|is_held| !is_held) => {}
                () = turn.abort.cancelled() => return Err(AgentError::Aborted),
            }
            let outcome = self.outcomes.lock().unwrap().pop_front();
            outcome.unwrap_or_else(|| Ok(Answer { replies: vec![said] }))
        })
    }

    fn compact(&self, exchanges: Vec<Exchange>) -> BoxFuture<'_, Result<String, AgentError>> {
        Box::pin(async move { Ok(format!("{} exchanges", exchanges.len())) })
    }
}

impl Life {
    fn new(folder: &TempDir, config: Config) -> Self {
        Self::with(folder.path(), config, Peer::new(), Mind::new())
    }

    fn with(folder: &Path, config: Config, peer: Peer, mind: Mind) -> Self {
        let (peer, mind) = (Arc::new(peer), Arc::new(mind));
        let storage = Sqlite::open(&folder.join("journal.db"), SqliteOptions { sync: false });
        let journal = Journal::start(storage.unwrap().storage);
        let options = DrainOptions { reply_attempts: u32::MAX, ..DrainOptions::default() };
        let drain = Drain::new(options);
        let router = Router::new(Parts {
            drain: drain.clone(),
            journal: journal.clone(),
            events: Events::default(),
            metrics: Metrics::new(),
            config: Arc::new(config),
            agent: mind.clone(),
        });
        let intake = Intake::new(router.intake());
        let roster = Roster::new(intake.clone());
        router.deliver_by(roster.clone());
        roster.add(peer.clone());
        Self { drain, journal, router, roster, intake, peer, mind }
    }

    async fn say(&self, conversation: &str, id: &str, text: &str) -> MessageId {
        match self.intake.accept(inbound(conversation, id, text)).await {
            Ok(Accepted::New(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    async fn state(&self, id: MessageId) -> MessageState {
        self.journal.message_of(id).await.unwrap().unwrap().state
    }

    /// Until no reply is on its way.
    async fn settled(&self) {
        let idle = timeout(LIMIT, self.router.idle("peer"));
        idle.await.expect("it is idle at last");
    }

    /// As if the process had been killed: nothing is drained, nothing is closed.
    async fn crash(self) {
        let Self { drain, journal, router, roster, intake, .. } = self;
        drop((router, intake, drain));
        roster.stop_all(std::time::Instant::now()).await;
        journal.close().await;
    }
}

fn inbound(conversation: &str, id: &str, text: &str) -> Inbound {
    Inbound {
        conversation: Conversation::new("peer", conversation),
        id: id.to_owned(),
        sender: "Ada".to_owned(),
        text: text.to_owned(),
        context: Value::Null,
    }
}

fn busy(busy: Busy) -> Config {
    let mut config = Config::default();
    config.inbound.busy = busy;
    config
}

#[tokio::test]
async fn a_message_is_in_the_journal_before_it_is_acknowledged_and_answered_once() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, Config::default());
    let id = life.say("ada", "1", "hello").await;
    assert!(life.journal.message_of(id).await.unwrap().is_some());
    assert_eq!(life.peer.until_sent(1).await, ["hello"]);
    let again = life.intake.accept(inbound("ada", "1", "hello")).await;
    assert_eq!(again, Ok(Accepted::Again(id)));
    life.settled().await;
    assert_eq!(life.peer.until_sent(1).await, ["hello"]);
    assert_eq!(life.state(id).await, MessageState::Answered);
    let figures = life.journal.figures().await.unwrap();
    assert_eq!((figures.done, figures.pending, figures.accepted), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_keep_the_order_of_their_conversation_also_when_sends_fail() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, Config::default());
    let not_sent =
        || Delivery::NotSent { after: Some(Duration::from_millis(20)), why: "later".to_owned() };
    life.peer.outcomes.lock().unwrap().extend((0..2).map(|_| not_sent()));
    let mut said = Vec::new();
    for number in 0..40 {
        let text = number.to_string();
        life.say("ada", &text, &text).await;
        said.push(text);
    }
    assert_eq!(life.peer.until_sent(40).await, said);
}

#[tokio::test]
async fn what_no_gateway_would_take_is_refused_with_a_word_on_what_is_wrong() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, Config::default());
    for (message, word) in [
        (inbound("ada", "1", "   "), "text"),
        (inbound("ada", "", "hi"), "id"),
        (inbound("ada", "1", &"x".repeat(300 << 10)), "text"),
        (inbound(&"x".repeat(600), "1", "hi"), "conversation"),
    ] {
        let refused = life.intake.accept(message).await;
        let Err(NotAccepted::Invalid(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains(word), "{why}");
    }
    assert_eq!(life.journal.figures().await.unwrap().accepted, 0);
}

#[tokio::test]
async fn more_than_may_wait_of_a_conversation_is_refused_before_it_is_accepted() {
    let folder = TempDir::new().unwrap();
    let mut config = Config::default();
    config.inbound.queue = 3;
    let life = Life::new(&folder, config);
    life.mind.held.send_replace(true);
    for number in 0..4 {
        life.say("ada", &number.to_string(), "wait").await;
    }
    let refused = life.intake.accept(inbound("ada", "4", "too many")).await;
    assert!(matches!(refused, Err(NotAccepted::Unavailable(_))), "{refused:?}");
    life.say("bob", "5", "another conversation").await;
    life.mind.held.send_replace(false);
    assert_eq!(life.peer.until_sent(5).await.len(), 5);
}

#[tokio::test]
async fn messages_of_a_crashed_life_are_answered_by_the_next_in_order_and_before_new_ones() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, Config::default());
    life.mind.held.send_replace(true);
    for number in 0..6 {
        life.say("ada", &number.to_string(), &number.to_string()).await;
    }
    life.mind.until_begun(1).await;
    life.crash().await;

    let life = Life::new(&folder, Config::default());
    let recovered = life.router.recover().await.unwrap();
    assert_eq!(recovered.messages, 6);
    life.say("ada", "6", "6").await;
    assert_eq!(life.peer.until_sent(7).await, ["0", "1", "2", "3", "4", "5", "6"]);
    life.settled().await;
    assert_eq!(life.peer.sent.borrow().len(), 7);
}

#[tokio::test]
async fn messages_wait_for_their_channel_after_a_start() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, Config::default());
    life.mind.held.send_replace(true);
    life.say("ada", "1", "hello").await;
    life.mind.until_begun(1).await;
    life.crash().await;

    let down = Peer { is_up: false, ..Peer::new() };
    let life = Life::with(folder.path(), Config::default(), down, Mind::new());
    life.router.recover().await.unwrap();
    assert_eq!(life.router.live(), 1);
    assert!(life.mind.begun.borrow().is_empty());
    life.roster.add(Arc::new(Peer::new()));
    life.mind.until_begun(1).await;
}

#[tokio::test]
async fn a_message_older_than_the_ttl_is_a_dead_letter_with_one_notice() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, Config::default());
    life.mind.held.send_replace(true);
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(life.say("ada", &number.to_string(), "old").await);
    }
    life.mind.until_begun(1).await;
    life.crash().await;

    let mut config = Config::default();
    config.journal.ttl = Duration::from_nanos(1).into();
    let life = Life::new(&folder, config);
    life.router.recover().await.unwrap();
    let mut figures = life.journal.figures().await.unwrap();
    while figures.dead_messages < 3 {
        tokio::task::yield_now().await;
        figures = life.journal.figures().await.unwrap();
    }
    let (_, replies) = life.journal.latest(10).await.unwrap();
    assert_eq!(replies.len(), 1, "one notice, not one a message");
    assert!(replies[0].answers.is_empty());
    for id in ids {
        assert_eq!(life.state(id).await, MessageState::Dead);
    }
    assert!(life.mind.begun.borrow().is_empty());
}

#[tokio::test]
async fn a_dead_letter_that_is_retried_is_answered() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, Config::default());
    let hopeless = Err(AgentError::Permanent("too long".to_owned()));
    life.mind.outcomes.lock().unwrap().push_back(hopeless);
    let id = life.say("ada", "1", "hello").await;
    let told = life.peer.until_sent(1).await;
    assert!(told[0].contains("too long"), "{told:?}");
    life.settled().await;
    assert_eq!(life.state(id).await, MessageState::Dead);
    assert!(life.journal.retry(DeadLetterId::Message(id)).await.unwrap());
    life.router.recover().await.unwrap();
    assert_eq!(life.peer.until_sent(2).await[1], "hello");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_fails_is_asked_again_and_at_last_the_message_is_a_dead_letter() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, Config::default());
    let failure = || Err(AgentError::Failed("busy".to_owned()));
    life.mind.outcomes.lock().unwrap().extend((0..2).map(|_| failure()));
    life.say("ada", "1", "hello").await;
    // Without a limit: a paused clock jumps to it while the journal's thread is at work.
    let mut sent = life.peer.sent.subscribe();
    assert_eq!(*sent.wait_for(|sent| sent.len() == 1).await.unwrap(), ["hello"]);
    assert_eq!(life.mind.begun.borrow().len(), 3);

    life.mind.outcomes.lock().unwrap().extend((0..6).map(|_| failure()));
    let id = life.say("ada", "2", "again").await;
    let told = sent.wait_for(|sent| sent.len() == 2).await.unwrap()[1].clone();
    assert!(told.contains("could not be answered: busy"), "{told:?}");
    life.router.idle("peer").await;
    assert_eq!(life.state(id).await, MessageState::Dead);
}

#[tokio::test]
async fn a_message_that_comes_during_a_turn_is_steered_into_it_if_the_agent_takes_it() {
    let folder = TempDir::new().unwrap();
    let mind = Mind { takes_steer: true, ..Mind::new() };
    let life = Life::with(folder.path(), busy(Busy::Steer), Peer::new(), mind);
    let one = life.say("ada", "1", "in English").await;
    life.mind.until_begun(1).await;
    let two = life.say("ada", "2", "no, in French").await;
    assert_eq!(life.peer.until_sent(1).await, ["in English, no, in French"]);
    life.settled().await;
    for id in [one, two] {
        assert_eq!(life.state(id).await, MessageState::Answered);
    }
    assert_eq!(life.peer.sent.borrow().len(), 1);
}

#[tokio::test]
async fn a_steered_message_that_the_agent_does_not_take_has_a_turn_of_its_own() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, busy(Busy::Steer));
    life.mind.held.send_replace(true);
    life.say("ada", "1", "one").await;
    life.mind.until_begun(1).await;
    life.say("ada", "2", "two").await;
    life.mind.held.send_replace(false);
    assert_eq!(life.peer.until_sent(2).await, ["one", "two"]);
}

#[tokio::test]
async fn a_message_that_interrupts_ends_the_turn_under_way_and_takes_its_place() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, busy(Busy::Interrupt));
    life.mind.held.send_replace(true);
    let one = life.say("ada", "1", "one").await;
    life.mind.until_begun(1).await;
    let two = life.say("ada", "2", "two").await;
    life.mind.until_begun(2).await;
    life.mind.held.send_replace(false);
    assert_eq!(life.peer.until_sent(1).await, ["two"]);
    life.settled().await;
    for id in [one, two] {
        assert_eq!(life.state(id).await, MessageState::Answered);
    }
}

#[tokio::test]
async fn messages_that_come_during_a_turn_become_one_prompt_where_they_are_collected() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, busy(Busy::Collect));
    life.mind.held.send_replace(true);
    life.say("ada", "1", "one").await;
    life.mind.until_begun(1).await;
    life.say("ada", "2", "two").await;
    life.say("ada", "3", "three").await;
    life.mind.held.send_replace(false);
    assert_eq!(life.peer.until_sent(2).await, ["one", "two\nthree"]);
}

#[tokio::test]
async fn a_turn_that_is_asked_to_stop_leaves_no_message_behind() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, Config::default());
    life.mind.held.send_replace(true);
    let id = life.say("ada", "1", "hello").await;
    life.mind.until_begun(1).await;
    assert!(life.router.abort(&Conversation::new("peer", "ada")));
    life.settled().await;
    assert_eq!(life.state(id).await, MessageState::Answered);
    assert!(life.peer.sent.borrow().is_empty());
}

#[tokio::test]
async fn a_reply_of_which_nobody_knows_is_sent_again_or_not_by_setting() {
    for (unknown, sent, dead) in [(UnknownReply::Resend, 2, 0), (UnknownReply::Drop, 1, 1)] {
        let folder = TempDir::new().unwrap();
        let mut config = Config::default();
        config.journal.unknown = unknown;
        let life = Life::new(&folder, config);
        let cut = Delivery::Unknown("the connection ended".to_owned());
        life.peer.outcomes.lock().unwrap().push_back(cut);
        life.say("ada", "1", "hello").await;
        life.peer.until_sent(sent).await;
        life.settled().await;
        assert_eq!(life.peer.sent.borrow().len(), sent);
        let figures = life.journal.figures().await.unwrap();
        assert_eq!((figures.dead_replies, figures.resent), (dead, 1 - dead), "{unknown:?}");
    }
}

#[tokio::test]
async fn a_send_that_a_crash_cut_off_is_looked_up_at_the_other_side() {
    for (found, sent) in [(Custody::Arrived, 0), (Custody::NotArrived, 1)] {
        let folder = TempDir::new().unwrap();
        let life = Life::new(&folder, Config::default());
        let not_sent = Delivery::NotSent { after: Some(LIMIT), why: "later".to_owned() };
        life.peer.outcomes.lock().unwrap().push_back(not_sent);
        life.say("ada", "1", "hello").await;
        let id = loop {
            let (_, replies) = life.journal.unfinished().await.unwrap();
            let was_tried =
                |it: &&StoredReply| (it.attempts, it.state) == (1, ReplyState::Prepared);
            if let Some(reply) = replies.iter().find(was_tried) {
                break reply.id;
            }
            tokio::task::yield_now().await;
        };
        // The state in which a crash leaves it in the midst of a send.
        assert!(life.journal.reply_moves(id, ReplyState::Started, None).await.unwrap());
        life.crash().await;

        let peer = Peer { found: Mutex::new(found), ..Peer::new() };
        let life = Life::with(folder.path(), Config::default(), peer, Mind::new());
        assert_eq!(life.router.recover().await.unwrap().replies, 1);
        life.settled().await;
        assert_eq!(life.peer.sent.borrow().len(), sent, "{found:?}");
        assert_eq!(life.journal.reply(id).await.unwrap().unwrap().state, ReplyState::Done);
    }
}

#[tokio::test]
async fn a_reply_that_will_never_be_taken_is_a_dead_letter() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, Config::default());
    let gone = Delivery::Permanent("the chat is gone".to_owned());
    life.peer.outcomes.lock().unwrap().push_back(gone);
    life.say("ada", "1", "hello").await;
    life.say("ada", "2", "still there?").await;
    assert_eq!(life.peer.until_sent(1).await, ["still there?"]);
    life.settled().await;
    let (_, dead) = life.journal.dead_letters(10).await.unwrap();
    assert_eq!(dead[0].note.as_deref(), Some("the chat is gone"));
}

#[tokio::test]
async fn what_a_drain_leaves_is_answered_if_the_drain_is_called_off() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, Config::default());
    let router = life.router.clone();
    life.drain.on_resume("router", move |_| {
        let router = router.clone();
        async move { router.recover().await.map(drop) }
    });
    life.mind.held.send_replace(true);
    life.say("ada", "1", "one").await;
    life.mind.until_begun(1).await;
    life.say("ada", "2", "two").await;
    drop(life.drain.begin(Leaving::Restart, "a test").unwrap());
    // The first word of the drain is that nothing new is taken.
    let mut refused = life.intake.accept(inbound("bob", "3", "three")).await;
    while refused.is_ok() {
        let id = format!("more-{}", life.router.live());
        refused = life.intake.accept(inbound("eve", &id, "more")).await;
    }
    life.drain.call_off().unwrap();
    life.mind.held.send_replace(false);
    let sent = timeout(LIMIT, async {
        loop {
            let figures = life.journal.figures().await.unwrap();
            if figures.accepted == 0 {
                break life.peer.sent.borrow().clone();
            }
            tokio::task::yield_now().await;
        }
    });
    let sent = sent.await.expect("all are answered");
    let mut to_ada = sent.iter().filter(|text| ["one", "two"].contains(&text.as_str()));
    assert_eq!(to_ada.next().map(String::as_str), Some("one"));
    assert_eq!(to_ada.next().map(String::as_str), Some("two"));
    assert_eq!(to_ada.next(), None);
}

#[tokio::test]
async fn what_was_accepted_is_answered_also_while_new_work_is_held_back_for_a_moment() {
    let folder = TempDir::new().unwrap();
    let mut config = Config::default();
    config.inbound.debounce = "20ms".parse().unwrap();
    let life = Life::new(&folder, config);
    life.say("ada", "1", "one").await;
    // Between a restart that is decided and one that is begun; it may be called off.
    let fence = life.drain.gate().fence();
    let refused = life.intake.accept(inbound("ada", "2", "two")).await;
    assert!(matches!(refused, Err(NotAccepted::Unavailable(_))), "{refused:?}");
    let sent = timeout(LIMIT, life.peer.until_sent(1)).await.expect("it is answered");
    assert_eq!(sent, ["one"]);
    drop(fence);
}

#[tokio::test]
async fn what_arrives_after_the_seal_of_a_drain_does_not_hold_it_up_and_is_for_the_next_life() {
    let folder = TempDir::new().unwrap();
    let life = Life::new(&folder, Config::default());
    life.mind.held.send_replace(true);
    let id = life.say("ada", "1", "one").await;
    life.crash().await;
    let life = Life::new(&folder, Config::default());
    life.drain.gate().seal();
    assert_eq!(life.router.recover().await.unwrap().messages, 1);
    let let_go = async {
        while life.router.live() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, let_go).await.expect("nothing of it is in a queue");
    assert_eq!(life.state(id).await, MessageState::Accepted);
    life.drain.gate().reopen();
    life.router.recover().await.unwrap();
    assert_eq!(life.peer.until_sent(1).await, ["one"]);
}

#[tokio::test]
async fn a_session_remembers_and_is_made_shorter_when_it_is_too_long() {
    let folder = TempDir::new().unwrap();
    let mut config = Config::default();
    config.agent.history = "200B".parse().unwrap();
    let life = Life::new(&folder, config);
    for number in 0..20 {
        life.say("ada", &number.to_string(), &format!("message number {number}")).await;
        life.peer.until_sent(number + 1).await;
    }
    let history = life.journal.history(Conversation::new("peer", "ada")).await.unwrap();
    let size: usize = history.iter().map(|(_, it)| it.text.len()).sum();
    assert!(size < 400, "{size}");
    assert!(history[0].1.text.ends_with("exchanges"), "{history:?}");
}
