//! `Accept` as one canonical list: what a manifest may be answered with (RFC 9110, section 12.5.1).

use std::collections::BTreeSet;

use crate::oci::manifest::is_media_type;
use crate::oci::quoted::find_outside;

/// The media types that a client takes, of all its `Accept` lines together.
///
/// Types are lower-cased and their parameters dropped; weights count only where they are zero.
/// With no `Accept` at all, everything is welcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Accept {
    allowed: BTreeSet<String>,
    /// The types given `q=0`.
    refused: BTreeSet<String>,
}

// === impl Accept ===

impl Accept {
    /// All lines as one list. Elements that are no media types are passed over.
    pub fn from_headers<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let mut accept = Self::default();
        for element in lines.flat_map(|line| Split {
            rest: Some(line),
            at: ',',
        }) {
            let mut parts = Split {
                rest: Some(element),
                at: ';',
            };
            let Some(media_type) = parts.next().and_then(media_range) else {
                continue;
            };
            if parts.any(is_zero_weight) {
                accept.refused.insert(media_type);
            } else {
                accept.allowed.insert(media_type);
            }
        }
        // A type that is listed with different parameters is taken in some form.
        accept
            .refused
            .retain(|media_type| !accept.allowed.contains(media_type));
        accept
    }

    /// Whether an answer of this type is welcome. The most specific element decides.
    pub fn allows(&self, media_type: &str) -> bool {
        // As it is written nearly always.
        if self.allowed.contains(media_type) {
            return true;
        }
        let bare = media_type.split(';').next().unwrap_or_default();
        let exact = bare.trim().to_ascii_lowercase();
        let family = exact
            .split_once('/')
            .map(|(family, _)| format!("{family}/*"));
        for range in [Some(exact.as_str()), family.as_deref(), Some("*/*")]
            .into_iter()
            .flatten()
        {
            if self.allowed.contains(range) {
                return true;
            }
            if self.refused.contains(range) {
                return false;
            }
        }
        self.allowed.is_empty()
    }

    /// Whether it names this very type, and does not only take it with others.
    pub fn names(&self, media_type: &str) -> bool {
        self.allowed.contains(media_type)
    }

    /// Whether it says nothing at all.
    pub fn takes_anything(&self) -> bool {
        self.allowed.is_empty() && self.refused.is_empty()
    }

    /// A text that is the same for lists that mean the same: sorted, without duplicates; empty
    /// where everything is welcome.
    pub fn key(&self) -> String {
        let refused = self
            .refused
            .iter()
            .map(|media_type| format!("{media_type};q=0"));
        let all: Vec<_> = self.allowed.iter().cloned().chain(refused).collect();
        all.join(", ")
    }

    /// The header to send upstream, or `None` where there is nothing to send.
    pub fn to_header(&self) -> Option<String> {
        Some(self.key()).filter(|key| !key.is_empty())
    }
}

/// The parts of a text between separators that are outside quoted strings, trimmed.
struct Split<'a> {
    rest: Option<&'a str>,
    at: char,
}

// === impl Split ===

impl<'a> Iterator for Split<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        match find_outside(rest, self.at) {
            Some(end) => {
                self.rest = Some(&rest[end + self.at.len_utf8()..]);
                Some(rest[..end].trim())
            }
            None => Some(rest.trim()),
        }
    }
}

/// The lower-case media range of an element, if it is one.
fn media_range(text: &str) -> Option<String> {
    // A lone star is what some old HTTP libraries send for any type.
    if text == "*" {
        return Some("*/*".to_owned());
    }
    let family = text.strip_suffix("/*");
    let sound = text == "*/*"
        || match family {
            // The star is a token character too, but `*` alone is the only place for it.
            Some(family) => !family.contains('*') && is_media_type(&format!("{family}/x")),
            None => !text.contains('*') && is_media_type(text),
        };
    sound.then(|| text.to_ascii_lowercase())
}

/// Whether a parameter is `q` with the value zero.
fn is_zero_weight(parameter: &str) -> bool {
    parameter.split_once('=').is_some_and(|(name, value)| {
        name.trim().eq_ignore_ascii_case("q") && value.trim().parse::<f32>() == Ok(0.0)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

    fn accept(lines: &[&str]) -> Accept {
        Accept::from_headers(lines.iter().copied())
    }

    #[test]
    fn no_header_allows_everything() {
        assert!(accept(&[]).allows(OCI_INDEX));
        assert!(accept(&["", " , "]).allows(OCI_INDEX));
        assert_eq!(accept(&[]).to_header(), None);
        assert_eq!(accept(&[]).key(), "");
    }

    #[test]
    fn several_lines_are_one_list() {
        let lines = accept(&[OCI_INDEX, DOCKER_LIST]);
        assert!(lines.allows(OCI_INDEX) && lines.allows(DOCKER_LIST));
        assert!(!lines.allows(OCI_MANIFEST));
        assert_eq!(lines, accept(&[&format!("{DOCKER_LIST},{OCI_INDEX}")]));
    }

    #[test]
    fn order_case_parameters_and_repetition_do_not_change_the_key() {
        let first = accept(&[
            "Application/JSON;q=0.5",
            "text/html; charset=utf-8, application/json",
        ]);
        assert_eq!(first.key(), "application/json, text/html");
        assert_eq!(
            first.key(),
            accept(&["text/html", "application/json"]).key()
        );
        assert_eq!(
            first.to_header().as_deref(),
            Some("application/json, text/html")
        );
    }

    #[test]
    fn wildcards_allow_what_they_cover() {
        assert!(accept(&["*/*"]).allows(OCI_INDEX));
        assert!(accept(&["*; q=.2"]).allows(OCI_INDEX));
        assert!(accept(&["application/*"]).allows(OCI_INDEX));
        assert!(!accept(&["text/*"]).allows(OCI_INDEX));
    }

    #[test]
    fn a_weight_of_zero_refuses() {
        let list = accept(&[&format!(
            "application/*, {OCI_INDEX};Q=0.000, text/x ;a=b; q = 0"
        )]);
        assert!(!list.allows(OCI_INDEX));
        assert!(list.allows(OCI_MANIFEST));
        assert!(!list.allows("text/x"));
        assert_ne!(list.key(), accept(&["application/*"]).key());
        assert!(accept(&["a/b;q=0.001"]).allows("a/b"));
    }

    #[test]
    fn a_type_asked_about_may_have_parameters_and_any_case() {
        let list = accept(&[DOCKER_MANIFEST]);
        assert!(list.allows(&format!(
            "{}; charset=utf-8",
            DOCKER_MANIFEST.to_uppercase()
        )));
    }

    #[test]
    fn a_comma_within_quotes_parts_nothing() {
        let list = accept(&["a/b;x=\"1,c/d;q=0 \\\" ,e/f\";q=1, g/h"]);
        assert_eq!(list.key(), "a/b, g/h");
    }

    #[test]
    fn what_is_no_media_type_is_passed_over() {
        assert_eq!(
            accept(&["json, a/b/c, /, */x, a*/*, a/b c, a/b\u{7f}, x/y"]).key(),
            "x/y"
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics(lines: Vec<String>, asked: String) {
            let list = Accept::from_headers(lines.iter().map(String::as_str));
            let _ = list.allows(&asked);
        }

        #[test]
        fn the_header_says_what_was_read(
            lines in prop::collection::vec("([a-c*]/[a-c*](;q=[01])?[, ]{0,2}){0,4}", 0..4),
        ) {
            let list = Accept::from_headers(lines.iter().map(String::as_str));
            let header = list.to_header();
            let again = Accept::from_headers(header.as_deref().into_iter());
            prop_assert_eq!(&again, &list);
            prop_assert_eq!(again.key(), list.key());
        }
    }
}
