//! Content digests: what a blob or a manifest is called, and the hashers that prove the name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256, Sha512};

/// The content digest of a blob or a manifest, such as `sha256:` and 64 hexadecimal digits.
///
/// A value of this type is always well-formed: a supported algorithm and exactly the number of
/// lower-case digits that it takes (OCI image specification, "Digests"). A clone is a reference
/// count, so it may be passed around freely.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// The whole text, algorithm included.
    text: Arc<str>,
}

/// A hash algorithm that content may be named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256: what nearly everything uses.
    Sha256,
    /// SHA-512: registered by the image specification, rare in practice.
    Sha512,
}

/// A running hash; feed it bytes in any portions, then [`Hasher::finish`].
#[derive(Clone)]
pub enum Hasher {
    /// Computes a `sha256:` digest.
    Sha256(Sha256),
    /// Computes a `sha512:` digest.
    Sha512(Sha512),
}

/// Why a text is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no colon between an algorithm and its digits.
    #[error("a digest is written algorithm:hex")]
    Form,
    /// The algorithm is neither of the two supported.
    #[error("the digest algorithm is neither sha256 nor sha512")]
    Algorithm,
    /// The number of digits is not the algorithm's.
    #[error("a {algorithm} digest has {} hexadecimal digits, not {found}", .algorithm.hex_len())]
    Length {
        /// The algorithm named.
        algorithm: Algorithm,
        /// The bytes found after the colon.
        found: usize,
    },
    /// Something other than `0-9` and `a-f` is among the digits.
    #[error("a digest has lower-case hexadecimal digits only")]
    Digits,
}

// === impl Digest ===

impl Digest {
    /// The digest of `bytes`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest whose hash value is `raw`, or `None` if its length is not the algorithm's.
    pub fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Option<Self> {
        (raw.len() == algorithm.raw_len()).then(|| Self::written(algorithm, raw))
    }

    /// The algorithm of the hash.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The lower-case digits after the colon.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.as_str().len() + 1..]
    }

    /// The whole text, `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The hash value itself: 32 bytes of SHA-256 or 64 of SHA-512.
    pub fn raw(&self) -> Vec<u8> {
        self.hex()
            .as_bytes()
            .chunks_exact(2)
            .map(|pair| nibble(pair[0]) << 4 | nibble(pair[1]))
            .collect()
    }

    fn written(algorithm: Algorithm, raw: &[u8]) -> Self {
        let name = algorithm.as_str();
        let mut text = String::with_capacity(name.len() + 1 + algorithm.hex_len());
        text.push_str(name);
        text.push(':');
        for byte in raw {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 0xf)]));
        }
        Self {
            algorithm,
            text: text.into(),
        }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Form)?;
        let algorithm = Algorithm::from_str(algorithm)?;
        if hex.len() != algorithm.hex_len() {
            return Err(DigestError::Length {
                algorithm,
                found: hex.len(),
            });
        }
        // Upper case is refused, not folded: two spellings of a name would be two cache entries.
        if !hex
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(DigestError::Digits);
        }
        Ok(Self {
            algorithm,
            text: text.into(),
        })
    }
}

impl From<&Digest> for Arc<str> {
    fn from(digest: &Digest) -> Self {
        Self::clone(&digest.text)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.text)
    }
}

// === impl Algorithm ===

impl Algorithm {
    /// The name before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of a hash value in bytes.
    pub fn raw_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The length of a hash value in hexadecimal digits.
    pub fn hex_len(self) -> usize {
        self.raw_len() * 2
    }
}

impl FromStr for Algorithm {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(DigestError::Algorithm),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

// === impl Hasher ===

impl Hasher {
    /// A hash over nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// What it is a hash by.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::written(Algorithm::Sha256, hash.finalize().as_slice()),
            Self::Sha512(hash) => Digest::written(Algorithm::Sha512, hash.finalize().as_slice()),
        }
    }
}

impl fmt::Debug for Hasher {
    // The inner state says nothing to a reader.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256(_) => "Hasher(sha256)",
            Self::Sha512(_) => "Hasher(sha512)",
        })
    }
}

/// The value of a lower-case hexadecimal digit.
fn nibble(digit: u8) -> u8 {
    match digit {
        b'a'..=b'f' => digit - b'a' + 10,
        // A `Digest` holds nothing but `0-9a-f`; the mask keeps this total all the same.
        _ => digit & 0xf,
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_known_one() {
        assert_eq!(Digest::of(Algorithm::Sha256, b"").to_string(), EMPTY);
        let long = Digest::of(Algorithm::Sha512, b"");
        assert!(long.hex().starts_with("cf83e1357eefb8bd"));
        assert_eq!(long.hex().len(), 128);
    }

    #[test]
    fn a_digest_knows_its_algorithm_and_its_digits() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest.algorithm(), Algorithm::Sha256);
        assert_eq!(digest.hex(), &EMPTY[7..]);
        assert_eq!(digest.as_str(), EMPTY);
        assert_eq!(format!("{digest:?}"), format!("Digest({EMPTY})"));
    }

    #[test]
    fn upper_case_digits_are_refused() {
        let upper = format!("sha256:{}", EMPTY[7..].to_uppercase());
        assert_eq!(upper.parse::<Digest>(), Err(DigestError::Digits));
    }

    #[test]
    fn a_wrong_length_is_refused_and_named() {
        let error = "sha512:abc".parse::<Digest>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "a sha512 digest has 128 hexadecimal digits, not 3"
        );
        assert!(format!("{EMPTY}0").parse::<Digest>().is_err());
    }

    #[test]
    fn other_algorithms_and_other_forms_are_refused() {
        for (text, error) in [
            ("", DigestError::Form),
            ("latest", DigestError::Form),
            ("md5:00", DigestError::Algorithm),
            ("SHA256:00", DigestError::Algorithm),
            (":00", DigestError::Algorithm),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_multi_byte_character_does_not_pass_for_digits() {
        let text = format!("sha256:{}", "é".repeat(32));
        assert_eq!(text.parse::<Digest>(), Err(DigestError::Digits));
    }

    #[test]
    fn raw_bytes_of_a_wrong_length_are_no_digest() {
        assert_eq!(Digest::from_raw(Algorithm::Sha256, &[0; 64]), None);
        assert_eq!(Digest::from_raw(Algorithm::Sha512, &[0; 32]), None);
    }

    #[test]
    fn digests_sort_as_their_text_does() {
        let short = Digest::of(Algorithm::Sha256, b"a");
        let long = Digest::of(Algorithm::Sha512, b"a");
        let sorted: BTreeSet<_> = [long.clone(), short.clone()].into();
        assert_eq!(sorted.into_iter().collect::<Vec<_>>(), [short, long]);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = text.parse::<Digest>();
        }

        #[test]
        fn what_is_shown_parses_back(bytes: Vec<u8>, long: bool) {
            let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let digest = Digest::of(algorithm, &bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest.clone()));
            prop_assert_eq!(Digest::from_raw(algorithm, &digest.raw()), Some(digest));
        }

        #[test]
        fn portions_do_not_matter(bytes: Vec<u8>, cut in 0usize..100) {
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            let mut hasher = Hasher::new(Algorithm::Sha256);
            hasher.update(head);
            hasher.update(tail);
            prop_assert_eq!(hasher.finish(), Digest::of(Algorithm::Sha256, &bytes));
        }
    }
}
