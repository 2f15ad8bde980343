//! The chat page, in a real browser. A [`Target`] is what it talks to: a fake that misbehaves, or
//! a gateway under its supervisor.

#[path = "../support/browser.rs"]
mod browser;
#[path = "../support/ws_fake.rs"]
mod ws_fake;

use std::{path::PathBuf, time::Duration};

use browser::Browser;
use serde_json::{Value, json};
use thirtyfour::{
    common::command::{Command, ExtensionCommand},
    prelude::*,
};
use tokio::time::{sleep, timeout};
use ws_fake::{Fake, Manner, REFUSED_ONCE, TOKEN};

use crate::gateway_rig::{GatewayRig, Running};

/// A gateway that serves the page.
trait Target {
    /// Of the page, ending in `/`.
    fn url(&self) -> String;
    fn token(&self) -> String;
    /// Goes down and comes up again, at the same address.
    async fn restart(&mut self);
}

impl Target for Fake {
    fn url(&self) -> String {
        Self::url(self)
    }

    fn token(&self) -> String {
        TOKEN.to_owned()
    }

    async fn restart(&mut self) {
        Self::restart(self).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_typed_line_gets_its_one_answer_in_order_across_five_restarts() {
    let mut fake = Fake::start(Manner::Bad).await;
    let typed = converse_across_restarts(&mut fake, "page-across-restarts").await;
    assert_eq!(fake.accepted().await, typed, "the gateway got each line once, in order");
}

impl Target for Running {
    fn url(&self) -> String {
        format!("http://{}/", self.rig.address())
    }

    fn token(&self) -> String {
        self.rig.token()
    }

    async fn restart(&mut self) {
        Self::restart(self).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_loses_and_doubles_no_line_while_lockkeeper_restarts_its_gateway_five_times() {
    let mut gateway = GatewayRig::new().start().await;
    let typed = converse_across_restarts(&mut gateway, "page-across-real-restarts").await;
    assert_eq!(gateway.status().await["generation"], 6, "five restarts");

    let mut person = gateway.person();
    let history = person.request("chat.history", json!({ "limit": 1000 })).await;
    let kept = history["messages"].as_array().unwrap();
    let of = |role: &str| -> Vec<_> {
        let lines = kept.iter().filter(|line| line["role"] == role);
        lines.map(|line| line["text"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("user"), typed, "the journal has each line once");
    assert_eq!(of("assistant"), typed, "and one answer to each");
}

/// A person types 20 lines, and the gateway restarts after each fourth, at once.
async fn converse_across_restarts(target: &mut impl Target, picture: &str) -> Vec<String> {
    let browser = Browser::start().await;
    open(&browser, target).await;
    let typed: Vec<_> = (1..=20).map(|number| format!("line {number} of the person")).collect();
    for (place, line) in typed.iter().enumerate() {
        say(&browser, line).await;
        if place % 4 == 2 {
            target.restart().await;
        }
    }
    let expected: Vec<_> =
        typed.iter().flat_map(|line| [("line", line), ("reply", line)]).collect();
    until(&browser, "each line has its answer below it, and nothing else is there", async |it| {
        let said = conversation(it).await;
        said.iter().map(|(kind, text)| (kind.as_str(), text)).eq(expected.iter().copied())
    })
    .await;
    keep_picture(&browser, picture).await;
    browser.quit().await;
    typed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_loaded_anew_has_lost_no_unsent_line_and_shows_the_history() {
    let mut fake = Fake::start(Manner::Good).await;
    let browser = Browser::start().await;
    open(&browser, &fake).await;
    say(&browser, "before").await;
    until_said(&browser, &[("line", "before"), ("reply", "before")]).await;

    // The page itself must come from somewhere: it is there, its socket is not.
    script(&browser, "window.stop(); globalThis.WebSocket.prototype.send = () => {};", vec![])
        .await;
    say(&browser, "unsent <b>&amp;</b>").await;
    until(&browser, "it is being sent", async |it| state_of_last(it).await == "sending").await;
    browser.page.refresh().await.unwrap();
    let after = "unsent <b>&amp;</b>";
    until_said(
        &browser,
        &[("line", "before"), ("reply", "before"), ("line", after), ("reply", after)],
    )
    .await;
    fake.down().await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_leaves_the_address_bar_and_a_wrong_one_is_asked_for() {
    let fake = Fake::start(Manner::Good).await;
    let browser = Browser::start().await;
    browser.page.goto(format!("{}#token=wrong", fake.url())).await.unwrap();
    until(&browser, "it asks", async |it| is_shown(it, "#sign-in").await).await;
    assert_eq!(browser.page.current_url().await.unwrap().as_str(), fake.url());
    assert_eq!(text_of(&browser, "#wrong").await, "the token is wrong");
    keep_picture(&browser, "page-sign-in").await;

    browser.page.find(By::Css("#token")).await.unwrap().send_keys(TOKEN).await.unwrap();
    browser.page.find(By::Css("#sign-in button")).await.unwrap().click().await.unwrap();
    until(&browser, "it is connected", async |it| text_of(it, "#connection").await == "Connected")
        .await;
    browser.page.refresh().await.unwrap();
    until(&browser, "it still knows", async |it| text_of(it, "#connection").await == "Connected")
        .await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_tells_what_goes_on_and_looks_as_it_should() {
    let mut fake = Fake::start(Manner::Slow).await;
    let browser = Browser::start().await;
    open(&browser, &fake).await;
    keep_picture(&browser, "page-idle").await;

    say(&browser, "What is the state of things?\u{e008}\u{e007}\u{e008}Say it in two lines.").await;
    until(&browser, "a draft", async |it| is_shown(it, ".draft").await).await;
    until(&browser, "it is accepted", async |it| state_of_last(it).await == "accepted").await;
    let said = conversation(&browser).await;
    assert_eq!(said[0].1, "What is the state of things?\nSay it in two lines.");

    browser.page.find(By::Css("#toggle")).await.unwrap().click().await.unwrap();
    until(&browser, "the figures", async |it| text_of(it, "#figures").await.contains("telegram"))
        .await;
    keep_picture(&browser, "page-status-light").await;
    in_colours(&browser, "dark").await;
    keep_picture(&browser, "page-status-dark").await;
    browser.page.find(By::Css("#toggle")).await.unwrap().click().await.unwrap();

    fake.announce(Some(12_000));
    fake.tell("drain", json!({ "step": "waiting for 2 turns" }));
    until(&browser, "a countdown and the drain", async |it| {
        let told = text_of(it, "#alert").await;
        told.starts_with("Restarting, back in about ")
            && told.ends_with("Draining: waiting for 2 turns.")
    })
    .await;
    keep_picture(&browser, "page-restarting-dark").await;
    in_colours(&browser, "light").await;
    keep_picture(&browser, "page-restarting-light").await;
    narrow(&browser).await;
    keep_picture(&browser, "page-restarting-360").await;

    fake.tell("resumed", json!({}));
    until(&browser, "all is well", async |it| !is_shown(it, "#alert").await).await;
    browser.page.find(By::Css("#toggle")).await.unwrap().click().await.unwrap();
    until(&browser, "the figures", async |it| text_of(it, "#figures").await.contains("Journal"))
        .await;
    keep_picture(&browser, "page-status-360").await;
    let overflow = "return document.documentElement.scrollWidth - innerWidth";
    assert!(script(&browser, overflow, vec![]).await.as_i64().unwrap() <= 0, "wider than 360 px");
    browser.page.find(By::Css("#toggle")).await.unwrap().click().await.unwrap();

    fake.announce(None);
    until(&browser, "it stops", async |it| text_of(it, "#connection").await == "Stopped").await;
    fake.down().await;
    until(&browser, "attempts are counted", async |it| {
        text_of(it, "#alert").await.contains("failed, next in")
    })
    .await;
    say(&browser, "Said while it is away.").await;
    keep_picture(&browser, "page-stopped-360").await;
    browser.quit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_line_says_why_and_can_be_sent_again() {
    let fake = Fake::start(Manner::Good).await;
    let browser = Browser::start().await;
    open(&browser, &fake).await;
    say(&browser, REFUSED_ONCE).await;
    until(&browser, "it is refused", async |it| state_of_last(it).await == "refused").await;
    assert!(text_of(&browser, ".state").await.starts_with("refused: not this"));
    keep_picture(&browser, "page-refused").await;
    browser.page.find(By::Css("[data-act=retry]")).await.unwrap().click().await.unwrap();
    until_said(&browser, &[("line", REFUSED_ONCE), ("reply", REFUSED_ONCE)]).await;
    browser.quit().await;
}

async fn open(browser: &Browser, target: &impl Target) {
    let address = format!("{}#token={}", target.url(), target.token().replace(' ', "%20"));
    browser.page.goto(address).await.unwrap();
    until(browser, "it is connected", async |it| text_of(it, "#connection").await == "Connected")
        .await;
}

async fn say(browser: &Browser, line: &str) {
    let text = browser.page.find(By::Css("#text")).await.unwrap();
    text.send_keys(format!("{line}\u{e007}")).await.unwrap();
}

/// `(kind, text)` of all that stands there.
async fn conversation(browser: &Browser) -> Vec<(String, String)> {
    let all = "return [...document.querySelectorAll('#lines > li')]
        .map((it) => [it.className, it.querySelector('.text').textContent])";
    serde_json::from_value(script(browser, all, vec![]).await).unwrap()
}

async fn until_said(browser: &Browser, expected: &[(&str, &str)]) {
    until(browser, "what is said", async |it| {
        let said = conversation(it).await;
        said.iter().map(|(kind, text)| (kind.as_str(), text.as_str())).eq(expected.iter().copied())
    })
    .await;
}

async fn state_of_last(browser: &Browser) -> String {
    let last = "return [...document.querySelectorAll('.line')].at(-1)?.dataset.state ?? ''";
    script(browser, last, vec![]).await.as_str().unwrap().to_owned()
}

async fn text_of(browser: &Browser, css: &str) -> String {
    let text = "return document.querySelector(arguments[0])?.textContent ?? ''";
    script(browser, text, vec![json!(css)]).await.as_str().unwrap().to_owned()
}

async fn is_shown(browser: &Browser, css: &str) -> bool {
    let shown = "return document.querySelector(arguments[0])?.checkVisibility() ?? false";
    script(browser, shown, vec![json!(css)]).await.as_bool().unwrap()
}

async fn script(browser: &Browser, script: &str, arguments: Vec<Value>) -> Value {
    browser.page.execute(script, arguments).await.unwrap().json().clone()
}

/// A browser cannot be awaited from here: it is asked, until the limit.
async fn until(browser: &Browser, what: &str, holds: impl AsyncFn(&Browser) -> bool) {
    let asked = async {
        while !holds(browser).await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(Duration::from_secs(30), asked).await.is_err() {
        keep_picture(browser, "page-failed").await;
        panic!("not so: {what}\n{:#?}", conversation(browser).await);
    }
}

/// Kept for people: `--nocapture` tells where.
async fn keep_picture(browser: &Browser, name: &str) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.png"));
    browser.page.screenshot(&path).await.unwrap();
    println!("a picture: {}", path.display());
}

async fn in_colours(browser: &Browser, scheme: &str) {
    let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
    devtools(browser, "Emulation.setEmulatedMedia", media).await;
}

async fn narrow(browser: &Browser) {
    let metrics = json!({ "width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": true });
    devtools(browser, "Emulation.setDeviceMetricsOverride", metrics).await;
}

/// What WebDriver has no word for.
async fn devtools(browser: &Browser, command: &'static str, params: Value) {
    browser
        .page
        .cmd(Command::ExtensionCommand(Box::new(DevTools { command, params })))
        .await
        .unwrap();
}

#[derive(Debug)]
struct DevTools {
    command: &'static str,
    params: Value,
}

impl ExtensionCommand for DevTools {
    fn parameters_json(&self) -> Option<Value> {
        Some(json!({ "cmd": self.command, "params": self.params }))
    }

    fn method(&self) -> axum::http::Method {
        axum::http::Method::POST
    }

    fn endpoint(&self) -> std::sync::Arc<str> {
        "/goog/cdp/execute".into()
    }
}
