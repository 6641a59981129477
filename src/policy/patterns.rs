//! Patterns of repositories and tags, as globs in which `*` crosses slashes.

use std::fmt;
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use thiserror::Error;

/// How long a tag is answered without asking upstream, by tag pattern.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TagTtl {
    /// The longest pattern first.
    rules: Vec<(Pattern, Duration)>,
}

/// A list of repository patterns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

/// A text that is no pattern for repositories or tags.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{pattern:?} is not a pattern: {reason}")]
pub struct GlobError {
    pub pattern: String,
    pub reason: String,
}

#[derive(Clone)]
struct Pattern {
    text: String,
    glob: GlobMatcher,
}

// === impl TagTtl ===

impl TagTtl {
    pub fn new<S: AsRef<str>>(
        rules: impl IntoIterator<Item = (S, Duration)>,
    ) -> Result<Self, GlobError> {
        let mut rules = rules
            .into_iter()
            .map(|(pattern, ttl)| Ok((Pattern::new(pattern.as_ref())?, ttl)))
            .collect::<Result<Vec<_>, GlobError>>()?;
        rules.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.text.chars().count()));
        Ok(Self { rules })
    }

    /// The time of the longest pattern that matches, else `default`.
    pub fn for_tag(&self, tag: &str, default: Duration) -> Duration {
        self.rules
            .iter()
            .find(|(pattern, _)| pattern.glob.is_match(tag))
            .map_or(default, |(_, ttl)| *ttl)
    }

    /// Patterns and times, the longest pattern first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.rules.iter().map(|(p, ttl)| (p.text.as_str(), *ttl))
    }
}

// === impl Patterns ===

impl Patterns {
    /// `team/*` matches everything below `team/`, nested names too.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, GlobError> {
        let patterns = patterns
            .into_iter()
            .map(|text| Pattern::new(text.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// The first pattern that matches.
    pub fn first_match(&self, repository: &str) -> Option<&str> {
        self.patterns
            .iter()
            .find(|pattern| pattern.glob.is_match(repository))
            .map(|pattern| pattern.text.as_str())
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.patterns.iter().map(|pattern| &pattern.text))
            .finish()
    }
}

// === impl Pattern ===

// The text says it all.
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    fn new(text: &str) -> Result<Self, GlobError> {
        let fail = |reason: String| GlobError {
            pattern: text.to_owned(),
            reason,
        };
        if text.is_empty() {
            return Err(fail("it is empty; \"*\" matches everything".to_owned()));
        }
        let glob = GlobBuilder::new(text)
            .literal_separator(false)
            .build()
            .map_err(|err| fail(err.kind().to_string()))?;
        Ok(Self {
            text: text.to_owned(),
            glob: glob.compile_matcher(),
        })
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_longest_tag_pattern_that_matches_wins() {
        let ttl = TagTtl::new([
            ("*", 10 * MINUTE),
            ("latest", MINUTE),
            ("v*.*.*", 30 * MINUTE),
            ("v*", 20 * MINUTE),
        ])
        .unwrap();
        assert_eq!(ttl.for_tag("latest", Duration::ZERO), MINUTE);
        assert_eq!(ttl.for_tag("v1.2.3", Duration::ZERO), 30 * MINUTE);
        assert_eq!(ttl.for_tag("v1", Duration::ZERO), 20 * MINUTE);
        assert_eq!(ttl.for_tag("edge", Duration::ZERO), 10 * MINUTE);
        assert_eq!(TagTtl::default().for_tag("edge", MINUTE), MINUTE);
    }

    #[test]
    fn a_broken_pattern_is_named() {
        let err = Patterns::new(["team/[a"]).unwrap_err();
        assert!(
            err.to_string()
                .starts_with("\"team/[a\" is not a pattern: ")
        );
        assert!(TagTtl::new([("", MINUTE)]).is_err());
    }
}
