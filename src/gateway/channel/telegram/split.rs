//! A long text in pieces that Telegram takes.

/// The longest text of one message, in UTF-16 code units.
pub(super) const LONGEST: usize = 4096;

/// The text in pieces of at most [`LONGEST`] UTF-16 code units, which together say the same but for
/// white space where they part.
///
/// They part between paragraphs, else lines, if that leaves no piece less than half full; else
/// between words; in a word that is too long, between its characters, and not within what is seen
/// as one (a flag, an accent, a family), unless that is absurdly long.
///
/// None for a text of white space alone, which Telegram refuses.
pub(super) fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(cut(rest));
        pieces.push(piece.trim_end());
        rest = after.trim_start();
    }
    pieces
}

/// Where the first piece of the text ends. The text begins with no white space.
fn cut(text: &str) -> usize {
    let fits = fitting(text);
    if fits == text.len() {
        return fits;
    }
    let head = &text[..fits];
    let half = fits / 2;
    // White space may begin just behind the head: then the head ends with a word's end.
    let ends_a_word = text[fits..].starts_with(char::is_whitespace);
    let at = |break_: &str| head.rfind(break_).filter(|&at| at >= half);
    at("\n\n")
        .or_else(|| at("\n"))
        .or_else(|| ends_a_word.then_some(fits))
        .or_else(|| head.rfind(char::is_whitespace))
        .unwrap_or_else(|| between_characters(text, fits))
}

/// How many bytes of the text fit into one message.
fn fitting(text: &str) -> usize {
    let mut units = 0;
    let too_long = text.char_indices().find(|(_, character)| {
        units += character.len_utf16();
        units > LONGEST
    });
    too_long.map_or(text.len(), |(at, _)| at)
}

/// The last place up to `fits` where what is before and after is not seen as one character.
fn between_characters(text: &str, fits: usize) -> usize {
    let mut at = fits;
    for _ in 0..FARTHEST {
        let Some(before) = text[..at].chars().next_back() else { break };
        let joined =
            text[at..].chars().next().is_some_and(|after| is_joined(text, at, before, after));
        if !joined {
            return at;
        }
        at -= before.len_utf8();
    }
    fits
}

fn is_joined(text: &str, at: usize, before: char, after: char) -> bool {
    if is_flag_letter(before) && is_flag_letter(after) {
        // Flags are pairs of letters.
        let letters = text[..at].chars().rev().take_while(|&letter| is_flag_letter(letter));
        return letters.count() % 2 == 1;
    }
    before == JOINER || after == JOINER || is_mark(after)
}

fn is_flag_letter(character: char) -> bool {
    matches!(character, '\u{1F1E6}'..='\u{1F1FF}')
}

/// Accents, variation selectors, skin tones, keycaps, the tags of regional flags.
fn is_mark(character: char) -> bool {
    matches!(character,
        '\u{300}'..='\u{36F}' | '\u{1AB0}'..='\u{1AFF}' | '\u{1DC0}'..='\u{1DFF}'
        | '\u{20D0}'..='\u{20FF}' | '\u{FE00}'..='\u{FE0F}' | '\u{FE20}'..='\u{FE2F}'
        | '\u{1F3FB}'..='\u{1F3FF}' | '\u{E0020}'..='\u{E007F}')
}

/// Makes one picture of two.
const JOINER: char = '\u{200D}';
/// How many characters back a cut is looked for.
const FARTHEST: usize = 64;

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn units(text: &str) -> usize {
        text.encode_utf16().count()
    }

    #[test]
    fn a_text_that_fits_is_one_piece_to_the_last_code_unit() {
        let text = "a".repeat(LONGEST);
        assert_eq!(pieces(&text), [text.as_str()]);
        assert_eq!(pieces(&format!("{text}b")), [text.as_str(), "b"]);
        assert_eq!(pieces("  hi \n"), ["hi"]);
        assert!(pieces(" \n\t ").is_empty() && pieces("").is_empty());
    }

    #[test]
    fn a_long_text_parts_between_paragraphs_before_lines_before_words() {
        let (a, b) = ("a".repeat(3000), "b".repeat(500));
        let text = format!("{a}\n\n{b}\n{b} {b}");
        assert_eq!(pieces(&text), [a.clone(), format!("{b}\n{b} {b}")]);
        let text = format!("{a}\n{b} {b} {b}");
        assert_eq!(pieces(&text), [a.clone(), format!("{b} {b} {b}")]);
        let text = format!("{a} {b} {b} {b}");
        assert_eq!(pieces(&text), [format!("{a} {b} {b}"), b.clone()]);
        // A title alone would be a poor message.
        let text = format!("title\n\n{a} {a}");
        assert_eq!(pieces(&text), [format!("title\n\n{a}"), a]);
    }

    #[test]
    fn telegrams_characters_are_utf_16_code_units() {
        let text = "😀".repeat(LONGEST / 2);
        assert_eq!(pieces(&text).len(), 1);
        assert_eq!(pieces(&format!("{text}😀")), [text.as_str(), "😀"]);
        let odd = format!("a{text}");
        assert_eq!(pieces(&odd).iter().map(|piece| units(piece)).collect::<Vec<_>>(), [4095, 2]);
    }

    #[test]
    fn a_word_too_long_does_not_part_within_a_flag_an_accent_or_a_family() {
        for picture in ["🇨🇭", "e\u{301}", "👩\u{200D}👩\u{200D}👧", "👍🏽", "1\u{FE0F}\u{20E3}"]
        {
            for before in 0..12 {
                let text = format!("{}{}", "x".repeat(LONGEST - before), picture.repeat(20));
                let parted = pieces(&text);
                assert_eq!(parted.concat(), text);
                assert!(parted[1].starts_with(picture), "{before}: {:?}", parted[1]);
            }
        }
        let absurd = format!("{}{}", "x".repeat(LONGEST - 100), "\u{301}".repeat(LONGEST));
        assert_eq!(units(pieces(&absurd)[0]), LONGEST);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pieces_fit_and_lose_nothing_but_white_space(
            words in prop::collection::vec(
                prop_oneof![
                    "[a-zé😀🇨\u{301}\u{200D}]{0,40}",
                    (3000..9000usize).prop_map(|long| "long".repeat(long / 4)),
                    "[ \n\r\t\u{a0}]{1,200}",
                    Just("\n\n".to_owned()),
                    Just("👩\u{200D}👧🏽".repeat(700)),
                ],
                0..12,
            ),
        ) {
            let text = words.join(" ");
            let parted = pieces(&text);
            for piece in &parted {
                prop_assert!((1..=LONGEST).contains(&units(piece)));
                prop_assert_eq!(piece.trim(), *piece);
            }
            let said = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            prop_assert_eq!(said(&parted.concat()), said(&text));
        }
    }
}
