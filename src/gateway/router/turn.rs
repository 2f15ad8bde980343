//! One agent turn, from a prompt to an answer in the journal.
#![allow(clippy::disallowed_methods)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::sync::mpsc;

use crate::{
    drain::{
        followup::Item,
        gate::Pass,
        run::{AbortReason, Run, RunState},
    },
    gateway::{
        agent::{AgentError, Answer, Deltas, Exchange, Role, Steered, Turn, history},
        events::{Event, Said},
        message::{Conversation, MessageId},
    },
};

use super::{Bundle, Inner, LANE, Work};

/// From the first failure to the next try; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a prompt is tried until its messages are dead letters.
const TRIES: u32 = 6;

/// How one try ended.
enum Tried {
    /// The messages are answered.
    Answered,
    /// They stay in the journal as they are: the gateway leaves.
    Left,
    /// It is worth another try.
    Failed(String),
    /// It is not.
    Hopeless(String),
}

impl Inner {
    /// Makes turns until the messages are answered, dead, or left for the next life. Its future may
    /// be dropped: then they are left.
    pub(super) async fn carry_out(self: &Arc<Self>, bundle: Bundle, run: Run, pass: &Pass) {
        let Some(conversation) = bundle.first().map(|work| work.inbound.conversation.clone())
        else {
            return;
        };
        let mut held = Held { router: Arc::clone(self), bundle };
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            match self.try_once(&conversation, &mut held, &run, pass).await {
                Tried::Answered | Tried::Left => return,
                Tried::Failed(why) if attempt < TRIES => {
                    tracing::warn!(%conversation, attempt, %why, "the agent gave no answer");
                    self.say(&conversation, &held.bundle, Said::Error(why));
                }
                Tried::Failed(why) | Tried::Hopeless(why) => {
                    self.give_up(&conversation, &held.bundle, &why).await;
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // The next life tries, with more time.
                () = self.drain.leaving() => return,
                () = run.aborted() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_once(
        self: &Arc<Self>,
        conversation: &Conversation,
        held: &mut Held,
        run: &Run,
        pass: &Pass,
    ) -> Tried {
        let history = match self.history(conversation, run).await {
            Ok(history) => history,
            Err(why) => return Tried::Failed(why),
        };
        let (forward, steer) = mpsc::channel(8);
        let mut incoming = run.steerable::<Arc<Bundle>>();
        let turn = Turn {
            session: conversation.to_string(),
            history,
            prompt: prompt(&held.bundle),
            steer,
            abort: run.token().clone(),
            deltas: self.deltas(conversation, &held.bundle),
        };
        let began = Instant::now();
        let (agent, label) = (self.agent(), ("turn", conversation.to_string()));
        let command = self.drain.lanes().command(LANE, label).continues(pass);
        let queued = command.enqueue(move |_| async move { agent.turn(turn).await });
        let mut ticket = match queued {
            Ok(ticket) => ticket,
            Err(_refused) => return Tried::Left,
        };
        let mut steered: Vec<Passed> = Vec::new();
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut ticket => break ended,
                Some(bundle) = incoming.recv() => {
                    let passed = Passed { bundle, taken: Arc::default() };
                    let text = prompt(&passed.bundle).into();
                    // The agent reads none, or has ended: it is not taken.
                    let _ = forward.try_send(Steered::new(text, Arc::clone(&passed.taken)));
                    steered.push(passed);
                }
            }
        };
        drop(forward);
        incoming.close();
        while let Some(bundle) = incoming.recv().await {
            steered.push(Passed { bundle, taken: Arc::default() });
        }
        for passed in steered {
            if passed.taken.load(Ordering::Acquire) {
                held.bundle.extend(passed.bundle.iter().cloned());
            } else {
                let item = Item::new("", conversation.to_string(), passed.bundle.to_vec());
                let session = conversation.to_string();
                self.queues.not_read(&session, item.protected(), &self.layers());
            }
        }
        let outcome = match &ended {
            Ok(Ok(_)) => "answered",
            Ok(Err(AgentError::Aborted)) => "aborted",
            Ok(Err(AgentError::TimedOut(_))) => "timed_out",
            Ok(Err(_)) => "failed",
            Err(_) => "cut",
        };
        self.metrics.turn(outcome, began.elapsed());
        match ended {
            Ok(Ok(answer)) => self.answered(conversation, &held.bundle, answer, run).await,
            Ok(Err(AgentError::Aborted)) => self.aborted(conversation, &held.bundle, run).await,
            Ok(Err(AgentError::Permanent(why))) => Tried::Hopeless(why),
            Ok(Err(error)) => Tried::Failed(error.to_string()),
            Err(cut) => {
                tracing::debug!(%conversation, %cut, "left in the journal");
                Tried::Left
            }
        }
    }

    /// What the session remembers, made shorter first if it has grown too long.
    async fn history(
        &self,
        conversation: &Conversation,
        run: &Run,
    ) -> Result<Vec<Exchange>, String> {
        let read = || async {
            self.journal.history(conversation.clone()).await.map_err(|why| why.to_string())
        };
        let kept = read().await?;
        let limit = usize::try_from(self.config().agent.history.bytes()).unwrap_or(usize::MAX);
        let exchanges: Vec<_> = kept.iter().map(|(_, exchange)| exchange.clone()).collect();
        let older = history::to_compact(&exchanges, limit);
        if older == 0 {
            return Ok(exchanges);
        }
        run.set_state(RunState::Compacting);
        let agent = self.agent();
        let compacted = tokio::select! {
            // A turn without it is better than none: it is done again next time.
            () = run.aborted() => None,
            compacted = agent.compact(exchanges[..older].to_vec()) => compacted.ok(),
        };
        run.set_state(RunState::Streaming);
        let (Some(summary), Some((through, _))) = (compacted, kept.get(older - 1)) else {
            return Ok(exchanges);
        };
        let done = self.journal.compact(conversation.clone(), *through, summary).await;
        done.map_err(|why| why.to_string())?;
        Ok(read().await?.into_iter().map(|(_, exchange)| exchange).collect())
    }

    async fn answered(
        self: &Arc<Self>,
        conversation: &Conversation,
        bundle: &Bundle,
        answer: Answer,
        run: &Run,
    ) -> Tried {
        let replies: Vec<_> = answer.replies.into_iter().filter(|text| is_told(text)).collect();
        let mut exchanges = vec![Exchange { role: Role::User, text: prompt(bundle) }];
        exchanges.extend(
            replies.iter().map(|text| Exchange { role: Role::Assistant, text: text.clone() }),
        );
        let ids: Vec<MessageId> = bundle.iter().map(|work| work.id).collect();
        let mut pause = FIRST_PAUSE;
        loop {
            let kept = self.journal.answer(ids.clone(), replies.clone(), exchanges.clone()).await;
            match kept {
                Ok(kept) => {
                    for (id, text) in kept.into_iter().zip(replies) {
                        self.say(conversation, bundle, Said::Final(id, text));
                        self.outbox.send(conversation, id);
                    }
                    self.metrics.answered(bundle.len() as u64);
                    return Tried::Answered;
                }
                // The answer is worth keeping: the disk may have room again in a moment.
                Err(why) => {
                    tracing::error!(%conversation, %why, "an answer cannot be kept yet");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.drain.leaving() => return Tried::Left,
                        () = run.aborted() => return Tried::Left,
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// The turn was told to end and says nothing. Where a person wanted that, the messages are done
    /// with; where the gateway did, they are answered by its next life.
    async fn aborted(&self, conversation: &Conversation, bundle: &Bundle, run: &Run) -> Tried {
        let why = match run.abort_reason() {
            Some(AbortReason::Interrupt | AbortReason::Replaced) => "a newer message came",
            Some(AbortReason::Requested) => "it was asked to stop",
            _ => return Tried::Left,
        };
        let ids: Vec<MessageId> = bundle.iter().map(|work| work.id).collect();
        let said = vec![Exchange { role: Role::User, text: prompt(bundle) }];
        if let Err(why) = self.journal.answer(ids, Vec::new(), said).await {
            tracing::error!(%conversation, %why, "an aborted turn will be made again");
            return Tried::Left;
        }
        self.say(conversation, bundle, Said::Aborted(why.to_owned()));
        Tried::Answered
    }

    /// The messages become dead letters, and their sender is told.
    async fn give_up(self: &Arc<Self>, conversation: &Conversation, bundle: &Bundle, why: &str) {
        tracing::error!(%conversation, why, messages = bundle.len(), "dead letters: not answered");
        // Told first: a crash between the two tells twice, not never.
        let text = format!("Your message could not be answered: {why}");
        let context = bundle.last().map(|work| work.inbound.context.clone()).unwrap_or_default();
        self.notify(conversation, context, text).await;
        for work in bundle {
            if let Err(error) = self.journal.bury(work.id, why.to_owned()).await {
                tracing::error!(%conversation, %error, "it stays in the journal");
            }
        }
        self.say(conversation, bundle, Said::Error(why.to_owned()));
    }

    /// A message of the gateway's own to a conversation, by way of the journal.
    pub(super) async fn notify(
        self: &Arc<Self>,
        conversation: &Conversation,
        context: Value,
        text: String,
    ) {
        let kept = self.journal.notice(conversation.clone(), text.clone(), context, false).await;
        match kept {
            Ok(id) => {
                let told = Event::Chat {
                    conversation: conversation.clone(),
                    answers: Vec::new(),
                    said: Said::Final(id, text),
                };
                self.events.tell(told);
                self.outbox.send(conversation, id);
            }
            Err(why) => tracing::error!(%conversation, %why, "a notice is lost"),
        }
    }

    fn say(&self, conversation: &Conversation, bundle: &[Arc<Work>], said: Said) {
        let answers = external_ids(bundle);
        self.events.tell(Event::Chat { conversation: conversation.clone(), answers, said });
    }

    fn deltas(&self, conversation: &Conversation, bundle: &[Arc<Work>]) -> Deltas {
        let (events, conversation) = (self.events.clone(), conversation.clone());
        let answers = external_ids(bundle);
        Deltas::new(move |piece| {
            let said = Said::Delta(piece.to_owned());
            let answers = answers.clone();
            events.tell(Event::Chat { conversation: conversation.clone(), answers, said });
        })
    }
}

/// Messages in the hands of a turn, until it ends or is dropped.
struct Held {
    router: Arc<Inner>,
    bundle: Bundle,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.router.let_go(&self.bundle);
    }
}

/// Messages that were passed on to a turn under way.
struct Passed {
    bundle: Arc<Bundle>,
    taken: Arc<AtomicBool>,
}

fn external_ids(bundle: &[Arc<Work>]) -> Vec<String> {
    bundle.iter().map(|work| work.inbound.id.clone()).collect()
}

fn prompt(bundle: &[Arc<Work>]) -> String {
    let texts: Vec<_> = bundle.iter().map(|work| work.inbound.text.as_str()).collect();
    texts.join("\n")
}

/// By what an agent says that it has nothing to say.
const SILENT: &str = "NO_REPLY";

fn is_told(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && text != SILENT
}
