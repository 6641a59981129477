//! Host names, targets and the patterns that name sets of hosts.
//!
//! Everything is parsed once, at the edge: a [`Host`] is known to be a DNS name or a complete IP
//! address, in lower case and without a trailing dot, so nothing further in has to wonder.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

/// A DNS name or an IP address, checked, in lower case, without a trailing dot or brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    text: Arc<str>,
    ip: Option<IpAddr>,
}

/// What a client asks to be connected to: `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

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

/// What a CA must be allowed to sign so that it can answer for a pattern's hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Constraint {
    /// A DNS subtree: the name and all that is below it.
    Dns(String),
    Ip(IpAddr),
}

/// Why a text is no [`Host`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    #[error("a host name must not be empty")]
    Empty,
    #[error("{0:?} is longer than a host name may be (253 characters, 63 between two dots)")]
    TooLong(String),
    #[error("{0:?} has an empty part between two dots")]
    EmptyLabel(String),
    #[error(
        "{host:?} is not a host name: {found:?} may not stand in one (letters, digits, `-`, `_` and dots may)"
    )]
    Character { host: String, found: char },
    #[error("{0:?} is not a host name: no part of it may begin or end with `-`")]
    Hyphen(String),
    #[error("{0:?} is neither a host name nor a complete IP address")]
    Numeric(String),
    #[error("{0:?} is not an IPv6 address")]
    Ipv6(String),
}

/// Why a text is no [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TargetError {
    #[error("{0:?} names no port; say host:port, for example registry.example:443")]
    NoPort(String),
    #[error("{0:?} is not a port (1 to 65535)")]
    Port(String),
    #[error(transparent)]
    Host(#[from] HostError),
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

// === impl Host ===

impl Host {
    /// The name or address as text: lower case, no brackets, no trailing dot.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if let Some(ip) = parse_ip(text)? {
            return Ok(Self::from(ip));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        check_name(name, false)?;
        // `127.1` and `0x7f000001` are addresses to some resolvers and names to none.
        let last = name.rsplit('.').next().unwrap_or(name);
        let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
        if last.bytes().all(|b| b.is_ascii_digit())
            || hex.is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(HostError::Numeric(shown(text)));
        }
        Ok(Self {
            text: name.to_ascii_lowercase().into(),
            ip: None,
        })
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self {
            text: ip.to_string().into(),
            ip: Some(ip),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl Target ===

impl Target {
    pub fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (host, port) = match text.rsplit_once(':') {
            // The last colon of `[::1]` or of a bare IPv6 address is no port's.
            Some((host, port))
                if !port.contains(']') && (host.ends_with(']') || !host.contains(':')) =>
            {
                (host, port)
            }
            _ => return Err(TargetError::NoPort(shown(text))),
        };
        let number = match port.bytes().all(|b| b.is_ascii_digit()) {
            true => port.parse::<u16>().ok().filter(|port| *port != 0),
            false => None,
        };
        let port = number.ok_or_else(|| TargetError::Port(shown(port)))?;
        Ok(Self::new(host.parse()?, port))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

// === impl HostPattern ===

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

/// An IP address, with or without brackets when it is IPv6; `None` when the text looks like a name.
fn parse_ip(text: &str) -> Result<Option<IpAddr>, HostError> {
    if let Some(inner) = text.strip_prefix('[') {
        let ip = inner
            .strip_suffix(']')
            .and_then(|ip| ip.parse::<Ipv6Addr>().ok());
        return match ip {
            Some(ip) => Ok(Some(IpAddr::V6(ip))),
            None => Err(HostError::Ipv6(shown(text))),
        };
    }
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(Some(ip)),
        Err(_) if text.matches(':').count() > 1 => Err(HostError::Ipv6(shown(text))),
        Err(_) => Ok(None),
    }
}

fn check_name(name: &str, wildcards: bool) -> Result<(), HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if name.len() > 253 || name.split('.').any(|label| label.len() > 63) {
        return Err(HostError::TooLong(shown(name)));
    }
    let odd =
        |c: &char| !(c.is_ascii_alphanumeric() || "-_.".contains(*c) || (wildcards && *c == '*'));
    if let Some(found) = name.chars().find(odd) {
        return Err(HostError::Character {
            host: shown(name),
            found,
        });
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(HostError::EmptyLabel(shown(name)));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(HostError::Hyphen(shown(name)));
        }
    }
    Ok(())
}

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

/// Text of a stranger, cut to what an error should carry.
fn shown(text: &str) -> String {
    text.chars().take(128).collect()
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

    #[test]
    fn a_host_is_a_name_or_a_whole_address() {
        let host = |text: &str| text.parse::<Host>();
        assert_eq!(
            host("Registry-1.Docker.IO.").unwrap().as_str(),
            "registry-1.docker.io"
        );
        assert_eq!(host("[::1]").unwrap().as_str(), "::1");
        assert_eq!(host("my_registry").unwrap().as_str(), "my_registry");
        assert!(matches!(host("127.1"), Err(HostError::Numeric(_))));
        assert!(matches!(host("0x7f000001"), Err(HostError::Numeric(_))));
        assert!(matches!(host("fe80::1%eth0"), Err(HostError::Ipv6(_))));
        assert!(matches!(
            host("user@host"),
            Err(HostError::Character { found: '@', .. })
        ));
        assert!(matches!(
            host("a b"),
            Err(HostError::Character { found: ' ', .. })
        ));
        assert!(matches!(
            host("größe.example"),
            Err(HostError::Character { .. })
        ));
        assert!(matches!(host("-a.example"), Err(HostError::Hyphen(_))));
        assert!(matches!(host("."), Err(HostError::Empty)));
        assert!(matches!(host(&"a".repeat(64)), Err(HostError::TooLong(_))));
        assert!(matches!(
            host(&"a.".repeat(140)),
            Err(HostError::TooLong(_))
        ));
    }

    #[test]
    fn a_target_is_a_host_and_a_port() {
        let target = |text: &str| text.parse::<Target>();
        assert_eq!(target("Ghcr.IO:443").unwrap().to_string(), "ghcr.io:443");
        assert_eq!(target("[::1]:8443").unwrap().to_string(), "[::1]:8443");
        assert_eq!(target("[::1]:8443").unwrap().port, 8443);
        for text in ["ghcr.io", "[::1]", "::1", "fd00::1:443", ""] {
            assert!(
                matches!(target(text), Err(TargetError::NoPort(_))),
                "{text}"
            );
        }
        for text in ["a:0", "a:65536", "a:+80", "a:", "a:https"] {
            assert!(matches!(target(text), Err(TargetError::Port(_))), "{text}");
        }
        assert!(matches!(target(":443"), Err(TargetError::Host(_))));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<HostPattern>();
            let _ = text.parse::<Host>();
            let _ = text.parse::<Target>();
            prop_assert!(!pattern("registry.example").matches(&text) || text.to_lowercase().starts_with("registry"));
        }

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
        fn a_host_prints_what_it_was_parsed_from(host in "[a-z][a-z0-9]{0,5}(\\.[a-z]{1,5}){0,4}") {
            let parsed: Host = host.parse().unwrap();
            prop_assert_eq!(parsed.as_str(), host.as_str());
            prop_assert!(host.parse::<HostPattern>().unwrap().covers(&parsed));
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
