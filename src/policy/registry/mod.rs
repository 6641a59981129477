//! One registry as the gateway treats it: its hosts, whose credentials count, what may be asked.

use std::fmt;
use std::time::Duration;

use http::Uri;

use super::Via;
use super::builtin::Known;
use super::hosts::{Host, HostPattern, Target};
use super::patterns::{Patterns, TagTtl};
use super::ports::Ports;
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

    /// Whether the list of all repositories may be asked for; `Err` as above.
    pub fn allows_catalog(&self) -> Result<(), String> {
        match self.repositories.is_none() && self.deny_repositories.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "registry {}, which does not show all its repositories",
                self.name
            )),
        }
    }

    /// How long `tag` is answered without asking upstream; `default` is `cache.tag_ttl`.
    pub fn tag_ttl(&self, tag: &str, default: Duration) -> Duration {
        self.tag_ttl.for_tag(tag, default)
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

#[cfg(test)]
mod tests;
