//! The patterns that name sets of hosts.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::{Host, HostError, Target, check_name, parse_ip, shown};

/// One line of a host list.
///
/// * `registry.example`: that host.
/// * `*.example`: every name that ends in `.example`, however many labels stand before it; not
///   `example` itself.
/// * `*.dkr.ecr.*.example`, `*-docker.example`: elsewhere a `*` stands for characters inside one
///   label.
/// * `10.1.2.3`, `fd00::1`, `[fd00::1]`: that address, IPv4-mapped spellings included.
/// * `*`: everything.
///
/// Apart from the bare `*`, a wildcard never matches an IP address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern {
    text: Arc<str>,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Any,
    Ip(IpAddr),
    /// `open`: one or more labels of any text stand before `labels`.
    Name {
        open: bool,
        labels: Vec<Box<str>>,
    },
}

/// What a CA must be allowed to sign so that it can answer for a pattern's hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Constraint {
    /// A DNS subtree: the name and all that is below it.
    Dns(String),
    Ip(IpAddr),
}

/// Why a text is no [`HostPattern`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PatternError {
    #[error(
        "{0:?} has a scheme or a path; a host is just a name, for example \"registry.example\""
    )]
    Url(String),
    #[error(
        "{0:?} has a port; the host goes here and the port into `ports`, for example ports = [5000]"
    )]
    Port(String),
    #[error(
        "{0:?} ends in a wildcard, and anybody may own such a name; write the last part out, or \"*\" for every host"
    )]
    OpenEnd(String),
    #[error(transparent)]
    Host(#[from] HostError),
}

// === impl HostPattern ===

impl HostPattern {
    /// Whether `host` (any case, brackets and a trailing dot allowed) is one of the pattern's.
    pub fn matches(&self, host: &str) -> bool {
        host.parse::<Host>().is_ok_and(|host| self.covers(&host))
    }

    /// [`Self::matches`] for a host that is parsed already.
    pub fn covers(&self, host: &Host) -> bool {
        match (&self.kind, host.ip) {
            (Kind::Any, _) => true,
            (Kind::Ip(mine), Some(ip)) => mine.to_canonical() == ip.to_canonical(),
            (Kind::Name { open, labels }, None) => {
                // From the end, where most of them differ already.
                let mut asked = host.as_str().rsplit('.');
                let mut mine = labels.iter().rev();
                mine.all(|mine| asked.next().is_some_and(|label| label_matches(mine, label)))
                    && asked.next().is_some() == *open
            }
            _ => false,
        }
    }

    /// The pattern as text, in lower case.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The one host that the pattern names, when it has no wildcard.
    pub fn exact(&self) -> Option<Host> {
        match &self.kind {
            Kind::Any => None,
            Kind::Ip(ip) => Some(Host::from(*ip)),
            Kind::Name { .. } if self.text.contains('*') => None,
            Kind::Name { .. } => Some(Host {
                text: Arc::clone(&self.text),
                ip: None,
            }),
        }
    }

    /// The subtree or address a CA needs for this pattern: its longest run of last labels that
    /// have no `*`. `None` for the bare `*`, which no constraint can hold.
    pub fn constraint(&self) -> Option<Constraint> {
        match &self.kind {
            Kind::Any => None,
            Kind::Ip(ip) => Some(Constraint::Ip(*ip)),
            Kind::Name { labels, .. } => {
                let plain = labels.iter().rev().take_while(|l| !l.contains('*')).count();
                let tail: Vec<&str> = labels[labels.len() - plain..]
                    .iter()
                    .map(AsRef::as_ref)
                    .collect();
                Some(Constraint::Dns(tail.join(".")))
            }
        }
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self {
                text: text.into(),
                kind: Kind::Any,
            });
        }
        if text.contains('/') {
            return Err(PatternError::Url(shown(text)));
        }
        if text.parse::<Target>().is_ok() || (text.contains('*') && text.contains(':')) {
            return Err(PatternError::Port(shown(text)));
        }
        if let Some(ip) = parse_ip(text)? {
            return Ok(Self {
                text: ip.to_string().into(),
                kind: Kind::Ip(ip),
            });
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        check_name(&name, true)?;
        if !name.contains('*') {
            name.parse::<Host>()?;
        }
        let (open, rest) = match name.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, name.as_str()),
        };
        let labels: Vec<Box<str>> = rest.split('.').map(Box::from).collect();
        if labels.last().is_some_and(|last| last.contains('*')) {
            return Err(PatternError::OpenEnd(shown(text)));
        }
        if labels
            .last()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()))
        {
            return Err(HostError::Numeric(shown(text)).into());
        }
        Ok(Self {
            text: name.as_str().into(),
            kind: Kind::Name { open, labels },
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === helpers ===

/// `*` in `pattern` stands for any characters of one label, none included.
fn label_matches(pattern: &str, label: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == label;
    };
    let Some(mut left) = label.strip_prefix(head) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_plain_host_matches_itself_in_any_case_and_with_a_trailing_dot() {
        let p = pattern("Registry.Example");
        assert!(p.matches("registry.example"));
        assert!(p.matches("REGISTRY.example."));
        assert!(!p.matches("a.registry.example"));
        assert!(!p.matches("registry.example.evil"));
        assert!(!p.matches("xregistry.example"));
    }

    #[test]
    fn a_leading_star_stands_for_one_or_more_labels() {
        let p = pattern("*.example.com");
        assert!(p.matches("a.example.com"));
        assert!(p.matches("a.b.example.com"));
        assert!(!p.matches("example.com"));
        assert!(!p.matches("badexample.com"));
    }

    #[test]
    fn a_star_further_in_stands_for_one_label() {
        let p = pattern("*.dkr.ecr.*.amazonaws.com");
        assert!(p.matches("123456789012.dkr.ecr.eu-west-1.amazonaws.com"));
        assert!(!p.matches("1.dkr.ecr.a.b.amazonaws.com"));
        assert!(!p.matches("dkr.ecr.eu-west-1.amazonaws.com"));
        assert!(!p.matches("1.dkr.ecr.amazonaws.com"));
    }

    #[test]
    fn a_star_inside_a_label_stays_inside_it() {
        let p = pattern("*-docker.pkg.dev");
        assert!(p.matches("us-docker.pkg.dev"));
        assert!(p.matches("europe-west1-docker.pkg.dev"));
        assert!(!p.matches("us-npm.pkg.dev"));
        assert!(!p.matches("a.us-docker.pkg.dev"));
        assert!(pattern("cdn*a*.example").matches("cdn01a2.example"));
        assert!(!pattern("cdn*a*.example").matches("cdn01b2.example"));
        assert!(!pattern("ab*ba.example").matches("aba.example"));
    }

    #[test]
    fn only_the_bare_star_matches_addresses_it_does_not_name() {
        assert!(pattern("*").matches("10.0.0.1"));
        assert!(pattern("*").matches("anything.example"));
        assert!(!pattern("*.example").matches("10.0.0.1"));
        assert!(pattern("10.0.0.1").matches("10.0.0.1"));
        assert!(pattern("10.0.0.1").matches("[::ffff:10.0.0.1]"));
        assert!(pattern("[fd00::1]").matches("fd00:0:0::1"));
        assert!(pattern("fd00::1").matches("[fd00::1]"));
        assert!(!pattern("fd00::1").matches("fd00::2"));
    }

    #[test]
    fn patterns_that_are_not_hosts_are_told_apart() {
        let message = |text: &str| text.parse::<HostPattern>().unwrap_err().to_string();
        assert!(message("https://a.example").contains("scheme or a path"));
        assert!(message("a.example/v2").contains("scheme or a path"));
        assert!(message("a.example:5000").contains("`ports`"));
        assert!(message("*.a.example:5000").contains("`ports`"));
        assert!(message("registry.*").contains("anybody may own"));
        assert!(message("10.0.0.*").contains("anybody may own"));
        assert!(message("").contains("empty"));
        assert!(message("a..example").contains("between two dots"));
        assert!(message("10.0.0").contains("complete IP address"));
        assert!(message("*.0.1").contains("complete IP address"));
        assert!(message("[::1").contains("IPv6"));
    }

    #[test]
    fn a_constraint_is_the_longest_plain_tail() {
        let dns = |text: &str| pattern(text).constraint();
        assert_eq!(dns("ghcr.io"), Some(Constraint::Dns("ghcr.io".into())));
        assert_eq!(
            dns("*.azurecr.io"),
            Some(Constraint::Dns("azurecr.io".into()))
        );
        assert_eq!(
            dns("*.dkr.ecr.*.amazonaws.com"),
            Some(Constraint::Dns("amazonaws.com".into()))
        );
        assert_eq!(
            dns("*-docker.pkg.dev"),
            Some(Constraint::Dns("pkg.dev".into()))
        );
        assert_eq!(
            dns("10.1.2.3"),
            Some(Constraint::Ip("10.1.2.3".parse().unwrap()))
        );
        assert_eq!(dns("*"), None);
    }

    #[test]
    fn an_exact_pattern_gives_its_host() {
        assert_eq!(pattern("GHCR.io").exact().unwrap().as_str(), "ghcr.io");
        assert_eq!(pattern("[::1]").exact().unwrap().as_str(), "::1");
        assert_eq!(pattern("*.ghcr.io").exact(), None);
        assert_eq!(pattern("*").exact(), None);
    }

    proptest! {
        #[test]
        fn whatever_a_pattern_matches_its_constraint_covers(
            pattern in "(\\*\\.)?[a-c*]{1,3}(\\.[a-c*]{1,3}){0,3}\\.(io|com)",
            host in "[a-c]{1,3}(\\.[a-c]{1,3}){0,5}\\.(io|com)",
        ) {
            let pattern: HostPattern = pattern.parse().unwrap();
            if pattern.matches(&host) {
                let Some(Constraint::Dns(tail)) = pattern.constraint() else {
                    return Err(TestCaseError::fail("a name pattern has a DNS constraint"));
                };
                let below = format!(".{}", tail);
                prop_assert!(host == tail || host.ends_with(&below));
            }
        }

        #[test]
        fn a_label_pattern_agrees_with_trying_every_split(pattern in "[ab*]{0,6}", label in "[ab]{0,8}") {
            fn slow(pattern: &[u8], label: &[u8]) -> bool {
                match pattern.split_first() {
                    None => label.is_empty(),
                    Some((b'*', rest)) => (0..=label.len()).any(|at| slow(rest, &label[at..])),
                    Some((c, rest)) => label.first() == Some(c) && slow(rest, &label[1..]),
                }
            }
            prop_assert_eq!(label_matches(&pattern, &label), slow(pattern.as_bytes(), label.as_bytes()));
        }
    }
}
