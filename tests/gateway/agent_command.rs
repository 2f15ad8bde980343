//! The agent that is a program, with real programs.

use std::{process::Stdio, time::Duration};

use lockkeeper::{
    gateway::agent::{self, Agent, AgentError, command::Command, echo::Echo},
    units::Timespan,
};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::agent_support::{
    answer, assistant, client, end, gone, is_gone, leash, process, replies, settings, sh,
    sh_within, start, turn, user,
};

/// A process that ignores SIGTERM, and tells its number by a delta.
const STUBBORN: &str =
    r#"trap "" TERM; echo "{\"type\":\"delta\",\"text\":\"$$\"}"; while :; do sleep 600; done"#;

fn failed(result: &Result<agent::Answer, AgentError>) -> &str {
    match result {
        Err(AgentError::Failed(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_echo_says_the_prompt_and_what_was_steered_in_by_then() {
    let (turn, caller) = turn("one");
    caller.steer.try_send("two".into()).unwrap();
    assert_eq!(end(start(Echo, turn)).await, replies(["one\ntwo"]));
    assert_eq!(caller.told(), "one\ntwo");
}

#[tokio::test]
async fn an_echo_and_a_command_compact_to_a_count_and_the_last_lines() {
    let past: Vec<_> = (0..9).map(|n| user(&format!("line {n}"))).collect();
    let note = Echo.compact(past.clone()).await.unwrap();
    assert!(note.contains("9 earlier messages") && note.ends_with("user: line 8"), "{note}");
    assert!(!note.contains("line 4"), "{note}");
    assert_eq!(sh("exit 1").compact(past).await.unwrap(), note);
}

#[tokio::test]
async fn a_command_agent_is_built_of_its_settings_and_an_empty_command_is_refused_by_key() {
    let built = agent::build(&settings(&["echo", "hi"]), None, client(), leash()).unwrap();
    let (turn, _caller) = turn("x");
    assert_eq!(built.turn(turn).await, replies(["hi"]));
    for command in [&[][..], &[""]] {
        let error = agent::build(&settings(command), None, client(), leash()).unwrap_err();
        assert!(error.contains("agent.command"), "{error}");
    }
}

#[tokio::test]
async fn the_program_is_run_without_a_shell() {
    let agent = Command::new(&settings(&["printf", "%s", "$HOME; `id` \"x\""]), leash());
    assert_eq!(answer(agent, "x").await, replies(["$HOME; `id` \"x\""]));
}

#[tokio::test]
async fn the_first_line_on_stdin_has_session_prompt_history_and_instructions() {
    let (mut turn, _caller) = turn("and now?\n\"quoted\"");
    turn.history = vec![user("hi"), assistant("hello")];
    let got = end(start(sh("read -r line; echo \"got $line\""), turn)).await.unwrap();
    let line = got.replies[0].strip_prefix("got ").unwrap();
    // The shell's echo may read the backslashes; a look at the parts is enough then.
    for part in [
        r#""type":"turn""#,
        r#""session":"chat:main""#,
        r#"{"role":"user","text":"hi"},{"role":"assistant","text":"hello"}"#,
        r#""instructions":"Be kind.""#,
        "and now?",
    ] {
        assert!(line.contains(part), "{line}");
    }
}

#[tokio::test]
async fn the_prompt_and_the_session_are_in_the_environment_too() {
    let got = answer(sh(r#"echo "$LOCKKEEPER_SESSION: $LOCKKEEPER_PROMPT""#), "hi").await;
    assert_eq!(got, replies(["chat:main: hi"]));
}

#[tokio::test]
async fn a_prompt_that_no_environment_holds_is_given_on_stdin_alone() {
    let script = r#"echo "[$LOCKKEEPER_PROMPT]"; head -n 1 | wc -c"#;
    let long = "x".repeat(300_000);
    let got = answer(sh(script), &long).await.unwrap().replies.remove(0);
    let (variable, bytes) = got.split_once('\n').unwrap();
    assert_eq!(variable, "[]");
    assert!(bytes.trim().parse::<usize>().unwrap() > 300_000, "{bytes}");
    assert_eq!(answer(sh(r#"echo "[$LOCKKEEPER_PROMPT]""#), "a\0b").await, replies(["[]"]));
}

#[tokio::test]
async fn replies_come_in_order_and_deltas_are_told_as_they_come() {
    let script = r#"
        echo '{"type":"delta","text":"on"}'; echo '{"type":"delta","text":"e"}'
        echo '{"type":"reply","text":"one"}'
        echo '{"type":"reply","text":"two"}'; echo '{"type":"done"}'"#;
    let (turn, caller) = turn("x");
    assert_eq!(end(start(sh(script), turn)).await, replies(["one", "two"]));
    assert_eq!(caller.told(), "one");
}

#[tokio::test]
async fn deltas_that_no_reply_followed_are_a_reply() {
    let script = r#"echo '{"type":"delta","text":"a"}'; printf '{"type":"delta","text":"b"}'"#;
    assert_eq!(answer(sh(script), "x").await, replies(["ab"]));
}

#[tokio::test]
async fn a_program_that_knows_no_protocol_replies_with_all_that_it_prints() {
    assert_eq!(answer(sh("echo; echo one; echo two"), "x").await, replies(["one\ntwo"]));
    assert_eq!(answer(sh(r#"echo '{"a":1}'; echo two"#), "x").await, replies(["{\"a\":1}\ntwo"]));
    assert_eq!(answer(sh("true"), "x").await, replies([]));
}

#[tokio::test]
async fn a_program_that_is_done_and_does_not_end_is_ended_and_its_answer_counts() {
    let said = r#"echo "{\"type\":\"delta\",\"text\":\"$$\"}"
        echo '{"type":"reply","text":"hi"}'; echo '{"type":"done"}'; echo '{"type":"reply","text":"?"}'"#;
    let script = format!("trap '' TERM; {said}; while :; do sleep 600; done");
    let (turn, mut caller) = turn("x");
    let running = start(sh(&script), turn);
    let stubborn = process(&caller.delta().await);
    assert_eq!(end(running).await, replies(["hi"]));
    assert!(is_gone(stubborn));
}

#[tokio::test]
async fn messages_are_steered_into_a_program_that_takes_them() {
    let script = r#"
        read -r turn; echo '{"type":"hello","steer":true}'
        read -r one; echo '{"type":"steered"}'; read -r two; echo '{"type":"steered"}'
        [ "$one$two" = '{"type":"steer","text":"one"}{"type":"steer","text":"two"}' ] &&
            echo '{"type":"reply","text":"both"}'"#;
    let (turn, caller) = turn("x");
    let running = start(sh(script), turn);
    caller.steer.send("one".into()).await.unwrap();
    caller.steer.send("two".into()).await.unwrap();
    assert_eq!(end(running).await, replies(["both"]));
}

#[tokio::test]
async fn messages_are_left_in_the_channel_of_a_program_that_takes_none() {
    let script = r#"read -r turn; echo up; read -r line; echo "$line""#;
    let (turn, mut caller) = turn("x");
    caller.steer.try_send("later".into()).unwrap();
    let running = start(sh(script), turn);
    assert_eq!(caller.delta().await, "up\n");
    assert_eq!(caller.steer.capacity(), caller.steer.max_capacity() - 1);
    caller.abort.cancel();
    assert_eq!(end(running).await, replies(["up\n{\"type\":\"abort\"}"]));
}

#[tokio::test]
async fn a_message_that_was_given_and_not_taken_is_the_prompt_of_another_process() {
    // It ends when it is steered, without a word of it; the second life has the message as prompt.
    let script = r#"
        read -r turn
        case "$LOCKKEEPER_PROMPT" in
            first) echo '{"type":"hello","steer":true}'; echo '{"type":"reply","text":"1"}'
                   echo '{"type":"delta","text":"up"}'; read -r steer;;
            *) echo "$LOCKKEEPER_PROMPT after $turn";;
        esac"#;
    let (turn, mut caller) = turn("first");
    let running = start(sh(script), turn);
    assert_eq!(caller.delta().await, "up");
    caller.steer.send("second".into()).await.unwrap();
    let got = end(running).await.unwrap().replies;
    assert_eq!(&got[..2], ["1", "up"]);
    let history = r#"[{"role":"user","text":"first"},{"role":"assistant","text":"1"},{"role":"assistant","text":"up"}]"#;
    assert!(got[2].starts_with("second after ") && got[2].contains(history), "{}", got[2]);
}

#[tokio::test]
async fn an_aborted_program_hears_of_it_and_gives_what_it_has() {
    let script = r#"
        read -r turn; echo '{"type":"delta","text":"up"}'
        read -r abort; cat >/dev/null; echo '{"type":"reply","text":"half"}'
        [ "$abort" = '{"type":"abort"}' ] || echo '{"type":"reply","text":"?"}'"#;
    let (turn, mut caller) = turn("x");
    let running = start(sh(script), turn);
    assert_eq!(caller.delta().await, "up");
    caller.abort.cancel();
    assert_eq!(end(running).await, replies(["half"]));
}

#[tokio::test]
async fn an_aborted_program_that_has_nothing_to_say_is_an_aborted_turn() {
    let (turn, caller) = turn("x");
    let running = start(sh("cat >/dev/null; exit 3"), turn);
    caller.abort.cancel();
    assert_eq!(end(running).await, Err(AgentError::Aborted));
}

#[tokio::test]
async fn an_aborted_program_that_goes_on_is_ended_after_the_grace() {
    let (turn, mut caller) = turn("x");
    let running = start(sh(STUBBORN), turn);
    let stubborn = process(&caller.delta().await);
    caller.abort.cancel();
    assert_eq!(end(running).await, replies([&stubborn.pid.to_string()]));
    assert!(is_gone(stubborn));
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_ended_with_all_its_processes() {
    let limit = Timespan::from_secs(1);
    let (turn, mut caller) = turn("x");
    let running = start(sh_within(limit, STUBBORN), turn);
    let stubborn = process(&caller.delta().await);
    assert_eq!(end(running).await, Err(AgentError::TimedOut(limit.duration())));
    assert!(is_gone(stubborn));
}

#[tokio::test]
async fn a_program_whose_time_is_over_may_end_well_within_the_grace() {
    let agent = Command::new(
        &lockkeeper::gateway::config::schema::Agent {
            timeout: Timespan::from_secs(1),
            ..settings(&["sh", "-c", "cat >/dev/null; echo whole"])
        },
        leash(),
    );
    assert_eq!(answer(agent, "x").await, replies(["whole"]));
}

#[tokio::test]
async fn another_exit_code_is_a_failure_with_the_last_lines_of_stderr() {
    let got = answer(sh("echo hi; echo bad luck >&2; exit 3"), "x").await;
    assert_eq!(failed(&got), "the agent `sh` ended with code 3: bad luck");
    let flood = "i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done; exit 1";
    let got = answer(sh(flood), "x").await;
    assert!(failed(&got).ends_with("line 2999") && failed(&got).len() < 4200, "{got:?}");
}

#[tokio::test]
async fn a_killed_program_is_a_failure_that_names_the_signal() {
    let got = answer(sh("kill -9 $$"), "x").await;
    assert_eq!(failed(&got), "the agent `sh` was ended by SIGKILL");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_failure_that_names_it() {
    let got = answer(Command::new(&settings(&["/nowhere/agent"]), leash()), "x").await;
    assert!(failed(&got).contains("cannot run `/nowhere/agent`: No such file"), "{got:?}");
    let got = answer(Command::new(&settings(&["true"]), "/nowhere/leash".into()), "x").await;
    assert!(failed(&got).starts_with("cannot start the agent `true`"), "{got:?}");
}

#[tokio::test]
async fn a_program_tells_by_an_error_whether_another_try_is_of_use() {
    let script = r#"echo '{"type":"error","text":"busy"}'"#;
    assert_eq!(answer(sh(script), "x").await, Err(AgentError::Failed("busy".to_owned())));
    let script = r#"echo '{"type":"error","text":"never","permanent":true}'; exit 1"#;
    assert_eq!(answer(sh(script), "x").await, Err(AgentError::Permanent("never".to_owned())));
}

#[tokio::test]
async fn a_program_that_says_too_much_is_ended() {
    let got = answer(sh("head -c 2000000 /dev/zero | tr '\\0' x; cat"), "x").await;
    assert!(failed(&got).contains("a line longer than 1 MiB"), "{got:?}");
    let got = answer(sh("yes"), "x").await;
    assert!(failed(&got).contains("more than 8 MiB"), "{got:?}");
}

#[tokio::test]
async fn a_program_that_does_not_read_holds_nobody_up() {
    let (mut turn, _caller) = turn("x");
    turn.history = vec![user(&"y".repeat(2 << 20))];
    assert_eq!(end(start(sh("echo hi"), turn)).await, replies(["hi"]));
}

#[tokio::test]
async fn a_program_that_floods_both_pipes_before_it_reads_holds_nobody_up() {
    let (mut turn, _caller) = turn("x");
    turn.history = vec![user(&"y".repeat(2 << 20))];
    let script = r#"head -c 1000000 /dev/zero | tr '\0' '\n' >&2
        i=0; while [ $i -lt 3000 ]; do echo '{"type":"delta","text":"0123456789"}'; i=$((i+1)); done
        read -r line; echo '{"type":"reply","text":"hi"}'"#;
    assert_eq!(end(start(sh(script), turn)).await, replies(["hi"]));
}

#[tokio::test]
async fn a_program_that_closes_its_pipes_early_is_waited_for() {
    let script = "echo hi; exec <&- >&- 2>&-; sleep 0.2; exit 0";
    assert_eq!(answer(sh(script), "x").await, replies(["hi"]));
    assert!(failed(&answer(sh("exec >&- 2>&-; exit 4"), "x").await).contains("code 4"));
}

#[tokio::test]
async fn a_daemon_that_left_the_group_and_ignores_sigterm_ends_with_the_turn() {
    // The shell between the two has gone before the program ends.
    let said = r#"echo "{\"type\":\"delta\",\"text\":\"$$\"}"
        echo '{"type":"reply","text":"hi"}'; echo '{"type":"done"}'; echo '{"type":"reply","text":"?"}'"#;
    let script = format!("trap '' TERM; {said}; while :; do sleep 600; done");
    let (turn, mut caller) = turn("x");
    let running = start(sh(&script), turn);
    let daemon = process(&caller.delta().await);
    caller.abort.cancel();
    assert!(end(running).await.is_ok());
    assert!(is_gone(daemon));
}

#[tokio::test]
async fn a_daemon_does_not_keep_the_turn_open_when_its_program_has_ended() {
    let script = "(setsid sleep 600 & ) ; echo hi";
    assert_eq!(answer(sh(script), "x").await, replies(["hi"]));
}

#[tokio::test]
async fn a_dropped_turn_ends_its_processes() {
    let (turn, mut caller) = turn("x");
    let running = start(sh(&format!("setsid sh -c '{STUBBORN}' & {STUBBORN}")), turn);
    let both = [process(&caller.delta().await), process(&caller.delta().await)];
    running.abort();
    for id in both {
        gone(id).await;
    }
}

#[tokio::test]
async fn what_a_killed_leash_leaves_is_ended_by_its_mark() {
    let (turn, mut caller) = turn("x");
    let running = start(sh(&format!("(setsid sh -c '{STUBBORN}' &) ; {STUBBORN}")), turn);
    let both = [process(&caller.delta().await), process(&caller.delta().await)];
    let leash = leash_of(both[0].pid.min(both[1].pid));
    rustix::process::kill_process(leash, rustix::process::Signal::KILL).unwrap();
    assert_eq!(failed(&end(running).await), "the agent `sh` was killed");
    for id in both {
        gone(id).await;
    }
}

fn leash_of(program: u32) -> rustix::process::Pid {
    let leash = lockkeeper::sys::tree::parent(program).unwrap();
    rustix::process::Pid::from_raw(leash.try_into().unwrap()).unwrap()
}

/// What is started anew to be a gateway with one turn; `AGENT` is its script. Alone it does nothing.
#[tokio::test]
async fn a_stand_in_for_the_gateway() {
    let Ok(script) = std::env::var("STAND_IN_AGENT") else { return };
    let (turn, mut caller) = turn("x");
    let running = start(sh_within(Timespan::from_secs(600), &script), turn);
    while !running.is_finished() {
        println!("told {}", caller.delta().await);
    }
}

fn stand_in(script: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["agent_command::a_stand_in_for_the_gateway", "--exact", "--nocapture"]);
    command.env("STAND_IN_AGENT", script).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

#[tokio::test]
async fn no_process_of_an_agent_outlives_a_gateway_that_is_killed() {
    let script = format!("(setsid sh -c '{STUBBORN}' & ) ; {STUBBORN}");
    let mut gateway = stand_in(&script).spawn().unwrap();
    let mut lines = BufReader::new(gateway.stdout.take().unwrap()).lines();
    let mut members = Vec::new();
    while members.len() < 2 {
        let line = lines.next_line().await.unwrap().expect("the gateway ended");
        members.extend(line.split_once("told ").map(|(_, pid)| process(pid)));
    }
    let tree = lockkeeper::sys::tree::members(gateway.id().unwrap(), &[]);
    // The leash, the program, its sleep, the daemon and its sleep; some may not be there yet.
    assert!(tree.len() >= 3, "{tree:?}");
    gateway.kill().await.unwrap();
    for id in members.into_iter().chain(tree.into_iter().map(|member| member.id)) {
        gone(id).await;
    }
}

#[tokio::test]
async fn a_program_does_not_see_the_marks_of_the_gateways_parent() {
    let script = "env; echo end of it; cat";
    let mut command = stand_in(script);
    command.env("NOTIFY_SOCKET", "/x").env("LOCKKEEPER_CONTROL", "/y").env("MY_KEY", "kept");
    let mut gateway = command.spawn().unwrap();
    let mut lines = BufReader::new(gateway.stdout.take().unwrap()).lines();
    let mut seen = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if line.contains("end of it") {
            break;
        }
        seen.extend(line.split_once("told ").map(|(_, variable)| variable.to_owned()));
    }
    gateway.kill().await.unwrap();
    assert!(seen.iter().any(|it| it == "MY_KEY=kept"), "{seen:?}");
    assert!(!seen.iter().any(|it| it.starts_with("NOTIFY") || it.contains("_CONTROL")), "{seen:?}");
}

#[tokio::test]
async fn the_example_of_the_guide_answers_takes_a_message_and_ends_on_abort() {
    let guide = include_str!("../../docs/agents.md");
    let (_, rest) = guide.split_once("```python\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let agent = || {
        Command::new(&settings(&["python3", "-c", example]), leash())
            .with_grace(Duration::from_secs(20))
    };
    assert_eq!(answer(agent(), "hi").await, replies(["You said: hi"]));
    let (turn, mut caller) = turn("wait");
    let running = start(agent(), turn);
    assert_eq!(caller.delta().await, "Waiting");
    caller.steer.send("go".into()).await.unwrap();
    assert_eq!(end(running).await, replies(["You said: wait, then: go"]));
}
