//! A config that is bad: exit 78, then its doctor, once.

use lockkeeper::protocol::exit;
use serde_json::json;

use crate::{
    lab::{Lab, Release},
    supervisor::End,
};

#[test]
fn a_config_that_the_doctor_can_mend_is_mended_once_and_it_becomes_ready() {
    let lab = Lab::with_config(Release::Current, |config| config["gateway"]["bogus"] = json!(1));

    let keeper = lab.run();

    keeper.expect("gateway: Unrecognized key: \"bogus\"");
    keeper.expect("the recovery command ended by code 0");
    let pid = keeper.ready(2);
    assert_eq!(lab.lock_holder(), Some(pid));
    assert_eq!(lab.config()["gateway"].get("bogus"), None);
    let told = lab.why();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["ends"][0]["exit"], json!({ "code": exit::CONFIG }));
}

#[test]
fn a_config_that_the_doctor_cannot_mend_parks_after_one_retry() {
    let broken = json!("not a port");
    let lab = Lab::with_config(Release::Current, |config| config["gateway"]["port"] = broken);

    let mut keeper = lab.run();

    keeper.expect("the recovery command ended by code 1");
    assert_eq!(keeper.ended(), End::Code(exit::CONFIG.into()));
    assert_eq!(lab.gateways().len(), 2, "the start and its one retry");
    assert_eq!(keeper.count("running the command that mends"), 1);
    let told = lab.why();
    let ends: Vec<_> = told.iter().flat_map(|one| one["ends"].as_array()).flatten().collect();
    assert_eq!(ends.len(), 2, "{told:?}");
    assert!(ends.iter().all(|end| end["exit"] == json!({ "code": exit::CONFIG })), "{told:?}");
    lab.nothing_is_left();
}
