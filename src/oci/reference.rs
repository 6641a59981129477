//! Repository names, tags, and references to a manifest.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::oci::digest::{Digest, DigestError};

/// The name of a repository, such as `library/alpine`.
///
/// Always well-formed by the grammar of the distribution specification ("Pulling manifests"):
/// components of `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`, parted by slashes, and
/// at most 255 characters together. No component can be `..`, so a name is safe within a path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepoName(Arc<str>);

/// A tag: at most 128 characters of `[a-zA-Z0-9_.-]`, the first one neither `.` nor `-`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// By its content, which never changes.
    Digest(Digest),
    /// By a name that may point elsewhere tomorrow.
    Tag(Tag),
}

/// Why a text is no repository name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing.
    #[error("a repository name is not empty")]
    Empty,
    /// More than 255 characters.
    #[error("a repository name has at most {MAX_NAME} characters, not {0}")]
    TooLong(usize),
    /// A component breaks the grammar; it is given, and may be empty.
    #[error(
        "`{0}` is no component of a repository name: lower-case letters and digits, \
         joined by `.`, `_`, `__` or dashes"
    )]
    Component(String),
}

/// Why a text is no tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// There is nothing.
    #[error("a tag is not empty")]
    Empty,
    /// More than 128 characters.
    #[error("a tag has at most {MAX_TAG} characters, not {0}")]
    TooLong(usize),
    /// A character that is not allowed, or not allowed in the first place.
    #[error("`{0}` may not stand there in a tag")]
    Character(char),
}

/// Why a text is neither a tag nor a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It has a colon, so it was meant to be a digest.
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// It has none, so it was meant to be a tag.
    #[error(transparent)]
    Tag(#[from] TagError),
}

// === impl RepoName ===

impl RepoName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepoName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong(text.chars().count()));
        }
        match text.split('/').find(|component| !is_component(component)) {
            Some(bad) => Err(NameError::Component(bad.to_owned())),
            None => Ok(Self(text.into())),
        }
    }
}

impl From<&RepoName> for Arc<str> {
    fn from(name: &RepoName) -> Self {
        Self::clone(&name.0)
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RepoName({})", self.0)
    }
}

// === impl Tag ===

impl From<&Tag> for Arc<str> {
    fn from(tag: &Tag) -> Self {
        Self::clone(&tag.0)
    }
}

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let first = text.chars().next().ok_or(TagError::Empty)?;
        if !is_word(first) {
            return Err(TagError::Character(first));
        }
        let bad = text
            .chars()
            .find(|c| !is_word(*c) && !matches!(c, '.' | '-'));
        if let Some(bad) = bad {
            return Err(TagError::Character(bad));
        }
        // All ASCII by now: bytes are characters.
        if text.len() > MAX_TAG {
            return Err(TagError::TooLong(text.len()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({})", self.0)
    }
}

// === impl Reference ===

impl Reference {
    /// The reference as text, as it stands in a path.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Digest(digest) => digest.as_str(),
            Self::Tag(tag) => tag.as_str(),
        }
    }

    /// The digest, if that is what it is.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Digest(digest) => Some(digest),
            Self::Tag(_) => None,
        }
    }

    /// The tag, if that is what it is.
    pub fn tag(&self) -> Option<&Tag> {
        match self {
            Self::Digest(_) => None,
            Self::Tag(tag) => Some(tag),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A tag has no colon and a digest must have one, so the two cannot be confused.
        if text.contains(':') {
            Ok(Self::Digest(text.parse()?))
        } else {
            Ok(Self::Tag(text.parse()?))
        }
    }
}

impl From<&Reference> for Arc<str> {
    fn from(reference: &Reference) -> Self {
        match reference {
            Reference::Digest(digest) => digest.into(),
            Reference::Tag(tag) => tag.into(),
        }
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl From<Tag> for Reference {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether `text` is one component of a repository name.
fn is_component(text: &str) -> bool {
    let is_alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(is_alnum) || !text.ends_with(is_alnum) {
        return false;
    }
    // What lies between two runs of letters and digits is one separator.
    text.split(is_alnum).all(|separator| {
        matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
    })
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The longest repository name, in characters.
const MAX_NAME: usize = 255;

/// The longest tag, in characters.
const MAX_TAG: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_registries_use_are_names() {
        for name in [
            "alpine",
            "library/alpine",
            "a/b/c/d/e",
            "0/1",
            "my.org/my_app/my__app/my-app/my---app",
            "manifests/blobs/tags",
            "kube-state-metrics/kube-state-metrics",
        ] {
            assert_eq!(name.parse::<RepoName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_outside_the_grammar_are_refused() {
        for name in [
            "/", "/a", "a/", "a//b", "A", "a/B", "a..b", "a___b", "a._b", "-a", "a-", ".a", "a.",
            "_a", "a_", ".", "..", "a/../b", "a b", "a:b", "a%2fb", "ä", "a-_b", "a\0b",
        ] {
            let error = name.parse::<RepoName>().unwrap_err();
            assert!(matches!(error, NameError::Component(_)), "{name}");
        }
        assert_eq!("".parse::<RepoName>(), Err(NameError::Empty));
    }

    #[test]
    fn a_name_may_be_255_characters_long_and_no_longer() {
        assert!("a".repeat(255).parse::<RepoName>().is_ok());
        assert_eq!(
            "a".repeat(256).parse::<RepoName>(),
            Err(NameError::TooLong(256))
        );
    }

    #[test]
    fn a_tag_may_be_128_characters_long_and_no_longer() {
        assert!("v".repeat(128).parse::<Tag>().is_ok());
        assert_eq!("v".repeat(129).parse::<Tag>(), Err(TagError::TooLong(129)));
    }

    #[test]
    fn a_tag_starts_with_a_letter_a_digit_or_an_underscore() {
        for tag in ["latest", "3.19", "_x", "V1.0-rc.1_build"] {
            assert_eq!(tag.parse::<Tag>().unwrap().as_str(), tag);
        }
        assert_eq!("".parse::<Tag>(), Err(TagError::Empty));
        assert_eq!(".x".parse::<Tag>(), Err(TagError::Character('.')));
        assert_eq!("-x".parse::<Tag>(), Err(TagError::Character('-')));
        assert_eq!("x+y".parse::<Tag>(), Err(TagError::Character('+')));
        assert_eq!("xé".parse::<Tag>(), Err(TagError::Character('é')));
    }

    #[test]
    fn a_reference_with_a_colon_is_a_digest_or_nothing() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let reference: Reference = digest.parse().unwrap();
        assert_eq!(reference.digest().unwrap().as_str(), digest);
        assert_eq!(reference.tag(), None);
        assert_eq!(
            "sha256:short".parse::<Reference>(),
            Err(ReferenceError::Digest(DigestError::Length {
                algorithm: crate::oci::digest::Algorithm::Sha256,
                found: 5
            }))
        );
        let tag: Reference = "sha256".parse().unwrap();
        assert_eq!(tag.tag().unwrap().as_str(), "sha256");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = text.parse::<RepoName>();
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn what_the_grammar_makes_parses_and_is_shown_the_same(
            name in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,8}){0,3}(/[a-z0-9]{1,8}){0,3}",
            tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}",
        ) {
            prop_assert_eq!(name.parse::<RepoName>().unwrap().to_string(), name);
            prop_assert_eq!(tag.parse::<Reference>().unwrap().to_string(), tag);
        }

        #[test]
        fn a_name_has_no_component_that_climbs(text in "[a./_-]{1,12}") {
            if let Ok(name) = text.parse::<RepoName>() {
                prop_assert!(name.as_str().split('/').all(|c| !matches!(c, "" | "." | "..")));
            }
        }
    }
}
