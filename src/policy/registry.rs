//! One registry as the gateway treats it: its hosts, whose credentials count, what may be asked.

use std::fmt;
use std::time::Duration;

use globset::{GlobBuilder, GlobMatcher};
use http::Uri;
use thiserror::Error;

use super::Via;
use super::builtin::Known;
use super::hosts::{Host, HostPattern, Target};
use super::token_host::TokenHost;

/// One `[[registry]]` entry of the configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistryConfig {
    pub host: HostPattern,
    /// Empty: 443 for CONNECT and 80 for plain http (a well-known registry: CONNECT to 443 only).
    pub ports: Vec<u16>,
    pub auth: AuthMode,
    pub push: Push,
    pub tag_ttl: TagTtl,
    /// `None`: every repository.
    pub repositories: Option<Patterns>,
    pub deny_repositories: Patterns,
    pub enabled: bool,
    /// Where to ask instead of the host itself.
    pub url: Option<Uri>,
    /// Where its clients get tokens, beside where they are known to.
    pub token_hosts: Vec<TokenHost>,
}

/// A registry that is intercepted.
#[derive(Clone, Debug)]
pub struct Registry {
    /// `docker.io`, `ghcr.io`, or the configured host or pattern.
    pub name: String,
    /// The hosts that speak `/v2/` for it, search hosts included.
    pub hosts: Vec<HostPattern>,
    pub ports: Ports,
    pub auth: AuthMode,
    pub push: Push,
    pub tag_ttl: TagTtl,
    pub url: Option<Uri>,
    /// Those of its entry.
    pub token_hosts: Vec<TokenHost>,
    /// False: answered from the cache alone, never dialled.
    pub enabled: bool,
    pub repositories: Option<Patterns>,
    pub deny_repositories: Patterns,
    /// True when no `[[registry]]` entry speaks of it.
    pub builtin: bool,
    /// Its hosts are names of one and the same set of repositories (Docker Hub).
    pub one_namespace: bool,
}

/// The ports a registry is answered on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    listed: Vec<u16>,
    tls_only: bool,
}

/// Whose credentials go upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// The caller's own decide.
    #[default]
    Client,
    /// The gateway's own, for everybody that policy lets in.
    Gateway,
    /// The caller's where it sends any, else the gateway's.
    ClientOrGateway,
}

/// Whether an image may be pushed through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Push {
    #[default]
    Deny,
    Allow,
}

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

// === impl RegistryConfig ===

impl RegistryConfig {
    /// An entry that says nothing but its host.
    pub fn new(host: HostPattern) -> Self {
        Self {
            host,
            ports: Vec::new(),
            auth: AuthMode::default(),
            push: Push::default(),
            tag_ttl: TagTtl::default(),
            repositories: None,
            deny_repositories: Patterns::default(),
            enabled: true,
            url: None,
            token_hosts: Vec::new(),
        }
    }
}

// === impl Registry ===

impl Registry {
    /// The registry of a row of the table that no entry speaks of.
    pub(super) fn well_known(row: &Known) -> Self {
        let patterns = row.hosts.iter().chain(row.search);
        Self {
            name: row.name.to_owned(),
            // A test parses every row of the table.
            hosts: patterns.filter_map(|text| text.parse().ok()).collect(),
            ports: Ports::new(Vec::new(), true),
            auth: AuthMode::default(),
            push: Push::default(),
            tag_ttl: TagTtl::default(),
            url: None,
            token_hosts: Vec::new(),
            enabled: true,
            repositories: None,
            deny_repositories: Patterns::default(),
            builtin: true,
            one_namespace: row.one_namespace,
        }
    }

    /// The registry of an entry, which takes its hosts from `row` when that one's hosts are names
    /// of the same registry.
    pub(super) fn configured(config: RegistryConfig, row: Option<&Known>) -> Self {
        let base = row.filter(|row| row.one_namespace).map(Self::well_known);
        let (name, hosts, one_namespace) = match base {
            Some(base) => (base.name, base.hosts, true),
            None => (config.host.to_string(), vec![config.host], false),
        };
        Self {
            name,
            hosts,
            ports: Ports::of(config.ports, row),
            auth: config.auth,
            push: config.push,
            tag_ttl: config.tag_ttl,
            url: config.url,
            token_hosts: config.token_hosts,
            enabled: config.enabled,
            repositories: config.repositories,
            deny_repositories: config.deny_repositories,
            builtin: false,
            one_namespace,
        }
    }

    /// The name under which what is cached and granted for `target` belongs: two targets with the
    /// same namespace hold the same repositories, whatever host they are asked by.
    ///
    /// `docker.io` for all of Docker Hub's hosts; otherwise the host, with the port unless it is
    /// 443, and with `http://` before it where the bytes were not protected on their way.
    pub fn namespace(&self, via: Via, target: &Target) -> String {
        let tls = via == Via::Connect;
        match (tls, self.one_namespace && tls && target.port == 443) {
            (_, true) => self.name.clone(),
            (true, _) if target.port == 443 => target.host.to_string(),
            (true, _) => target.to_string(),
            (false, _) => format!("http://{target}"),
        }
    }

    /// Whether `host` speaks `/v2/` for this registry.
    pub fn serves(&self, host: &Host) -> bool {
        self.hosts.iter().any(|pattern| pattern.covers(host))
    }

    /// The hosts it is dialled at, its token service's with them: those that a certificate of ours is
    /// shown to.
    pub fn own_hosts(&self) -> Vec<HostPattern> {
        let elsewhere = self.url.as_ref().and_then(Uri::host);
        let elsewhere = elsewhere.and_then(|host| host.parse().ok());
        let tokens = self.token_hosts.iter().map(|token| token.host.clone());
        let hosts = self.hosts.iter().cloned();
        hosts.chain(elsewhere).chain(tokens).collect()
    }

    /// Whether the repository may be asked for; `Err` is the rule that denies it, to be read
    /// after "denied by".
    pub fn allows_repository(&self, repository: &str) -> Result<(), String> {
        let short = match self.name.as_str() {
            // `alpine` in the configuration means what it means to `docker pull`.
            "docker.io" => repository.strip_prefix("library/"),
            _ => None,
        };
        let on = |list: &Patterns| {
            list.first_match(repository)
                .or_else(|| short.and_then(|short| list.first_match(short)))
                .map(str::to_owned)
        };
        if let Some(pattern) = on(&self.deny_repositories) {
            return Err(format!(
                "deny_repositories of registry {}, whose pattern {pattern:?} matches {repository}",
                self.name
            ));
        }
        match &self.repositories {
            Some(list) if on(list).is_none() => Err(format!(
                "repositories = {list} of registry {}, which does not list {repository}",
                self.name
            )),
            _ => Ok(()),
        }
    }

    /// How long `tag` is answered without asking upstream; `default` is `cache.tag_ttl`.
    pub fn tag_ttl(&self, tag: &str, default: Duration) -> Duration {
        self.tag_ttl.for_tag(tag, default)
    }
}

// === impl Ports ===

impl Ports {
    pub(super) fn new(listed: Vec<u16>, tls_only: bool) -> Self {
        Self { listed, tls_only }
    }

    /// Those of an entry; a well-known registry is TLS only unless its entry lists ports.
    pub(super) fn of(listed: Vec<u16>, row: Option<&Known>) -> Self {
        let tls_only = row.is_some() && listed.is_empty();
        Self::new(listed, tls_only)
    }

    /// The first port that both are answered on, in the same way.
    pub(super) fn shared(&self, other: &Self) -> Option<u16> {
        let usual = [Via::Connect, Via::Http].map(Via::default_port);
        self.listed.iter().copied().chain(usual).find(|port| {
            [Via::Connect, Via::Http]
                .iter()
                .any(|via| self.allow(*via, *port) && other.allow(*via, *port))
        })
    }

    pub fn allow(&self, via: Via, port: u16) -> bool {
        if via == Via::Http && self.tls_only {
            return false;
        }
        match self.listed.as_slice() {
            [] => port == via.default_port(),
            listed => listed.contains(&port),
        }
    }

    /// The ports it is answered on in TLS.
    pub fn tls(&self) -> &[u16] {
        match self.listed.as_slice() {
            [] => &[443],
            listed => listed,
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.listed.as_slice(), self.tls_only) {
            ([], true) => f.write_str("443 over TLS only"),
            ([], false) => f.write_str("443, or 80 for plain http, only"),
            (listed, _) => {
                let listed: Vec<String> = listed.iter().map(u16::to_string).collect();
                write!(f, "{} only", listed.join(", "))
            }
        }
    }
}

// === impl AuthMode, Push ===

impl fmt::Display for AuthMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Gateway => "gateway",
            Self::ClientOrGateway => "client-or-gateway",
        })
    }
}

impl fmt::Display for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        })
    }
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

// === helpers ===

#[derive(Clone)]
struct Pattern {
    text: String,
    glob: GlobMatcher,
}

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
    use proptest::prelude::*;

    use super::*;
    use crate::policy::builtin::KNOWN;

    fn registry(host: &str) -> RegistryConfig {
        RegistryConfig::new(host.parse().unwrap())
    }

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_repository_pattern_matches_nested_names_too() {
        let mut config = registry("registry.example");
        config.repositories = Some(Patterns::new(["team/*", "base"]).unwrap());
        let registry = Registry::configured(config, None);
        assert_eq!(registry.allows_repository("team/app"), Ok(()));
        assert_eq!(registry.allows_repository("team/a/b/c"), Ok(()));
        assert_eq!(registry.allows_repository("base"), Ok(()));
        assert!(registry.allows_repository("basement").is_err());
        let denied = registry.allows_repository("other/app").unwrap_err();
        assert_eq!(
            denied,
            "repositories = [\"team/*\", \"base\"] of registry registry.example, which does not list other/app"
        );
    }

    #[test]
    fn a_denied_repository_stays_denied_though_it_is_listed() {
        let mut config = registry("registry.example");
        config.repositories = Some(Patterns::new(["*"]).unwrap());
        config.deny_repositories = Patterns::new(["team/secret*"]).unwrap();
        let registry = Registry::configured(config, None);
        assert_eq!(registry.allows_repository("team/app"), Ok(()));
        let denied = registry.allows_repository("team/secret/x").unwrap_err();
        assert!(denied.starts_with("deny_repositories of registry registry.example"));
        assert!(denied.contains("\"team/secret*\""), "{denied}");
    }

    #[test]
    fn an_empty_list_of_repositories_allows_none() {
        let mut config = registry("registry.example");
        config.repositories = Some(Patterns::default());
        let registry = Registry::configured(config, None);
        assert!(registry.allows_repository("team/app").is_err());
    }

    #[test]
    fn an_official_image_of_docker_hub_goes_by_its_short_name_too() {
        let mut config = registry("docker.io");
        config.deny_repositories = Patterns::new(["alpine"]).unwrap();
        let hub = Registry::configured(config, Some(&KNOWN[0]));
        assert!(hub.allows_repository("library/alpine").is_err());
        assert!(hub.allows_repository("someone/alpine").is_ok());
    }

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

    #[test]
    fn docker_hub_is_one_namespace_and_other_hosts_are_their_own() {
        let hub = Registry::well_known(&KNOWN[0]);
        for host in ["registry-1.docker.io:443", "index.docker.io:443"] {
            assert_eq!(hub.namespace(Via::Connect, &target(host)), "docker.io");
        }
        let other = Registry::configured(registry("*.example"), None);
        let name = |via, text| other.namespace(via, &target(text));
        assert_eq!(name(Via::Connect, "a.example:443"), "a.example");
        assert_eq!(name(Via::Connect, "b.example:443"), "b.example");
        assert_eq!(name(Via::Connect, "a.example:5000"), "a.example:5000");
        assert_eq!(name(Via::Http, "a.example:5000"), "http://a.example:5000");
    }

    #[test]
    fn ports_default_to_the_schemes_own() {
        let plain = Ports::new(vec![], false);
        assert!(plain.allow(Via::Connect, 443) && plain.allow(Via::Http, 80));
        assert!(!plain.allow(Via::Connect, 80) && !plain.allow(Via::Http, 443));
        let known = Ports::new(vec![], true);
        assert!(known.allow(Via::Connect, 443) && !known.allow(Via::Http, 80));
        let listed = Ports::new(vec![5000], false);
        assert!(listed.allow(Via::Connect, 5000) && listed.allow(Via::Http, 5000));
        assert!(!listed.allow(Via::Connect, 443));
        assert_eq!(listed.to_string(), "5000 only");
    }

    proptest! {
        #[test]
        fn a_pattern_that_parses_matches_without_panicking(pattern in "\\PC{0,20}", name in "\\PC{0,20}") {
            if let Ok(patterns) = Patterns::new([pattern]) {
                let _ = patterns.first_match(&name);
            }
        }

        #[test]
        fn what_is_denied_is_denied_with_any_allowlist(name in "[a-z]{1,8}(/[a-z]{1,8}){0,3}") {
            let mut config = registry("registry.example");
            config.deny_repositories = Patterns::new([&name]).unwrap();
            config.repositories = Some(Patterns::new([&name, "*"]).unwrap());
            prop_assert!(Registry::configured(config, None).allows_repository(&name).is_err());
        }
    }
}
