//! Durations and sizes as people write them: with a unit, always.
//!
//! A bare number is refused, because "60" was meant as seconds by one reader and as milliseconds by
//! the next.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// A duration of at most ten years: `10s`, `1.5s`, `250ms`, `5min`, `2h`, `1h30m`.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timespan(Duration);

/// A number of bytes, at most 1 PiB: `64KiB`, `10MB`, `512B`.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Size(u64);

/// A text that is no quantity.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum BadQuantity {
    /// A number alone.
    #[error("{text} has no unit, write for example \"{example}\"")]
    NoUnit {
        /// What was written, quoted if it was.
        text: String,
        /// The same number with the most likely unit.
        example: String,
    },
    /// A number and something else.
    #[error("{text}: `{unit}` is no unit here; use {known}")]
    UnknownUnit {
        /// What was written, quoted.
        text: String,
        /// The part that was taken for a unit.
        unit: String,
        /// The units there are.
        known: &'static str,
    },
    /// No number to begin with, units out of order, or a second part where one is allowed.
    #[error("{text} is not {expected}")]
    Malformed {
        /// What was written, quoted.
        text: String,
        /// What is expected, with examples.
        expected: &'static str,
    },
    /// More than anybody can have meant.
    #[error("{text} is more than {most}")]
    TooMuch {
        /// What was written, quoted.
        text: String,
        /// The bound, in words.
        most: &'static str,
    },
}

/// What distinguishes one kind of quantity from another.
struct Kind {
    /// Each unit's spelling and its worth in the smallest one.
    units: &'static [(&'static str, u128)],
    /// The unit of the example in [`BadQuantity::NoUnit`].
    example: &'static str,
    known: &'static str,
    expected: &'static str,
    max: u128,
    most: &'static str,
    /// How many parts a text may have.
    parts: usize,
}

const SECOND: u128 = 1_000_000_000;

const TIME: Kind = Kind {
    // From the largest: the first that divides a value is the one that it is written in.
    units: &[
        ("d", 86_400 * SECOND),
        ("h", 3_600 * SECOND),
        ("min", 60 * SECOND),
        ("m", 60 * SECOND),
        ("s", SECOND),
        ("ms", SECOND / 1_000),
        ("us", SECOND / 1_000_000),
        ("ns", 1),
    ],
    example: "s",
    known: "ms, s, min, h or d",
    expected: "a duration, such as \"10s\", \"250ms\" or \"1h30m\"",
    max: 3_650 * 86_400 * SECOND,
    most: "10 years",
    parts: 8,
};

const BYTES: Kind = Kind {
    units: &[
        ("TiB", 1 << 40),
        ("TB", 1_000_000_000_000),
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("kB", 1_000),
        ("KB", 1_000),
        ("B", 1),
    ],
    example: "MiB",
    known: "B, KiB, MiB, GiB, TiB, kB, MB, GB or TB",
    expected: "a size, such as \"64KiB\" or \"10MB\"",
    max: 1 << 50,
    most: "1 PiB",
    parts: 1,
};

impl Timespan {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The duration.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Whether it is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

#[cfg(any(feature = "supervisor", feature = "gateway"))]
impl schemars::JsonSchema for Timespan {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timespan".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        TIME.schema()
    }
}

#[cfg(any(feature = "supervisor", feature = "gateway"))]
impl schemars::JsonSchema for Size {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        BYTES.schema()
    }
}

impl From<Duration> for Timespan {
    /// Takes any duration of the program's own; the bound of ten years is for what people write.
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Timespan {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let nanos = TIME.parse(text)?;
        let seconds = u64::try_from(nanos / SECOND).unwrap_or(u64::MAX);
        let rest = u32::try_from(nanos % SECOND).unwrap_or(0);
        Ok(Self(Duration::new(seconds, rest)))
    }
}

impl fmt::Display for Timespan {
    /// Writes one number with the largest unit in which it is whole: `5min`, `90s`, `1500ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_nanos() {
            0 => f.write_str("0s"),
            nanos => TIME.write(nanos, f),
        }
    }
}

impl Size {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl From<u64> for Size {
    /// Takes any size of the program's own; the bound of 1 PiB is for what people write.
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl FromStr for Size {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(u64::try_from(BYTES.parse(text)?).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Size {
    /// Writes one number with the largest unit in which it is whole: `64KiB`, `10MB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0B"),
            bytes => BYTES.write(u128::from(bytes), f),
        }
    }
}

impl Kind {
    /// The worth of `text` in the smallest unit.
    fn parse(&self, text: &str) -> Result<u128, BadQuantity> {
        let quoted = || format!("{:?}", text.chars().take(40).collect::<String>());
        let malformed = || BadQuantity::Malformed { text: quoted(), expected: self.expected };
        let too_much = || BadQuantity::TooMuch { text: quoted(), most: self.most };

        let mut rest = text.trim();
        let mut total = 0u128;
        let mut smallest = u128::MAX;
        for _ in 0..self.parts {
            let number_ends =
                rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, after) = rest.split_at(number_ends);
            let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
            if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
                return Err(malformed());
            }
            let after = after.trim_start();
            let unit_ends =
                after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let unit = after[..unit_ends].trim_end();
            if unit.is_empty() && smallest == u128::MAX {
                return Err(self.no_unit(&quoted(), number));
            }
            if unit.is_empty() {
                return Err(malformed());
            }
            let Some(worth) = self.worth(unit) else {
                let unit = unit.chars().take(20).collect();
                return Err(BadQuantity::UnknownUnit { text: quoted(), unit, known: self.known });
            };
            // "30m1h" and "1s1s" are slips, not sums.
            if worth >= smallest {
                return Err(malformed());
            }
            smallest = worth;
            let amount = amount(whole, fraction, worth).ok_or_else(too_much)?;
            total = total.checked_add(amount).filter(|n| *n <= self.max).ok_or_else(too_much)?;
            rest = &after[unit_ends..];
            if rest.is_empty() {
                return Ok(total);
            }
        }
        Err(malformed())
    }

    /// What an editor can know of it: the order of the units is for [`Kind::parse`] alone.
    #[cfg(any(feature = "supervisor", feature = "gateway"))]
    fn schema(&self) -> schemars::Schema {
        let units: Vec<_> = self.units.iter().map(|(name, _)| *name).collect();
        let part = format!(r"[0-9]+(\.[0-9]+)?\s*({})\s*", units.join("|"));
        let pattern = format!(r"^\s*({part}){{1,{}}}$", self.parts);
        schemars::json_schema!({
            "type": "string",
            "description": self.expected,
            "pattern": pattern,
        })
    }

    fn worth(&self, unit: &str) -> Option<u128> {
        self.units.iter().find(|(name, _)| *name == unit).map(|(_, worth)| *worth)
    }

    fn no_unit(&self, text: &str, number: &str) -> BadQuantity {
        let number: String = number.chars().take(20).collect();
        BadQuantity::NoUnit { text: text.to_owned(), example: number + self.example }
    }

    fn write(&self, amount: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The last unit is worth 1 and divides everything.
        let whole = self.units.iter().find(|(_, worth)| amount.is_multiple_of(*worth));
        whole.map_or(Ok(()), |(unit, worth)| write!(f, "{}{unit}", amount / worth))
    }
}

/// `whole.fraction` times `worth`, what is finer than the smallest unit cut off; `None` if it is
/// too large for any bound.
fn amount(whole: &str, fraction: &str, worth: u128) -> Option<u128> {
    // 20 digits times the largest worth stays far below u128's 38.
    let digits = &fraction[..fraction.len().min(12)];
    let scale = 10u128.pow(u32::try_from(digits.len()).ok()?);
    let whole = u128::from(whole.parse::<u64>().ok()?);
    Some(whole * worth + digits.parse::<u128>().ok()? * worth / scale)
}

/// Reads a quantity from a text, and answers a number with the sentence on units.
struct QuantityVisitor<Q> {
    kind: &'static Kind,
    quantity: std::marker::PhantomData<Q>,
}

impl<Q: FromStr<Err = BadQuantity>> de::Visitor<'_> for QuantityVisitor<Q> {
    type Value = Q;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Q, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Q, E> {
        Err(E::custom(self.kind.no_unit(&number.to_string(), &number.unsigned_abs().to_string())))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Q, E> {
        Err(E::custom(self.kind.no_unit(&number.to_string(), &number.to_string())))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Q, E> {
        Err(E::custom(self.kind.no_unit(&number.to_string(), &number.abs().to_string())))
    }
}

impl Serialize for Timespan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timespan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuantityVisitor { kind: &TIME, quantity: Default::default() })
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QuantityVisitor { kind: &BYTES, quantity: Default::default() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> Result<Duration, String> {
        text.parse::<Timespan>().map(Timespan::duration).map_err(|e| e.to_string())
    }

    fn size(text: &str) -> Result<u64, String> {
        text.parse::<Size>().map(Size::bytes).map_err(|e| e.to_string())
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1.5s", 1_500),
            ("250ms", 250),
            ("5min", 300_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1h30m", 5_400_000),
            ("1h 30min", 5_400_000),
            (" 1 d ", 86_400_000),
            ("0s", 0),
            ("0.0001s", 0),
        ] {
            assert_eq!(time(text).map(|d| d.as_millis()), Ok(millis), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("64KiB", 65_536), ("10MB", 10_000_000), ("1.5 GiB", 1_610_612_736), ("0B", 0)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_bare_number_is_told_to_take_a_unit() {
        assert_eq!(time("60").unwrap_err(), "\"60\" has no unit, write for example \"60s\"");
        assert_eq!(size("64").unwrap_err(), "\"64\" has no unit, write for example \"64MiB\"");
        let table: Result<Timespan, _> = toml::Value::Integer(60).try_into();
        assert_eq!(table.unwrap_err().message(), "60 has no unit, write for example \"60s\"");
        let table: Result<Timespan, _> = toml::Value::Float(1.5).try_into();
        assert_eq!(table.unwrap_err().message(), "1.5 has no unit, write for example \"1.5s\"");
    }

    #[test]
    fn nonsense_is_refused_with_what_would_be_right() {
        for text in ["", "s", "-5s", "30m1h", "1s1s", ".5s", "5.s", "1.2.3s", "1h30", "ten"] {
            assert!(time(text).is_err(), "{text}");
        }
        let unknown = "\"10 sec\": `sec` is no unit here; use ms, s, min, h or d";
        assert_eq!(time("10 sec").unwrap_err(), unknown);
        assert_eq!(time("11000d").unwrap_err(), "\"11000d\" is more than 10 years");
        assert_eq!(time("99999999999999999999h").unwrap_err().split(" is ").count(), 2);
        assert_eq!(size("2000TiB").unwrap_err(), "\"2000TiB\" is more than 1 PiB");
        assert!(size("1MiB1B").is_err());
    }

    #[test]
    fn a_value_is_written_in_its_largest_whole_unit() {
        for (text, shown) in [
            ("60s", "1min"),
            ("100s", "100s"),
            ("1h30m", "90min"),
            ("1.5s", "1500ms"),
            ("0h", "0s"),
        ] {
            assert_eq!(text.parse::<Timespan>().map(|t| t.to_string()), Ok(shown.to_owned()));
        }
        assert_eq!("1024KiB".parse::<Size>().map(|s| s.to_string()), Ok("1MiB".to_owned()));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(nanos in 0..=(3_650 * 86_400 * 1_000_000_000u64), pick in 0..4u32) {
            let nanos = nanos - nanos % 1_000u64.pow(pick);
            let span = Timespan::from(Duration::from_nanos(nanos));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
            let size = Size::from(nanos.min(1 << 50));
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn garbage_never_panics_and_stays_bounded(text in ".*") {
            if let Ok(span) = text.parse::<Timespan>() {
                prop_assert!(span.duration() <= Duration::from_secs(3_650 * 86_400));
            }
            if let Ok(size) = text.parse::<Size>() {
                prop_assert!(size.bytes() <= 1 << 50);
            }
        }

        #[test]
        fn near_quantities_never_panic(text in "[0-9.]{0,30} ?(ms|s|m|min|h|d|KiB|B|)[0-9.]{0,5}(s|ms)?") {
            let _ = (text.parse::<Timespan>(), text.parse::<Size>());
        }
    }
}
