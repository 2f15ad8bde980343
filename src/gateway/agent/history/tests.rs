use proptest::prelude::*;

use super::*;

fn exchange(role: Role, text: &str) -> Exchange {
    Exchange { role, text: text.to_owned() }
}

fn talk(pairs: usize, bytes: usize) -> Vec<Exchange> {
    let text = "x".repeat(bytes);
    let pair = || [exchange(Role::User, &text), exchange(Role::Assistant, &text)];
    (0..pairs).flat_map(|_| pair()).collect()
}

#[test]
fn a_history_within_its_limit_is_left_alone() {
    assert_eq!(to_compact(&talk(4, 10), 80), 0);
    assert_eq!(to_compact(&[], 0), 0);
}

#[test]
fn the_older_half_is_compacted_when_the_limit_is_passed() {
    assert_eq!(to_compact(&talk(4, 10), 79), 4);
    assert_eq!(to_compact(&talk(3, 10), 1), 4);
}

#[test]
fn one_prompt_and_its_answer_are_never_cut() {
    assert_eq!(to_compact(&talk(1, 100), 1), 0);
    let mut with_summary = vec![exchange(Role::Summary, "long ago")];
    with_summary.extend(talk(1, 100));
    assert_eq!(to_compact(&with_summary, 1), 0);
}

#[test]
fn a_long_answer_goes_with_its_prompt() {
    let mut history = vec![exchange(Role::User, "q"), exchange(Role::Assistant, &"x".repeat(99))];
    history.extend(talk(2, 1));
    assert_eq!(to_compact(&history, 10), 2);
}

#[test]
fn a_summary_takes_the_place_of_what_it_stands_for_and_is_cut_to_half_of_it() {
    let new = compacted(&talk(2, 10), 2, " short ");
    assert_eq!(new[0], exchange(Role::Summary, "short"));
    assert_eq!(new[1..], talk(1, 10));
    assert_eq!(compacted(&talk(2, 10), 2, &"é".repeat(99))[0].text, "ééééé");
    assert_eq!(compacted(&talk(2, 10), 2, " "), talk(1, 10));
}

#[test]
fn a_note_counts_what_earlier_notes_have_counted() {
    let first = note(&talk(3, 5));
    let mut next = vec![exchange(Role::Summary, &first)];
    next.extend(talk(2, 5));
    assert!(note(&next).starts_with("Left out: 10 earlier messages."), "{}", note(&next));
    let odd = [exchange(Role::Summary, "Left out: many"), exchange(Role::User, "Left out: 7 x")];
    assert!(note(&odd).starts_with("Left out: 2 earlier"), "{}", note(&odd));
}

#[test]
fn instructions_and_summary_are_one_system_message_and_neighbours_of_one_voice_are_joined() {
    let history = [
        exchange(Role::Summary, "They met."),
        exchange(Role::User, "a"),
        exchange(Role::User, "b"),
        exchange(Role::Assistant, "c"),
        exchange(Role::Assistant, " "),
    ];
    let told: Vec<_> =
        messages("Be kind.", &history, "d").into_iter().map(|it| (it.voice, it.text)).collect();
    assert_eq!(
        told,
        [
            (Voice::System, format!("Be kind.\n\n{SUMMARY_BEGINS}\nThey met.")),
            (Voice::User, "a\n\nb".to_owned()),
            (Voice::Assistant, "c".to_owned()),
            (Voice::User, "d".to_owned()),
        ]
    );
    assert_eq!(messages(" ", &[], "d").len(), 1);
}

fn any_history() -> impl Strategy<Value = Vec<Exchange>> {
    let role = prop_oneof![Just(Role::User), Just(Role::Assistant), Just(Role::Summary)];
    let any = (role, "[aé ]{0,40}").prop_map(|(role, text)| Exchange { role, text });
    prop::collection::vec(any, 0..20)
}

proptest! {
    #[test]
    fn a_cut_is_before_a_prompt_and_leaves_something_on_both_sides(
        history in any_history(),
        limit in 0_usize..200,
    ) {
        let cut = to_compact(&history, limit);
        if cut > 0 {
            prop_assert!(size(&history) > limit);
            prop_assert_eq!(history[cut].role, Role::User);
            prop_assert!(history[..cut].iter().any(|it| it.role != Role::Summary));
        }
    }

    #[test]
    fn compaction_never_makes_a_history_longer_and_keeps_the_newer_part(
        history in any_history(),
        limit in 0_usize..200,
        summary in "[aé ]{0,400}",
    ) {
        let cut = to_compact(&history, limit);
        let new = compacted(&history, cut, &summary);
        prop_assert!(size(&new) <= size(&history));
        prop_assert!(new.ends_with(&history[cut..]));
        prop_assert!(new.len() <= history.len() - cut + 1);
    }

    #[test]
    fn compaction_repeated_comes_to_an_end(history in any_history(), limit in 0_usize..50) {
        let mut history = history;
        for _ in 0..40 {
            let cut = to_compact(&history, limit);
            if cut == 0 {
                return Ok(());
            }
            history = compacted(&history, cut, &"y".repeat(99));
        }
        prop_assert!(false, "{history:?}");
    }

    #[test]
    fn messages_take_turns_and_lose_no_word(history in any_history(), prompt in "[a-z]{1,9}") {
        let told = messages("Be kind.", &history, &prompt);
        prop_assert_eq!(told[0].voice, Voice::System);
        prop_assert_eq!(told.last().map(|it| it.voice), Some(Voice::User));
        for pair in told.windows(2) {
            prop_assert_ne!(pair[0].voice, pair[1].voice);
        }
        let all: String = told.iter().map(|it| it.text.as_str()).collect();
        for exchange in &history {
            prop_assert!(all.contains(exchange.text.trim()));
        }
        prop_assert!(told.iter().all(|it| !it.text.is_empty()));
    }

    #[test]
    fn a_note_is_short_whatever_was_said(texts in prop::collection::vec("(?s).{0,600}", 0..20)) {
        let said: Vec<_> = texts.iter().map(|text| exchange(Role::User, text)).collect();
        prop_assert!(note(&said).len() < 1000);
    }
}
