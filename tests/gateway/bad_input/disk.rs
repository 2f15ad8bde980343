//! Disks that are full, or that cannot be written.

use std::{fs, time::Instant};

use serde_json::json;

use super::live::{BEARER, Home};
use crate::http::LONG;

#[tokio::test]
async fn on_a_full_disk_messages_are_refused_aloud_what_is_accepted_stays_and_with_room_it_goes_on()
{
    let home = Home::new("");
    let script = "mkdir -m 700 \"$STATE\" && mount -t tmpfs -o size=32m,mode=700 tmpfs \"$STATE\" \
        && head -c 31000000 /dev/zero > \"$STATE/ballast\"";
    let Some(started) = home.try_start_mounted(script) else { return };
    let gateway = started.unwrap_or_else(|refused| panic!("{}", refused.said));
    let headers = format!("authorization: Bearer {BEARER}\r\n");
    let mut accepted = 0;
    let refused = loop {
        let body = json!({ "id": accepted.to_string(), "text": "x".repeat(100_000) }).to_string();
        let answer = gateway.post_with("/hooks/ci", &headers, body.as_bytes()).await;
        if answer.status() != 202 {
            break answer;
        }
        accepted += 1;
        assert!(accepted < 100, "the disk has no end");
    };
    assert!(accepted > 0);
    assert_eq!(refused.status(), 503, "{refused:?}");
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    let ready = gateway.head("/readyz", "").await;
    assert_eq!(ready.status(), 503);
    assert!(ready.json()["reason"].as_str().unwrap().starts_with("journal: "), "{ready:?}");
    assert_eq!(gateway.head("/healthz", "").await.status(), 200, "it lives");
    for id in 0..accepted {
        let told = gateway.head(&format!("/hooks/ci/{id}"), &headers).await;
        assert_eq!(told.status(), 200, "{told:?}");
    }
    assert!(gateway.said().contains("nothing can be accepted"), "{}", gateway.said());

    // Its disk, as it sees it.
    let ballast = home.state().join("ballast");
    let ballast = format!("/proc/{}/root{}", gateway.pid(), ballast.display());
    fs::remove_file(ballast).unwrap();
    let began = Instant::now();
    while gateway.head("/readyz", "").await.status() != 200 {
        assert!(began.elapsed() < LONG, "it does not go on: {}", gateway.said());
        tokio::task::yield_now().await;
    }
    for id in 0..accepted {
        let body = json!({ "id": id.to_string(), "text": "again" });
        let told = gateway.post(&body).await;
        assert_eq!(told.json()["status"], "answered", "{:.300}", told.json());
    }
    gateway.still_answers().await;
    let said = gateway.said();
    assert!(said.lines().count() < 200, "{said}");
}

#[tokio::test]
async fn on_a_disk_that_cannot_be_written_it_does_not_start_and_says_why() {
    let home = Home::new("");
    home.start().stop();
    let script = "mount --bind \"$STATE\" \"$STATE\" && mount -o remount,bind,ro \"$STATE\"";
    let Some(started) = home.try_start_mounted(script) else { return };
    let Err(refused) = started else { panic!("it serves") };
    assert!(refused.status.code().is_some_and(|code| code != 0), "{}", refused.status);
    assert!(refused.said.contains("Read-only file system"), "{}", refused.said);
    assert!(refused.said.contains(home.state().to_str().unwrap()), "{}", refused.said);
    assert!(home.aside().is_empty(), "nothing is set aside");
    home.start().still_answers().await;
}

#[tokio::test]
async fn on_a_disk_without_any_room_it_does_not_start_and_says_why() {
    let home = Home::new("");
    let script = "mkdir -m 700 \"$STATE\" && mount -t tmpfs -o size=64k,mode=700 tmpfs \"$STATE\" \
        && ! head -c 500000 /dev/zero 2>/dev/null > \"$STATE/ballast\"";
    let Some(started) = home.try_start_mounted(script) else { return };
    let Err(refused) = started else { panic!("it serves") };
    assert!(refused.status.code().is_some_and(|code| code != 0), "{}", refused.status);
    let told = refused.said.to_lowercase();
    assert!(told.contains("space") || told.contains("full"), "{told}");
    assert!(told.contains(&home.state().to_str().unwrap().to_lowercase()), "{told}");
}
