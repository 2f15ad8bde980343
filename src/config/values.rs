//! Readers for values that serde would refuse in the words of Rust and not of the file.

use std::{fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, de};

/// A whole number, refused in words and not by the name of a Rust type.
pub(super) fn number<'de, D: Deserializer<'de>, N: TryFrom<i64>>(
    deserializer: D,
) -> Result<N, D::Error> {
    let number = i64::deserialize(deserializer)?;
    N::try_from(number).map_err(|_| de::Error::custom(format_args!("{number} is out of range")))
}

/// A list whose refusal says what belongs into it.
struct List<T> {
    expected: &'static str,
    element: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> de::Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(elements)
    }
}

/// A program with its arguments, or other words.
pub(super) fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let expected = "a list of words, such as [\"./gateway\", \"run\"]";
    deserializer.deserialize_seq(List { expected, element: PhantomData })
}

/// Exit codes.
pub(super) fn codes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let expected = "a list of exit codes, such as [75]";
    let numbers = deserializer.deserialize_seq(List::<i64> { expected, element: PhantomData })?;
    let code = |number| {
        u8::try_from(number).map_err(|_| {
            de::Error::custom(format_args!("{number} is not an exit code; they go from 0 to 255"))
        })
    };
    numbers.into_iter().map(code).collect()
}
