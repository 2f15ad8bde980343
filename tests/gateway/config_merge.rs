//! A patch of the file's text does what the same patch does to its values, and keeps comments.
#![allow(clippy::unwrap_used, reason = "a test may panic, in what it shares, too")]

use lockkeeper::gateway::config::{
    document::{Document, Format},
    merge::{Comments, Merged, merge, patch, render, unhide},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn read(text: &str, format: Format) -> Value {
    Document::parse(text, format).unwrap().value().clone()
}

fn patched(text: &str, by: Value) -> String {
    let Merged { text, comments } = patch(text, Format::Toml, &by).unwrap();
    assert_eq!(comments, Comments::Kept);
    text
}

#[test]
fn comments_order_and_space_of_toml_are_kept() {
    let text = "# Ours.\n[server] # here\nbind = '127.0.0.1:1' # mine\n\n# Who answers.\n[agent]\n\
                model   = 'old'   # the model\ntimeout = '1s'\n";
    let new = patched(text, json!({"agent": {"model": "new", "timeout": null}}));
    assert_eq!(
        new,
        "# Ours.\n[server] # here\nbind = '127.0.0.1:1' # mine\n\n# Who answers.\n[agent]\n\
         model   = \"new\"   # the model\n"
    );
}

#[test]
fn what_was_not_there_is_added_as_people_write_it() {
    assert_eq!(
        patched("", json!({"channels": {"telegram": {"allow": [1], "token": {"env": "T"}}}})),
        "[channels.telegram]\nallow = [1]\ntoken = { env = \"T\" }\n"
    );
    assert_eq!(patched("", json!({"channels": {"stdio": {}}})), "[channels.stdio]\n");
    assert_eq!(
        patched("agent = { model = 'a' }\n", json!({"agent": {"concurrency": 2}})),
        "agent = { model = 'a' , concurrency = 2 }\n"
    );
}

#[test]
fn a_patch_that_changes_nothing_leaves_the_text_as_it_is() {
    let text = "agent . model='x'#c";
    assert_eq!(patched(text, json!({"agent": {"model": "x", "timeout": null}})), text);
}

#[test]
fn json5_is_written_anew_and_says_so() {
    let text = "{ // ours\n  agent: { model: 'a' } }";
    let merged = patch(text, Format::Json5, &json!({"agent": {"concurrency": 2}})).unwrap();
    assert_eq!(merged.comments, Comments::Lost);
    let meant = json!({"agent": {"model": "a", "concurrency": 2}});
    assert_eq!(read(&merged.text, Format::Json5), meant);
}

#[test]
fn what_cannot_be_a_patch_is_refused() {
    for no in [json!(1), json!([]), json!(null), json!("x")] {
        let told = patch("", Format::Toml, &no).unwrap_err().to_string();
        assert!(told.contains("a patch must be an object"), "{told}");
    }
    let told = patch("", Format::Toml, &json!({"a": [null]})).unwrap_err().to_string();
    assert!(told.contains("list with null"), "{told}");
    let told = patch("", Format::Toml, &json!({"a": u64::MAX})).unwrap_err().to_string();
    assert!(told.contains("too large for TOML"), "{told}");
    assert!(patch("a = ", Format::Toml, &json!({})).unwrap_err().to_string().starts_with("1:"));
    assert!(render(&json!([]), Format::Toml).is_err());
}

#[test]
fn a_secret_that_comes_back_hidden_stays_what_it_is() {
    let present = json!({"server": {"token": "s"}, "hooks": {"a": {"secret": {"env": "X"}}}});
    let mut sent = json!({
        "server": {"token": "<hidden>", "bind": "x"},
        "hooks": {"a": {"secret": "<hidden>"}, "b": {"secret": "<hidden>"}},
    });
    unhide(&mut sent, &present);
    assert_eq!(sent["server"]["token"], "s");
    assert_eq!(sent["hooks"]["a"]["secret"], json!({"env": "X"}));
    // Nothing is there: the check of the config refuses the mark.
    assert_eq!(sent["hooks"]["b"]["secret"], "<hidden>");
}

/// RFC 7396, as its pseudocode has it.
fn model(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut result = if let Value::Object(target) = target { target } else { Map::new() };
    for (name, value) in patch {
        let old = result.remove(name);
        if !value.is_null() {
            result.insert(name.clone(), model(old.unwrap_or(Value::Null), value));
        }
    }
    Value::Object(result)
}

/// The patch that makes `to` of `from`.
fn way(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let gone = from.keys().filter(|name| !to.contains_key(*name)).map(|n| (n.clone(), Value::Null));
    let rest = to.iter().filter(|(name, value)| from.get(*name) != Some(*value));
    let rest = rest.map(|(name, value)| {
        (name.clone(), from.get(name).map_or_else(|| value.clone(), |old| way(old, value)))
    });
    Value::Object(gone.chain(rest).collect())
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z\n\"'\\\\#é ]{0,6}".prop_map(Value::from),
        proptest::collection::vec((0..3i64).prop_map(Value::from), 0..3).prop_map(Value::from),
    ]
}

fn object(leaf: BoxedStrategy<Value>) -> impl Strategy<Value = Value> {
    let name = "[a-c]|x y";
    let inner = leaf.prop_recursive(3, 20, 4, move |inner| {
        proptest::collection::btree_map(name, inner, 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    });
    proptest::collection::btree_map(name, inner, 0..4)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

/// Texts as people write them: headers, dotted keys, inline tables, comments.
fn toml_text() -> impl Strategy<Value = String> {
    let by_hand = proptest::sample::select(vec![
        "",
        "# c\na = 1 # d\n\n[b]\n# e\nc = 'x'\n",
        "a.b = 1\na.c.a = 2\n",
        "a = { b = { c = 1 }, a = [1] }\n",
        "[a.b.c]\na = 1\n[a]\nc = 2\n",
        "[[a]]\nb = 1\n[[a]]\nb = 2\n",
        "[a]\nb.c = 1\n[a.a]\nb = 3\n",
        "\"x y\" = 1\r\n[c]\r\na = 1 # e\r\n",
    ]);
    prop_oneof![
        by_hand.prop_map(str::to_owned),
        object(leaf().boxed()).prop_map(|value| render(&value, Format::Toml).unwrap().text),
    ]
}

proptest! {
    #[test]
    fn a_merge_is_that_of_the_rfc(
        target in object(leaf().boxed()),
        patch in object(prop_oneof![leaf(), Just(Value::Null)].boxed()),
    ) {
        let mut merged = target.clone();
        merge(&mut merged, &patch);
        prop_assert_eq!(merged, model(target, &patch));
    }

    #[test]
    fn a_patched_text_says_what_the_patched_values_say(
        text in toml_text(),
        by in object(prop_oneof![leaf(), Just(Value::Null)].boxed()),
    ) {
        let meant = model(read(&text, Format::Toml), &by);
        let merged = patch(&text, Format::Toml, &by).unwrap();
        prop_assert_eq!(read(&merged.text, Format::Toml), meant.clone(), "{}", merged.text);
        let json5 = render(&read(&text, Format::Toml), Format::Json5).unwrap().text;
        let merged = patch(&json5, Format::Json5, &by).unwrap();
        prop_assert_eq!(read(&merged.text, Format::Json5), meant);
    }

    #[test]
    fn a_patch_and_the_patch_back_make_a_text_that_says_the_same(
        text in toml_text(),
        by in object(prop_oneof![leaf(), Just(Value::Null)].boxed()),
    ) {
        let before = read(&text, Format::Toml);
        let there = patch(&text, Format::Toml, &by).unwrap().text;
        let back = way(&read(&there, Format::Toml), &before);
        let again = patch(&there, Format::Toml, &back).unwrap().text;
        prop_assert_eq!(read(&again, Format::Toml), before);
    }
}
