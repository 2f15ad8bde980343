//! A journal that was damaged between two lives, or cut off in the midst of one.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;

use super::live::Home;

/// A home with a journal of many pages, all of them in the file itself.
async fn filled() -> Home {
    let home = Home::new("");
    let gateway = home.start();
    let posts = (0..40).map(async |number| {
        let body = json!({ "id": format!("old-{number}"), "text": "x".repeat(2000) });
        // Who waits for the answer has a turn behind it in the journal.
        let gateway = &gateway;
        assert_eq!(gateway.post(&body).await.status(), 200);
    });
    join_all(posts).await;
    gateway.stop();
    home
}

fn overwrite(path: &Path, from: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(from)).unwrap();
    file.write_all(bytes).unwrap();
}

#[tokio::test]
async fn a_damaged_journal_is_set_aside_whole_and_told_by_name_and_a_new_one_serves() {
    let damages: [fn(&Path); 6] = [
        |path| overwrite(path, 0, &[0xa5; 100]),
        |path| overwrite(path, 0, b"MZ"),
        |path| fs::File::options().write(true).open(path).unwrap().set_len(10_000).unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| fs::write(path, "no database at all").unwrap(),
        |path| {
            let pages = fs::metadata(path).unwrap().len() / 4096;
            for page in 1..pages {
                overwrite(path, page * 4096, &[0x5a; 512]);
            }
        },
    ];
    let whole = filled().await;
    for (number, damage) in damages.into_iter().enumerate() {
        let home = Home::new("");
        fs::create_dir(home.state()).unwrap();
        fs::copy(whole.journal(), home.journal()).unwrap();
        damage(&home.journal());
        let damaged = fs::read(home.journal()).unwrap();

        let gateway = home.start();
        let aside = home.aside();
        let [aside] = aside.as_slice() else { panic!("{number}: {aside:?}") };
        assert!(fs::read(aside).unwrap() == damaged, "{number}: it is kept as it was");
        assert_eq!(fs::metadata(aside).unwrap().permissions().mode() & 0o77, 0, "{number}");
        let name = aside.file_name().unwrap().to_str().unwrap();
        assert!(gateway.said().contains(name), "{number}: {}", gateway.said());
        let status = gateway.status().await;
        assert!(status["warnings"][0].as_str().unwrap().contains(name), "{number}: {status}");
        assert!(home.says(&["status"]).contains(name), "{number}");
        gateway.still_answers().await;
        gateway.stop();

        // It is said by the life that found it, and the new journal is sound.
        let next = home.start();
        assert_eq!(next.status().await["warnings"], json!([]), "{number}");
        assert_eq!(home.aside().len(), 1, "{number}");
        next.still_answers().await;
    }
}

#[tokio::test]
async fn no_second_damaged_journal_takes_the_place_of_the_first() {
    let home = Home::new("");
    home.start().stop();
    for number in 1..=3 {
        fs::write(home.journal(), format!("damaged {number}")).unwrap();
        home.start().stop();
        assert_eq!(home.aside().len(), number);
    }
    let mut kept: Vec<_> =
        home.aside().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    kept.sort();
    assert_eq!(kept, ["damaged 1", "damaged 2", "damaged 3"]);
    home.start().still_answers().await;
}

#[tokio::test]
async fn a_log_of_garbage_is_set_aside_with_its_journal_and_not_passed_over_without_a_word() {
    let home = filled().await;
    let mut log = home.journal().into_os_string();
    log.push("-wal");
    assert!(
        !Path::new(&log).exists(),
        "what a gateway that stopped has accepted is in the journal"
    );
    fs::write(&log, vec![0xa5; 100_000]).unwrap();
    let gateway = home.start();
    let aside = home.aside();
    let [aside] = aside.as_slice() else { panic!("{aside:?}") };
    assert!(gateway.said().contains("its log does not begin"), "{}", gateway.said());
    let mut kept = aside.clone().into_os_string();
    kept.push("-wal");
    assert!(fs::read(kept).unwrap() == vec![0xa5; 100_000], "it is kept as it was");
    gateway.still_answers().await;
}

#[tokio::test]
async fn a_folder_or_a_link_in_the_journals_place_is_refused_in_words_and_not_followed() {
    let elsewhere = filled().await;
    let before = fs::read(elsewhere.journal()).unwrap();
    let places: [fn(&Path, &Path); 3] = [
        |path, _| fs::create_dir(path).unwrap(),
        |path, target| symlink(target, path).unwrap(),
        |path, _| symlink("/nowhere/at/all", path).unwrap(),
    ];
    for (number, put) in places.into_iter().enumerate() {
        let home = Home::new("");
        home.start().stop();
        fs::remove_file(home.journal()).unwrap();
        put(&home.journal(), &elsewhere.journal());
        let Err(refused) = home.try_start() else { panic!("{number}: it serves") };
        assert!(!refused.status.success() && refused.status.code().is_some(), "{number}");
        assert!(refused.said.contains("journal.db"), "{number}: {}", refused.said);
        assert!(refused.said.contains("is no plain file"), "{number}: {}", refused.said);
        assert!(fs::symlink_metadata(home.journal()).is_ok(), "{number}: it stays");
        assert!(home.aside().is_empty(), "{number}");
        // It is moved away, as the words say.
        fs::rename(home.journal(), home.path().join("moved")).unwrap();
        home.start().still_answers().await;
    }
    assert!(fs::read(elsewhere.journal()).unwrap() == before, "nobody wrote through the link");
}

#[tokio::test]
async fn what_was_acknowledged_before_a_sigkill_is_answered_after_it() {
    let home = Home::new("");
    let gateway = std::sync::Arc::new(home.start());
    let mut posts = JoinSet::new();
    for number in 0..100 {
        let gateway = gateway.clone();
        posts.spawn(async move {
            let body = json!({ "id": number.to_string(), "text": format!("text {number}") });
            let headers = format!("authorization: Bearer {}\r\n", super::live::BEARER);
            let body = body.to_string();
            let answer = gateway.post_with("/hooks/ci", &headers, body.as_bytes()).await;
            assert_eq!(answer.status(), 202, "{answer:?}");
            number
        });
    }
    // In the midst of it: the turns of those acknowledged are under way.
    let mut acknowledged = Vec::new();
    while acknowledged.len() < 50 {
        acknowledged
            .push(posts.join_next().await.expect("there are more").expect("it is accepted"));
    }
    gateway.signal(rustix::process::Signal::KILL);
    while let Some(post) = posts.join_next().await {
        // Those that the kill cut off were told nothing.
        acknowledged.extend(post.ok());
    }
    drop(gateway);

    let gateway = home.start();
    for number in acknowledged {
        let body = json!({ "id": number.to_string(), "text": "the same again" });
        let answer = gateway.post(&body).await;
        let told = answer.json();
        assert_eq!(answer.status(), 200, "{told}");
        assert_eq!(told["duplicate"], true, "{told}");
        assert_eq!(told["replies"].as_array().map(Vec::len), Some(1), "{told}");
        assert_eq!(told["replies"][0]["text"], format!("text {number}"), "{told}");
    }
    gateway.still_answers().await;
}
