use proptest::prelude::*;

use super::*;

/// Fed whole.
fn said(text: &str) -> (Vec<String>, Option<AgentError>) {
    let mut said = Said::default();
    said.hear(text.as_bytes(), |_| {}).expect("it is short");
    said.end(|_| {});
    said.into_parts()
}

#[test]
fn the_first_line_that_is_not_blank_tells_the_form() {
    assert_eq!(said("\n \n{\"type\":\"reply\",\"text\":\"a\"}\nnoise\n").0, ["a"]);
    assert_eq!(
        said("\nnoise\n{\"type\":\"reply\",\"text\":\"a\"}").0,
        ["noise\n{\"type\":\"reply\",\"text\":\"a\"}"]
    );
    for plain in ["{", "{}", "[]", "7", "{\"type\":7}", "null"] {
        assert_eq!(said(plain).0, [plain]);
    }
}

#[test]
fn lines_of_a_later_protocol_are_passed_over() {
    let text = "{\"type\":\"later\",\"x\":1}\n{\"type\":\"reply\",\"text\":\"a\",\"y\":2}\n[1]\n";
    assert_eq!(said(text), (vec!["a".to_owned()], None));
}

#[test]
fn a_line_that_lacks_its_text_is_an_error_that_says_so() {
    let (_, error) = said("{\"type\":\"reply\"}\n");
    let error = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("missing field `text`"), "{error}");
}

#[test]
fn the_first_error_counts() {
    let text = "{\"type\":\"error\",\"text\":\"1\"}\n{\"type\":\"error\",\"text\":\"2\"}";
    assert_eq!(said(text).1, Some(AgentError::Failed("1".to_owned())));
}

#[test]
fn empty_replies_are_none() {
    assert!(said("{\"type\":\"reply\",\"text\":\" \\n\"}").0.is_empty());
    assert!(said(" \n\n").0.is_empty());
}

#[test]
fn bytes_that_are_no_text_are_replaced() {
    let mut said = Said::default();
    said.hear(b"a\xff\n", |_| {}).expect("it is short");
    assert_eq!(said.into_parts().0, ["a\u{fffd}"]);
}

#[test]
fn a_line_may_have_a_mebibyte_and_all_of_them_eight() {
    let mut said = Said::default();
    let mut line = vec![b'x'; LONGEST_LINE];
    line[LONGEST_LINE - 1] = b'\n';
    for _ in 0..8 {
        assert_eq!(said.hear(&line, |_| {}), Ok(()));
    }
    assert_eq!(said.hear(b"x", |_| {}), Err(TooMuch::All));
    line.push(b'x');
    line[LONGEST_LINE - 1] = b'x';
    assert_eq!(Said::default().hear(&line, |_| {}), Err(TooMuch::Line));
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_makes_no_difference(
        lines in prop::collection::vec(
            prop_oneof![
                "[a-z{é]{0,6}",
                Just(r#"{"type":"delta","text":"dé"}"#.to_owned()),
                Just(r#"{"type":"reply","text":"r"}"#.to_owned()),
                Just(r#"{"type":"hello","steer":true}"#.to_owned()),
                Just(r#"{"type":"error","text":"e"}"#.to_owned()),
                Just(r#"{"type":"done"}"#.to_owned()),
            ],
            0..8,
        ),
        at in 1_usize..9,
    ) {
        let text = lines.join("\n");
        let mut cut = Said::default();
        let mut told = String::new();
        for part in text.as_bytes().chunks(at) {
            prop_assert_eq!(cut.hear(part, |piece| told.push_str(piece)), Ok(()));
        }
        cut.end(|piece| told.push_str(piece));
        prop_assert_eq!(cut.into_parts(), said(&text));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut said = Said::default();
        let _ = said.hear(&bytes, |_| {});
        said.end(|_| {});
        let _ = said.into_parts();
    }
}
