use notify::event::{CreateKind, DataChange, ModifyKind};
use tempfile::TempDir;

use super::*;

fn seen(kind: EventKind, path: &str) -> bool {
    let spots = [("/etc/app".into(), "gateway.toml".into()), ("/etc/app".into(), "..data".into())];
    let sight = Sight { spots: spots.into_iter().collect(), is_blind: false };
    sight.matters(&notify::Event::new(kind).add_path(path.into()))
}

#[test]
fn only_events_of_the_files_own_names_and_folders_matter() {
    let changed = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    assert!(seen(changed, "/etc/app/gateway.toml"));
    assert!(seen(EventKind::Create(CreateKind::Any), "/etc/app/..data"));
    assert!(seen(EventKind::Remove(notify::event::RemoveKind::Folder), "/etc/app"));
    assert!(!seen(changed, "/etc/app/gateway.log"));
    assert!(!seen(changed, "/etc/app/.gateway.toml.7.0.tmp"));
}

#[test]
fn that_the_file_is_read_is_no_change() {
    let path = "/etc/app/gateway.toml";
    assert!(!seen(EventKind::Access(AccessKind::Open(AccessMode::Any)), path));
    assert!(!seen(EventKind::Access(AccessKind::Close(AccessMode::Read)), path));
    assert!(seen(EventKind::Access(AccessKind::Close(AccessMode::Write)), path));
}

#[test]
fn each_symlink_on_the_way_and_the_first_missing_name_are_watched() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let at = |name: &str| root.join(name);
    fs::create_dir(at("..1")).unwrap();
    std::os::unix::fs::symlink("..1", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/g.toml", at("g.toml")).unwrap();
    let spot = |folder: &str, name: &str| (root.join(folder), OsString::from(name));
    let all = [spot("", "g.toml"), spot("", "..data"), spot("..1", "g.toml")];
    let all = BTreeSet::from_iter(all.map(|(folder, name)| (folder.components().collect(), name)));
    // The file at the end is not there yet, which makes no difference.
    assert_eq!(spots(&at("g.toml")), all);
    fs::write(at("..1/g.toml"), "").unwrap();
    assert_eq!(spots(&at("g.toml")), all);
    assert_eq!(spots(&at("a/b/c.toml")), BTreeSet::from([(root.clone(), "a".into())]));
    std::os::unix::fs::symlink("y", at("x")).unwrap();
    std::os::unix::fs::symlink("x", at("y")).unwrap();
    assert!(spots(&at("x")).len() <= 2);
}

#[tokio::test]
async fn where_there_are_no_watches_that_is_said_once_and_the_file_is_polled() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("g.toml");
    fs::write(&path, "").unwrap();
    let mut eyes = Eyes { watcher: None, sight: Arc::default(), every: POLL };
    let was_blind = |eyes: &Eyes| eyes.sight.lock().unwrap().is_blind;
    assert!(!was_blind(&eyes));
    eyes.blind(&notify::Error::new(notify::ErrorKind::MaxFilesWatch));
    assert!(was_blind(&eyes));
    let (sample, poll) = eyes.look(&ConfigFile::new(Some(path)).unwrap());
    assert!(matches!(sample, Sample::Present { size: 0, .. }));
    assert_eq!(poll, Some(Duration::from_secs(5)));
    // Nothing but an open eye makes it see again: it is not said a second time.
    assert!(was_blind(&eyes));
}
