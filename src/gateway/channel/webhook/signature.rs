//! Signatures of bodies: `X-Lockkeeper-Signature: t=UNIX,v1=HEX`.
//!
//! The HMAC-SHA256 is of `UNIX.BODY`, so that who has caught a signed body cannot send it again much
//! later. `X-Hub-Signature-256: sha256=HEX`, of the body alone, is understood, too: there, only the
//! message's id keeps a second sending from being a second message.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use thiserror::Error;

/// Carries our signatures.
pub const HEADER: &str = "x-lockkeeper-signature";
/// Carries signatures as GitHub makes them.
pub const HUB_HEADER: &str = "x-hub-signature-256";
/// How far the clocks of both sides may be apart, in seconds.
pub const TOLERANCE: u64 = 300;

/// Why a signature does not count.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum BadSignature {
    /// It does not read as one.
    #[error("the signature is malformed: write `t=<unix seconds>,v1=<hex>`")]
    Malformed,
    /// It was made too long ago, or is of the future.
    #[error(
        "the signature is replayed: its `t` is {0} s away from now, at most {TOLERANCE} s are \
         allowed; sign again, and check the clock"
    )]
    Replayed(u64),
    /// It was made with another secret, or of another body.
    #[error("the signature is wrong: it is the HMAC-SHA256 of `<t>.<body>` with the hook's secret")]
    Wrong,
}

/// The value of [`HEADER`] for a body, made at `now` (seconds since 1970).
pub fn sign(secret: &[u8], now: u64, body: &[u8]) -> String {
    let tag = stamped(secret, now, body).finalize().into_bytes();
    let hex: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={now},v1={hex}")
}

/// Checks the value of [`HEADER`]. It may hold several `v1`, for a secret that is being changed.
///
/// # Errors
///
/// Why it does not count.
pub fn check(secret: &[u8], now: u64, header: &str, body: &[u8]) -> Result<(), BadSignature> {
    let (mut made, mut tags) = (None, Vec::new());
    for part in header.split(',') {
        match part.trim().split_once('=').ok_or(BadSignature::Malformed)? {
            ("t", text) => made = Some(text.parse::<u64>().map_err(|_| BadSignature::Malformed)?),
            ("v1", text) => tags.push(from_hex(text)?),
            // Of a later version of the scheme.
            _ => {}
        }
    }
    let made = made.filter(|_| !tags.is_empty()).ok_or(BadSignature::Malformed)?;
    // First the secret: who does not know it learns nothing of our clock.
    let is_right = |tag: &Vec<u8>| stamped(secret, made, body).verify_slice(tag).is_ok();
    if !tags.iter().any(is_right) {
        return Err(BadSignature::Wrong);
    }
    let apart = now.abs_diff(made);
    if apart > TOLERANCE { Err(BadSignature::Replayed(apart)) } else { Ok(()) }
}

/// Checks the value of [`HUB_HEADER`].
///
/// # Errors
///
/// Why it does not count.
pub fn check_hub(secret: &[u8], header: &str, body: &[u8]) -> Result<(), BadSignature> {
    let tag = header.trim().strip_prefix("sha256=").ok_or(BadSignature::Malformed)?;
    let tag = from_hex(tag)?;
    keyed(secret).chain_update(body).verify_slice(&tag).map_err(|_| BadSignature::Wrong)
}

/// Whether two texts are the same. Takes the same time wherever they differ.
pub fn is_same(one: &[u8], other: &[u8]) -> bool {
    let tag = |text| keyed(b"lockkeeper bearer").chain_update(text);
    tag(one).verify_slice(&tag(other).finalize().into_bytes()).is_ok()
}

fn stamped(secret: &[u8], made: u64, body: &[u8]) -> Hmac<Sha256> {
    keyed(secret).chain_update(made.to_string()).chain_update(b".").chain_update(body)
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("any key will do")
}

fn from_hex(text: &str) -> Result<Vec<u8>, BadSignature> {
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(BadSignature::Malformed);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return Err(BadSignature::Malformed);
    }
    pairs.iter().map(|[high, low]| Ok((digit(*high)? << 4 | digit(*low)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_790_000_000;
    const SECRET: &[u8] = b"Jefe";

    #[test]
    fn what_is_signed_is_an_hmac_sha256_of_time_dot_body() {
        // By `printf '1790000000.{}' | openssl dgst -sha256 -hmac Jefe`.
        let known =
            "t=1790000000,v1=d927a7192cf1342cbb06dac01a2b72995b9dec4d36dbae00ea48c5671b3f9751";
        assert_eq!(sign(SECRET, NOW, b"{}"), known);
        // RFC 4231, test case 2.
        let rfc = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(check_hub(SECRET, rfc, b"what do ya want for nothing?"), Ok(()));
    }

    #[test]
    fn a_signature_of_another_secret_body_or_time_is_wrong() {
        let header = sign(SECRET, NOW, b"body");
        assert_eq!(check(SECRET, NOW, &header, b"body"), Ok(()));
        assert_eq!(check(b"other", NOW, &header, b"body"), Err(BadSignature::Wrong));
        assert_eq!(check(SECRET, NOW, &header, b"other"), Err(BadSignature::Wrong));
        let later = header.replace("t=1790000000", "t=1790000001");
        assert_eq!(check(SECRET, NOW, &later, b"body"), Err(BadSignature::Wrong));
        let hub = format!("sha256={}", "0".repeat(64));
        assert_eq!(check_hub(SECRET, &hub, b"body"), Err(BadSignature::Wrong));
    }

    #[test]
    fn a_signature_counts_for_300_seconds_both_ways() {
        let header = sign(SECRET, NOW, b"body");
        for now in [NOW - TOLERANCE, NOW, NOW + TOLERANCE] {
            assert_eq!(check(SECRET, now, &header, b"body"), Ok(()), "{now}");
        }
        for now in [NOW - TOLERANCE - 1, NOW + TOLERANCE + 1] {
            let replayed = Err(BadSignature::Replayed(TOLERANCE + 1));
            assert_eq!(check(SECRET, now, &header, b"body"), replayed, "{now}");
        }
    }

    #[test]
    fn one_of_several_signatures_suffices_while_a_secret_changes() {
        let (_, old) = sign(b"old", NOW, b"body").split_once(',').map(own).expect("two parts");
        let both = format!("{},{old}", sign(SECRET, NOW, b"body"));
        assert_eq!(check(SECRET, NOW, &both, b"body"), Ok(()));
        assert_eq!(check(b"old", NOW, &both, b"body"), Ok(()));
    }

    #[test]
    fn what_is_no_signature_is_malformed() {
        let hex = "0".repeat(64);
        for header in [
            "",
            "t=1",
            "v1=00",
            "t=1,v1=",
            "t=1,v1=zz",
            &format!("v1={hex}"),
            &format!("t=x,v1={hex}"),
            &format!("t=-1,v1={hex}"),
            &format!("t=1,v1={hex}0"),
            &format!("t=1,v1={}ä", &hex[2..]),
            &format!("t=1;v1={hex}"),
        ] {
            assert_eq!(check(SECRET, NOW, header, b""), Err(BadSignature::Malformed), "{header}");
        }
        assert_eq!(check_hub(SECRET, &hex, b""), Err(BadSignature::Malformed));
    }

    #[test]
    fn bearers_are_the_same_or_not() {
        assert!(is_same(b"abc", b"abc"));
        for other in ["", "ab", "abd", "abc\0", "abcd"] {
            assert!(!is_same(b"abc", other.as_bytes()), "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_check_panic(header in ".{0,80}", body: Vec<u8>) {
            prop_assert!(check(SECRET, NOW, &header, &body).is_err());
            prop_assert!(check_hub(SECRET, &header, &body).is_err());
        }
    }

    fn own((one, other): (&str, &str)) -> (String, String) {
        (one.to_owned(), other.to_owned())
    }
}
