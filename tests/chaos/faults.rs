//! What goes wrong, and how often: one table, drawn from by a seeded generator.

use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    Chaos,
    ledger::Channel,
    peers::{callback::Mood, messages},
    support::telegram::{Bad, Fault as Misbehaviour},
    world::signal,
};

/// Something that goes wrong, or that somebody wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    Restart,
    RestartTwiceAtOnce,
    RestartInProcess,
    RestartSignal,
    InProcessSignal,
    RestartByClient,
    PatchByClient,
    StopAndStart,
    KillChild,
    KillParent,
    KillBoth,
    PauseChild,
    EditHot,
    EditBadly,
    EditTelegram,
    DiskFull,
    TelegramConflict,
    TelegramTooMany,
    TelegramServerError,
    TelegramPollCut,
    TelegramTwice,
    TelegramReversed,
    TelegramUnanswered,
    ImsgKilled,
    ImsgDies,
    ImsgMisbehaves,
    CallbackFails,
    CallbackForgets,
    CallbackSlow,
    ChatCut,
}

/// How often each is drawn.
const TABLE: &[(u32, Fault)] = &[
    (6, Fault::Restart),
    (3, Fault::RestartTwiceAtOnce),
    (4, Fault::RestartInProcess),
    (4, Fault::RestartSignal),
    (2, Fault::InProcessSignal),
    (4, Fault::RestartByClient),
    (3, Fault::PatchByClient),
    (3, Fault::StopAndStart),
    (8, Fault::KillChild),
    (5, Fault::KillParent),
    (5, Fault::KillBoth),
    (4, Fault::PauseChild),
    (5, Fault::EditHot),
    (3, Fault::EditBadly),
    (3, Fault::EditTelegram),
    (4, Fault::DiskFull),
    (1, Fault::TelegramConflict),
    (2, Fault::TelegramTooMany),
    (3, Fault::TelegramServerError),
    (3, Fault::TelegramPollCut),
    (2, Fault::TelegramTwice),
    (2, Fault::TelegramReversed),
    (4, Fault::TelegramUnanswered),
    (3, Fault::ImsgKilled),
    (4, Fault::ImsgDies),
    (3, Fault::ImsgMisbehaves),
    (3, Fault::CallbackFails),
    (2, Fault::CallbackForgets),
    (2, Fault::CallbackSlow),
    (4, Fault::ChatCut),
];

impl Fault {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let all = TABLE.iter().map(|(weight, _)| weight).sum();
        let mut drawn = rng.u32(0..all);
        for (weight, fault) in TABLE {
            match drawn.checked_sub(*weight) {
                Some(left) => drawn = left,
                None => return *fault,
            }
        }
        unreachable!("what was drawn is below the sum")
    }

    /// Whom it concerns; none: everybody.
    pub(crate) fn channel(self) -> Option<Channel> {
        match self {
            Self::EditTelegram
            | Self::TelegramConflict
            | Self::TelegramTooMany
            | Self::TelegramServerError
            | Self::TelegramPollCut
            | Self::TelegramTwice
            | Self::TelegramReversed
            | Self::TelegramUnanswered => Some(Channel::Telegram),
            Self::ImsgKilled | Self::ImsgDies | Self::ImsgMisbehaves => Some(Channel::Imessage),
            Self::CallbackFails | Self::CallbackForgets | Self::CallbackSlow => {
                Some(Channel::Webhook)
            }
            Self::ChatCut => Some(Channel::Chat),
            _ => None,
        }
    }
}

impl Chaos {
    /// Lets it happen; gives what there is to say of it.
    pub(crate) async fn carry_out(&mut self, fault: Fault) -> String {
        match fault {
            Fault::Restart => self.asked(&["restart", "--reason", "chaos"]).await,
            Fault::RestartTwiceAtOnce => {
                let words = ["restart", "--wait", "--reason", "chaos"];
                let (one, two) =
                    tokio::join!(self.world.lockkeeper(&words), self.world.lockkeeper(&words));
                self.judge(&words, &one);
                self.judge(&words, &two);
                format!("{} and {}", one.0, two.0)
            }
            Fault::RestartInProcess => self.asked(&["restart", "--in-process"]).await,
            Fault::RestartSignal => self.signal_parent(Signal::USR1),
            Fault::InProcessSignal => self.signal_parent(Signal::USR2),
            Fault::RestartByClient => self.operator.restart(self.world.address).await,
            Fault::PatchByClient => {
                let seconds = 10 + u32::try_from(self.done % 40).expect("it is small");
                self.operator.patch(self.world.address, seconds).await
            }
            Fault::StopAndStart => {
                let (code, said) = self.world.lockkeeper(&["stop", "--wait"]).await;
                if code == 0 {
                    let status = self.parent.ended().await;
                    if status.code() != Some(0) {
                        self.ledger.violate(format!("a stop ended with {status}: {said}"));
                    }
                    self.parent = self.world.start();
                }
                code.to_string()
            }
            Fault::KillChild => self.kill_child(),
            Fault::KillParent => {
                self.parent.signal(Signal::KILL);
                self.parent.ended().await;
                self.parent = self.world.start();
                String::new()
            }
            Fault::KillBoth => {
                self.parent.signal(Signal::KILL);
                let told = self.kill_child();
                self.parent.ended().await;
                self.parent = self.world.start();
                told
            }
            Fault::PauseChild => {
                let time = self.between(300, 2000);
                let children = self.world.gateways();
                children.iter().for_each(|pid| signal(*pid, Signal::STOP));
                sleep(time).await;
                children.iter().for_each(|pid| signal(*pid, Signal::CONT));
                format!("{children:?} for {time:?}")
            }
            Fault::EditHot => self.edit_hot(),
            Fault::EditBadly => self.edit_badly().await,
            Fault::EditTelegram => {
                let seconds = self.rng.u32(2..50);
                self.edit("channels.telegram.poll", format!("{seconds}s"))
            }
            Fault::DiskFull if self.world.has_disk => {
                let time = self.between(200, 1500);
                self.world.fill_disk();
                sleep(time).await;
                self.world.empty_disk();
                format!("for {time:?}")
            }
            Fault::DiskFull => "not done: there is no disk of its own".to_owned(),
            Fault::TelegramConflict => self.poll(Bad::Conflict),
            Fault::TelegramTooMany => {
                self.telegram.misbehave(Misbehaviour::Send(Bad::TooMany(1)));
                self.poll(Bad::TooMany(1))
            }
            Fault::TelegramServerError => {
                self.telegram.misbehave(Misbehaviour::Send(Bad::Status(502)));
                self.telegram.misbehave(Misbehaviour::Send(Bad::Html(503)));
                self.poll(Bad::Status(500))
            }
            Fault::TelegramPollCut => {
                let bad = if self.rng.bool() { Bad::Cut } else { Bad::Closed };
                self.poll(bad)
            }
            Fault::TelegramTwice => self.poll(Bad::Doubled),
            Fault::TelegramReversed => self.poll(Bad::Reversed),
            Fault::TelegramUnanswered => {
                let bad = if self.rng.bool() { Bad::Cut } else { Bad::Unanswered };
                self.telegram.misbehave(Misbehaviour::Send(bad.clone()));
                format!("{bad:?}")
            }
            Fault::ImsgKilled => {
                let processes = self.world.processes().into_iter();
                let children = processes.filter(|(_, name)| name.starts_with("python"));
                let pids: Vec<_> = children.map(|(pid, _)| pid).collect();
                pids.iter().for_each(|pid| signal(*pid, Signal::KILL));
                format!("{pids:?}")
            }
            Fault::ImsgDies => self.imsg(&["die-at-send", "die-after-send", "die"]),
            Fault::ImsgMisbehaves => {
                self.imsg(&["twice", "overflow", "watch-error", "noise", "slow-send"])
            }
            Fault::CallbackFails => self.callback(Mood::Broken).await,
            Fault::CallbackForgets => self.callback(Mood::Forgetful).await,
            Fault::CallbackSlow => self.callback(Mood::Slow).await,
            Fault::ChatCut => {
                let _ = self.cut.send(());
                String::new()
            }
        }
    }

    async fn asked(&self, words: &[&str]) -> String {
        let answer = self.world.lockkeeper(words).await;
        self.judge(words, &answer);
        answer.0.to_string()
    }

    /// A restart is done, refused (69), or overtaken by what else goes wrong (1); nobody may hang, or
    /// fail otherwise.
    fn judge(&self, words: &[&str], (code, said): &(i32, String)) {
        match code {
            0 => self.ledger.count("restarts by command: done"),
            1 => self.ledger.count("restarts by command: overtaken"),
            3 | 69 => self.ledger.count("restarts by command: refused"),
            _ => self.ledger.violate(format!("{words:?} ended with {code}: {said}")),
        }
    }

    fn signal_parent(&self, what: Signal) -> String {
        // Before it has a handler, it would end by it; so would the program of anybody else.
        if !catches(self.parent.pid(), what) {
            return "it does not listen yet".to_owned();
        }
        self.parent.signal(what);
        String::new()
    }

    fn kill_child(&self) -> String {
        let children = self.world.gateways();
        children.iter().for_each(|pid| signal(*pid, Signal::KILL));
        format!("{children:?}")
    }

    fn poll(&self, bad: Bad) -> String {
        let told = format!("{bad:?}");
        self.telegram.misbehave(Misbehaviour::Poll(bad));
        told
    }

    fn imsg(&mut self, orders: &[&str]) -> String {
        let order = orders[self.rng.usize(..orders.len())];
        messages::order(&self.world.path("messages"), order);
        order.to_owned()
    }

    async fn callback(&mut self, mood: Mood) -> String {
        let time = self.between(200, 1200);
        self.callback.is_in(mood);
        sleep(time).await;
        self.callback.is_in(Mood::Fine);
        format!("for {time:?}")
    }

    fn edit_hot(&mut self) -> String {
        let number = i64::from(self.rng.u32(2..32));
        match self.rng.u32(..5) {
            0 => self.edit("agent.concurrency", number),
            1 => self.edit("inbound.queue", 500 + number),
            2 => self.edit("inbound.debounce", format!("{number}ms")),
            3 => self.edit("inbound.debounce", "0s"),
            _ => {
                let busy = ["followup", "collect"][self.rng.usize(..2)];
                self.edit("inbound.busy", busy)
            }
        }
    }

    fn edit(&mut self, key: &str, value: impl Into<toml_edit::Value>) -> String {
        let value = value.into();
        let told = format!("{key} = {value}");
        let text = std::fs::read_to_string(self.world.config()).expect("the config");
        let mut document: toml_edit::DocumentMut = text.parse().expect("it is ours");
        let mut item = document.as_item_mut();
        for part in key.split('.') {
            item = &mut item[part];
        }
        *item = toml_edit::value(value);
        self.write_config(&document.to_string());
        told
    }

    /// A key that is none, or half a file; taken back before long. Who starts meanwhile refuses to.
    async fn edit_badly(&mut self) -> String {
        let good = std::fs::read_to_string(self.world.config()).expect("the config");
        let bad = match self.rng.bool() {
            true => good.replace("[agent]", "[agent]\nknid = \"echo\""),
            false => good[..good.len() / 2].to_owned() + "\n[[[",
        };
        let time = self.between(100, 1200);
        self.was_bad = true;
        self.write_config(&bad);
        sleep(time).await;
        self.write_config(&good);
        format!("for {time:?}")
    }

    /// As editors do: in place, or a new file in the place of the old one.
    fn write_config(&mut self, text: &str) {
        let path = self.world.config();
        if self.rng.bool() {
            std::fs::write(&path, text).expect("the config");
        } else {
            let new = path.with_extension("new");
            std::fs::write(&new, text).expect("the config");
            std::fs::rename(&new, &path).expect("the config");
        }
    }

    pub(crate) fn between(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.u64(least..=most))
    }
}

/// Whether a process has a handler for a signal.
fn catches(pid: u32, what: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (what.as_raw() - 1) & 1 == 1)
}
