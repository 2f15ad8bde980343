//! What a run tells: its figures, or the whole story of what went wrong.

use std::{fmt::Write, time::Duration};

use lockkeeper::gateway::journal::storage::Figures;

use crate::{
    Chaos,
    ledger::{Channel, Violation},
};

/// Of so many violations the story is told.
const MOST: usize = 5;

/// The figures of a run in which all went well.
pub(crate) fn told(chaos: &Chaos, figures: &Figures) -> String {
    let mut text = String::new();
    let (sent, answered) = chaos.ledger.totals();
    let took = chaos.began.elapsed();
    let _ = writeln!(text, "seed       {}", chaos.seed);
    let _ = writeln!(text, "messages   {sent} sent, {answered} answered, 0 lost, 0 out of order");
    let _ = writeln!(text, "faults     {}", chaos.done);
    let rate = sent as f64 / took.as_secs_f64();
    let _ = writeln!(text, "time       {:.1} s, {rate:.0} messages/s", took.as_secs_f64());
    let mut recoveries = chaos.ledger.recoveries();
    recoveries.sort_by_key(|it| it.took);
    if let Some(slowest) = recoveries.last() {
        let at =
            |part: f64| millis(recoveries[((recoveries.len() - 1) as f64 * part) as usize].took);
        let (slowest_took, fault) = (millis(slowest.took), &slowest.fault);
        let (p50, p99) = (at(0.5), at(0.99));
        let _ = writeln!(text, "recovery   p50 {p50}, p99 {p99}, slowest {slowest_took} ({fault})");
    }
    let twice = chaos.ledger.counter("answers twice");
    let _ = writeln!(text, "twice      {twice} answers; the journal sent {} again", figures.resent);
    let (polls, overlaps) = (chaos.telegram.polls(), chaos.telegram.overlaps());
    let _ = writeln!(text, "polls      {polls} of Telegram, {overlaps} at the same time");
    let log = chaos.world.log(usize::MAX);
    let drains = log.lines().filter(|line| line.starts_with("done in "));
    let (whole, cut): (Vec<_>, Vec<_>) = drains.partition(|line| line.contains(": nothing cut"));
    let _ = writeln!(text, "drains     {} whole, {} over their time", whole.len(), cut.len());
    for (what, count) in chaos.ledger.counters() {
        let _ = writeln!(text, "           {count} {what}");
    }
    let left = figures.accepted + figures.pending + figures.unknown;
    let dead = figures.dead_messages + figures.dead_replies;
    let size = chaos.world.journal_size();
    let _ = write!(text, "journal    {size} bytes, {left} to do, {dead} dead");
    text
}

/// All that is known of what went wrong.
pub(crate) async fn of(chaos: &Chaos, violations: &[Violation]) -> String {
    let round = chaos.done.div_ceil(crate::ROUND);
    let mut text = format!("\nseed {}, round {round}, fault {}:\n", chaos.seed, chaos.done);
    for violation in violations.iter().take(100) {
        let _ = writeln!(text, "  {}", violation.what);
    }
    let _ = writeln!(text, "\nwhat was done:");
    for (at, what) in &chaos.history[chaos.history.len().saturating_sub(30)..] {
        let _ = writeln!(text, "  {:8.3} s  {what}", at.as_secs_f64());
    }
    let concerned = violations.iter().filter_map(|violation| violation.message).take(MOST);
    for ((channel, conversation), number) in concerned {
        let id = match channel {
            Channel::Webhook => format!("chaos/c{conversation}-{number}"),
            Channel::Chat => format!("c{conversation}-{number}"),
            // Known by words alone.
            Channel::Telegram | Channel::Imessage => String::new(),
        };
        let wanted = crate::ledger::text(conversation, number);
        let journal = chaos.world.journal();
        let (messages, _) = journal.latest(1 << 40).await.unwrap_or_default();
        journal.close().await;
        let is_it = |inbound: &lockkeeper::gateway::message::Inbound| {
            &*inbound.conversation.channel == channel.name()
                && (inbound.id == id || inbound.text == wanted)
        };
        let _ = writeln!(text, "\n{channel} {wanted}:");
        match messages.iter().find(|message| is_it(&message.inbound)) {
            None => text += "  not in the journal\n",
            Some(message) => {
                let id = format!("m{}", message.id.0);
                text += &chaos.world.gateway(&["journal", "show", &id]).await;
            }
        }
    }
    let _ = writeln!(text, "\nprocesses: {:?}", chaos.world.processes());
    let _ = writeln!(text, "\nthe end of the log:\n{}", chaos.world.log(120));
    text
}

fn millis(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
