//! The file, what is in force, and what is between; with a real folder that is watched.
#![allow(clippy::unwrap_used, reason = "a test may panic, in what it shares, too")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use lockkeeper::gateway::config::{
    file::{ConfigFile, ContentHash},
    merge::Comments,
    store::{Change, Changes, ConfigRefused, Looked, News, Source, Store, Whole},
    watch::Watch,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a config in it, opened.
struct Lab {
    folder: TempDir,
    path: PathBuf,
    store: Store,
    changes: Changes,
}

impl Lab {
    fn new(text: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("gateway.toml");
        fs::write(&path, text).unwrap();
        Self::open(folder, path)
    }

    fn open(folder: TempDir, path: PathBuf) -> Self {
        let file = ConfigFile::new(Some(path.clone())).unwrap();
        let (store, changes) = Store::open(file).unwrap();
        Self { folder, path, store, changes }
    }

    /// As a write of somebody else that was seen.
    async fn edit(&self, text: &str) -> Looked {
        fs::write(&self.path, text).unwrap();
        self.store.look(None).await
    }

    async fn news(&mut self) -> News {
        let limit = Duration::from_secs(30);
        tokio::time::timeout(limit, self.changes.next()).await.expect("news within 30 s")
    }

    async fn changed(&mut self) -> Change {
        match self.news().await {
            News::Changed(change) => change,
            other => panic!("no change: {other:?}"),
        }
    }

    /// That nothing is left to be told: a change that is made now is the next.
    async fn nothing_else(&mut self) {
        let model = format!("m{}", self.store.get().await.hash.short());
        let patch = json!({"agent": {"model": model}});
        self.store.patch(self.hash().await, patch).await.unwrap();
        let change = self.changed().await;
        assert_eq!(change.new.agent.model, model);
        self.store.in_force(&change).await;
    }

    async fn hash(&self) -> ContentHash {
        self.store.get().await.hash
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }
}

fn paths(change: &Change) -> Vec<&str> {
    let plan = &change.plan;
    plan.restart.iter().map(String::as_str).chain(plan.taken_up()).collect()
}

#[tokio::test]
async fn a_patch_is_written_and_told_at_once_as_our_own() {
    let mut lab = Lab::new("# ours\n[agent]\nmodel = 'a' # it\n");
    let base = lab.hash().await;
    let written = lab.store.patch(base, json!({"agent": {"model": "b"}})).await.unwrap();
    assert_eq!(written.comments, Comments::Kept);
    assert_eq!(paths(&written.change), ["agent.model"]);
    assert_eq!(lab.text(), "# ours\n[agent]\nmodel = \"b\" # it\n");

    let change = lab.changed().await;
    assert_eq!((change.source, &change.hash), (Source::Own, &lab.hash().await));
    assert_eq!((change.old.agent.model.as_str(), change.new.agent.model.as_str()), ("a", "b"));
    // It is not in force until the gateway says so.
    assert_eq!(lab.store.config().agent.model, "a");
    lab.store.in_force(&change).await;
    assert_eq!(lab.store.config().agent.model, "b");
}

#[tokio::test]
async fn an_own_write_is_known_by_its_hash_and_not_told_again() {
    let mut lab = Lab::new("");
    lab.store.patch(lab.hash().await, json!({"agent": {"model": "b"}})).await.unwrap();
    lab.changed().await;
    assert_eq!(lab.store.look(None).await, Looked::Known);
    lab.nothing_else().await;
}

#[tokio::test]
async fn a_stale_hash_is_refused_with_the_present_one_and_nothing_is_written() {
    let lab = Lab::new("agent.model = 'a'");
    let stale = lab.hash().await;
    // Also where nobody has looked at the file since.
    fs::write(&lab.path, "agent.model = 'b'").unwrap();
    let refused = lab.store.patch(stale.clone(), json!({"agent": {"model": "c"}})).await;
    let Err(ConfigRefused::Conflict { present }) = &refused else { panic!("{refused:?}") };
    assert_eq!(present, &ContentHash::of(b"agent.model = 'b'"));
    assert!(refused.as_ref().unwrap_err().to_string().contains(present.as_str()));
    assert_eq!(lab.text(), "agent.model = 'b'");
    let refused = lab.store.apply(stale, Whole::Text(String::new())).await;
    assert!(matches!(refused, Err(ConfigRefused::Conflict { .. })));
    lab.store.patch(present.clone(), json!({"agent": {"model": "c"}})).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_with_its_key_and_nothing_is_written() {
    let mut lab = Lab::new("agent.model = 'a'");
    for (patch, told) in [
        (json!({"agent": {"modle": "b"}}), "did you mean `model`"),
        (json!({"agent": {"kind": "command"}}), "agent.command: must name a program"),
        (json!({"server": {"token": "<hidden>"}}), "server.token: is the mark"),
        (json!([]), "must be an object"),
    ] {
        let error = lab.store.patch(lab.hash().await, patch).await.unwrap_err();
        assert!(matches!(error, ConfigRefused::Invalid(_)));
        let error = error.to_string();
        assert!(error.contains(told) && error.contains("gateway.toml"), "{error}");
    }
    let text = Whole::Text("agent = {".to_owned());
    let error = lab.store.apply(lab.hash().await, text).await.unwrap_err().to_string();
    assert!(error.contains("gateway.toml:1:"), "{error}");
    assert_eq!(lab.text(), "agent.model = 'a'");
    lab.nothing_else().await;
}

#[tokio::test]
async fn apply_replaces_the_whole_as_a_text_or_as_values() {
    let mut lab = Lab::new("agent.model = 'a'\nserver.token = 's3cr3t'\n");
    let text = "# new\ninbound.queue = 5\nserver.token = 's3cr3t'\n";
    lab.store.apply(lab.hash().await, Whole::Text(text.to_owned())).await.unwrap();
    assert_eq!(lab.text(), text);
    let change = lab.changed().await;
    assert_eq!(paths(&change), ["agent.model", "inbound.queue"]);

    // What a client was shown can be sent back: the secret is what it was.
    let mut shown = lab.store.get().await;
    assert_eq!(shown.config["server"]["token"], "<hidden>");
    shown.config["inbound"]["queue"] = json!(6);
    prune(&mut shown.config);
    lab.store.apply(shown.hash, Whole::Value(shown.config)).await.unwrap();
    let change = lab.changed().await;
    assert_eq!(change.new.inbound.queue, 6);
    assert_eq!(change.new.server.token, change.old.server.token);
    assert!(lab.text().contains("s3cr3t"));
}

/// TOML has no null.
fn prune(value: &mut Value) {
    if let Value::Object(object) = value {
        object.retain(|_, value| !value.is_null());
        object.values_mut().for_each(prune);
    }
}

#[tokio::test]
async fn what_is_shown_to_clients_has_no_secret_and_the_hash_of_the_file() {
    let lab = Lab::new("server.token = 's3cr3t'");
    let shown = lab.store.get().await;
    assert!(!json!(shown).to_string().contains("s3cr3t"));
    assert_eq!(shown.hash, ContentHash::of(b"server.token = 's3cr3t'"));
    assert_eq!((shown.problem, &shown.path), (None, &lab.path));
    // A file that cannot be used: its own hash, so that it can be replaced, and what is wrong.
    fs::write(&lab.path, "agent = 3").unwrap();
    let shown = lab.store.get().await;
    assert_eq!(shown.hash, ContentHash::of(b"agent = 3"));
    assert!(shown.problem.unwrap().contains(":1:1: agent: "));
    lab.store.apply(shown.hash, Whole::Text("agent.model = 'x'".to_owned())).await.unwrap();
}

#[tokio::test]
async fn where_there_is_no_file_a_patch_makes_one() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gateway.toml");
    fs::write(&path, "").unwrap();
    let lab = Lab::open(folder, path);
    fs::remove_file(&lab.path).unwrap();
    assert_eq!(lab.hash().await, ContentHash::missing());
    let patch = json!({"inbound": {"queue": 3}});
    lab.store.patch(ContentHash::missing(), patch).await.unwrap();
    assert_eq!(lab.text(), "[inbound]\nqueue = 3\n");
}

#[tokio::test]
async fn an_invalid_file_changes_nothing_and_is_reported_once_with_line_and_key() {
    let mut lab = Lab::new("agent.model = 'a'");
    assert_eq!(lab.edit("\nagent.modle = 'b'").await, Looked::Unusable);
    let News::Refused(error) = lab.news().await else { panic!("it is not reported") };
    assert!(error.to_string().contains("gateway.toml:2:7: agent.modle: "), "{error}");
    assert_eq!(lab.store.config().agent.model, "a");
    assert_eq!(lab.store.problem().unwrap().to_string(), error.to_string());
    // The same content again is no news.
    assert_eq!(lab.store.look(None).await, Looked::Unusable);
    // Another is.
    assert_eq!(lab.edit("agent.model = 3").await, Looked::Unusable);
    let News::Refused(error) = lab.news().await else { panic!("it is not reported") };
    assert!(error.to_string().contains("agent.model: "), "{error}");
    // And so is that the file can be used again, if it says something new.
    assert_eq!(lab.edit("agent.model = 'c'").await, Looked::New);
    assert_eq!(lab.changed().await.new.agent.model, "c");
    assert!(lab.store.problem().is_none());
}

#[tokio::test]
async fn a_file_that_is_gone_changes_nothing_and_is_reported() {
    let mut lab = Lab::new("agent.model = 'a'");
    fs::remove_file(&lab.path).unwrap();
    assert_eq!(lab.store.look(None).await, Looked::Unusable);
    let News::Refused(error) = lab.news().await else { panic!("it is not reported") };
    assert!(error.to_string().ends_with("gateway.toml: there is no such file"), "{error}");
    assert_eq!(lab.store.config().agent.model, "a");
    // Back as it was: nothing to tell.
    assert_eq!(lab.edit("agent.model = 'a'").await, Looked::Known);
    lab.nothing_else().await;
}

#[tokio::test]
async fn several_edits_become_one_change_from_what_is_in_force() {
    let mut lab = Lab::new("agent.model = 'a'");
    lab.edit("agent.model = 'b'").await;
    lab.edit("agent.model = 'c'\ninbound.queue = 2").await;
    let change = lab.changed().await;
    assert_eq!((change.old.agent.model.as_str(), change.new.agent.model.as_str()), ("a", "c"));
    assert_eq!(
        (paths(&change), change.source),
        (vec!["agent.model", "inbound.queue"], Source::File)
    );
    lab.store.in_force(&change).await;
    lab.nothing_else().await;
}

#[tokio::test]
async fn another_comment_is_no_change() {
    let mut lab = Lab::new("agent.model = 'a'");
    assert_eq!(lab.edit("agent.model = 'a' # it").await, Looked::New);
    lab.nothing_else().await;
}

#[tokio::test]
async fn a_change_that_needs_a_restart_stays_outstanding_until_the_next_life() {
    let mut lab = Lab::new("");
    lab.edit("server.max_connections = 7\nagent.model = 'b'").await;
    let change = lab.changed().await;
    lab.store.in_force(&change).await;
    // What is hot is in force, the rest is not.
    assert_eq!(lab.store.config().agent.model, "b");
    assert_eq!(lab.store.config().server.max_connections, 4096);
    assert_eq!(lab.store.outstanding().restart, ["server.max_connections"]);
    assert_eq!(lab.store.begin().await.server.max_connections, 7);
    assert!(lab.store.outstanding().is_empty());
    lab.nothing_else().await;
}

#[tokio::test]
async fn an_edit_taken_back_is_told_with_the_id_of_what_was_pending() {
    let mut lab = Lab::new("");
    lab.edit("server.max_connections = 7").await;
    let id = lab.changed().await.id;
    // Another that needs a restart has the same id: the last one taken back takes back all.
    lab.edit("server.max_connections = 8\nagent.model = 'b'").await;
    assert_eq!(lab.changed().await.id, id);
    // The restart is not needed any more, the rest is told after that.
    lab.edit("agent.model = 'b'").await;
    let News::Reverted { id: reverted } = lab.news().await else { panic!("it is not told") };
    assert_eq!(reverted, id);
    let change = lab.changed().await;
    assert_eq!(paths(&change), ["agent.model"]);
    lab.store.in_force(&change).await;
    lab.nothing_else().await;
}

#[tokio::test]
async fn an_edit_wholly_taken_back_is_told_and_nothing_else() {
    let mut lab = Lab::new("");
    lab.edit("server.max_connections = 7").await;
    let id = lab.changed().await.id;
    lab.edit("").await;
    let News::Reverted { id: reverted } = lab.news().await else { panic!("it is not told") };
    assert_eq!(reverted, id);
    lab.nothing_else().await;
}

#[tokio::test]
async fn the_last_good_copy_is_what_was_in_force_as_a_whole() {
    let mut lab = Lab::new("agent.model = 'a'");
    let kept = lab.store.file().last_good();
    assert_eq!(kept, lab.folder.path().join("gateway.toml.last-good"));
    assert!(!kept.exists());
    lab.store.started().await;
    let read = || fs::read_to_string(&kept).unwrap();
    assert_eq!(read(), "agent.model = 'a'");
    lab.edit("agent.model = 'b'").await;
    let change = lab.changed().await;
    assert_eq!(read(), "agent.model = 'a'");
    lab.store.in_force(&change).await;
    assert_eq!(read(), "agent.model = 'b'");
    // A part is not enough, nor is a file that cannot be used.
    lab.edit("agent.model = 'c'\njournal.sync = false").await;
    let change = lab.changed().await;
    lab.store.in_force(&change).await;
    lab.edit("agent.model =").await;
    lab.store.started().await;
    assert_eq!(read(), "agent.model = 'b'");
}

#[tokio::test]
async fn a_mode_that_takes_up_nothing_leaves_all_for_the_next_start() {
    let mut lab = Lab::new("reload.mode = 'off'");
    lab.edit("reload.mode = 'off'\nagent.model = 'b'\njournal.sync = false").await;
    let change = lab.changed().await;
    assert_eq!(change.plan.later, ["agent.model", "journal.sync"]);
    lab.store.in_force(&change).await;
    assert_eq!(lab.store.config().agent.model, "");
    // As soon as the file says otherwise, it is taken up.
    lab.edit("agent.model = 'b'").await;
    assert_eq!(paths(&lab.changed().await), ["agent.model", "reload.mode"]);
}

#[tokio::test]
async fn two_clients_with_the_same_base_cannot_both_write() {
    let lab = Lab::new("");
    let base = lab.hash().await;
    let patch = |n| lab.store.patch(base.clone(), json!({"inbound": {"queue": n}}));
    let (a, b, c) = tokio::join!(patch(1), patch(2), patch(3));
    let written = [a.is_ok(), b.is_ok(), c.is_ok()];
    assert_eq!(written.iter().filter(|ok| **ok).count(), 1, "{written:?}");
}

#[tokio::test]
async fn a_content_that_has_moved_on_since_it_settled_is_not_taken_up() {
    let lab = Lab::new("");
    fs::write(&lab.path, "agent.model = 'b'").unwrap();
    let settled = ContentHash::of(b"agent.model = 'half");
    assert_eq!(lab.store.look(Some(settled)).await, Looked::Moving);
    assert_eq!(lab.store.look(Some(ContentHash::of(b"agent.model = 'b'"))).await, Looked::New);
}

#[tokio::test]
async fn a_file_that_is_written_in_place_is_seen() {
    let mut lab = Lab::new("agent.model = 'a'");
    let _watch = Watch::start(&lab.store);
    fs::write(&lab.path, "agent.model = 'b'").unwrap();
    let change = lab.changed().await;
    assert_eq!((change.new.agent.model.as_str(), change.source), ("b", Source::File));
}

#[tokio::test]
async fn a_file_that_is_renamed_over_is_seen_again_and_again() {
    let mut lab = Lab::new("agent.model = 'a'");
    let _watch = Watch::start(&lab.store);
    for n in 0..3 {
        let new = lab.folder.path().join("gateway.toml~");
        fs::write(&new, format!("agent.model = 'm{n}'")).unwrap();
        fs::rename(&new, &lab.path).unwrap();
        let change = lab.changed().await;
        assert_eq!(change.new.agent.model, format!("m{n}"));
        lab.store.in_force(&change).await;
    }
}

#[tokio::test]
async fn a_volume_that_kubernetes_swaps_is_seen_again_and_again() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    swap(folder.path(), 0);
    symlink("..data/gateway.toml", at("gateway.toml")).unwrap();
    let path = at("gateway.toml");
    let mut lab = Lab::open(folder, path);
    let _watch = Watch::start(&lab.store);
    for n in 1..4 {
        swap(lab.folder.path(), n);
        let change = lab.changed().await;
        assert_eq!(change.new.agent.model, format!("m{n}"));
        lab.store.in_force(&change).await;
    }
}

/// As the kubelet does it: a new folder, and `..data` replaced by a rename; the old one is removed.
fn swap(folder: &Path, n: u32) {
    let data = folder.join(format!("..{n}"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("gateway.toml"), format!("agent.model = 'm{n}'")).unwrap();
    symlink(format!("..{n}"), folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    if let Some(old) = n.checked_sub(1) {
        fs::remove_dir_all(folder.join(format!("..{old}"))).unwrap();
    }
}

#[tokio::test]
async fn a_symlink_into_another_folder_is_followed_there() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("real/deep")).unwrap();
    fs::create_dir(at("etc")).unwrap();
    fs::write(at("real/deep/x.toml"), "agent.model = 'a'").unwrap();
    symlink("../real", at("etc/link")).unwrap();
    symlink("link/deep/x.toml", at("etc/gateway.toml")).unwrap();
    let (path, real) = (at("etc/gateway.toml"), at("real/deep/x.toml"));
    let mut lab = Lab::open(folder, path);
    let _watch = Watch::start(&lab.store);
    fs::write(real, "agent.model = 'b'").unwrap();
    assert_eq!(lab.changed().await.new.agent.model, "b");
}

#[tokio::test]
async fn a_file_that_is_deleted_and_made_again_is_seen() {
    let mut lab = Lab::new("agent.model = 'a'");
    let _watch = Watch::start(&lab.store);
    fs::remove_file(&lab.path).unwrap();
    let news = lab.news().await;
    assert!(matches!(&news, News::Refused(_)), "{news:?}");
    fs::write(&lab.path, "agent.model = 'b'").unwrap();
    assert_eq!(lab.changed().await.new.agent.model, "b");
}

#[tokio::test]
async fn a_folder_that_is_deleted_and_made_again_is_seen() {
    let folder = TempDir::new().unwrap();
    let etc = folder.path().join("etc");
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("gateway.toml"), "agent.model = 'a'").unwrap();
    let mut lab = Lab::open(folder, etc.join("gateway.toml"));
    let _watch = Watch::start(&lab.store);
    fs::remove_dir_all(&etc).unwrap();
    assert!(matches!(lab.news().await, News::Refused(_)));
    fs::create_dir(&etc).unwrap();
    fs::write(etc.join("gateway.toml"), "agent.model = 'b'").unwrap();
    assert_eq!(lab.changed().await.new.agent.model, "b");
}

#[tokio::test]
async fn where_nothing_is_told_the_file_is_looked_at_every_so_often() {
    let mut lab = Lab::new("agent.model = 'a'");
    let _watch = Watch::polling(&lab.store, Duration::from_millis(20));
    fs::write(&lab.path, "agent.model = 'b'").unwrap();
    assert_eq!(lab.changed().await.new.agent.model, "b");
}

#[tokio::test]
async fn what_changed_before_the_watch_began_is_seen() {
    let mut lab = Lab::new("agent.model = 'a'");
    fs::write(&lab.path, "agent.model = 'b'").unwrap();
    let _watch = Watch::start(&lab.store);
    assert_eq!(lab.changed().await.new.agent.model, "b");
}
