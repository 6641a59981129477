//! CONNECTION → VERDICT: may this client reach this target, and how. Pure: no I/O, no clock.
//!
//! The order is: `[[policy.rule]]`, first match; then the `[[registry]]` entries, a host written
//! out before a pattern; then the well-known registries; then `policy.default`.

mod builtin;
mod denial;
mod explain;
mod guard;
mod hosts;
mod patterns;
mod place;
mod ports;
mod registry;
mod rules;
mod token_host;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use self::builtin::{KNOWN, Known};
pub use self::explain::explain;
pub use self::guard::{AddressGuard, Refused};
pub use self::hosts::{
    Constraint, Host, HostError, HostPattern, PatternError, Target, TargetError,
};
pub use self::patterns::{GlobError, Patterns, TagTtl};
use self::place::{Place, places, token_places};
pub use self::ports::Ports;
pub use self::registry::{AuthMode, Push, Registry, RegistryConfig};
use self::rules::Fit;
pub use self::rules::{Fallback, PolicyConfig, RuleAction, RuleConfig, Via};
pub use self::token_host::{TokenHost, TokenHostError};

/// Who may reach what.
#[derive(Debug)]
pub struct Policy {
    fallback: Fallback,
    rules: Vec<RuleConfig>,
    /// In the order of precedence.
    sites: Vec<Place>,
    registries: Vec<Arc<Registry>>,
}

/// What happens to a request, and by which rule.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub action: Action,
    pub rule: RuleName,
}

#[derive(Clone, Debug)]
pub enum Action {
    /// Terminate TLS (or read the plain http) and answer as the registry.
    Intercept(Arc<Site>),
    /// Copy the bytes untouched (plain http: forward as it is).
    Tunnel,
    Deny {
        /// One sentence: what denies it.
        reason: String,
        /// What to do about it, with the lines of configuration that allow it. Several lines.
        mend: String,
    },
}

/// A host that is intercepted.
#[derive(Debug)]
pub struct Site {
    pub registry: Arc<Registry>,
    pub role: Role,
}

/// What a host does for its registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Speaks `/v2/`.
    Registry,
    /// Hands out tokens; nothing of it is cached.
    Auth {
        /// When given, only paths that begin so are relayed: the host does other things too.
        path_prefix: Option<Arc<str>>,
    },
    /// Answers searches, and speaks `/v2/` like [`Role::Registry`].
    Search,
}

/// The rule that decided, as a person finds it in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RuleName {
    /// The number counts from one.
    Rule(usize),
    Registry {
        name: String,
        builtin: bool,
    },
    Default,
}

/// All that the CA may have to sign for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameConstraints {
    /// DNS subtrees, sorted, none inside another.
    pub dns: Vec<String>,
    /// Sorted.
    pub ips: Vec<IpAddr>,
    /// A registry is configured as `*`: no constraint can hold it.
    pub everything: bool,
}

// === impl Policy ===

impl Policy {
    /// `builtin`: whether the well-known public registries are answered.
    pub fn new(config: PolicyConfig, registries: Vec<RegistryConfig>, builtin: bool) -> Self {
        let mut taken: BTreeSet<&'static str> = BTreeSet::new();
        let mut configured = Vec::new();
        for entry in registries {
            let row = builtin::row_of(&entry.host);
            let whole = row.filter(|row| row.one_namespace);
            if let Some(row) = whole {
                taken.insert(row.name);
            }
            configured.push((Arc::new(Registry::configured(entry, row)), row));
        }
        // A host written out comes before a pattern that covers it; the sort is stable.
        configured
            .sort_by_key(|(registry, _)| registry.hosts.iter().any(|host| host.exact().is_none()));
        let known = KNOWN
            .iter()
            .filter(|row| builtin && row.public && !taken.contains(row.name))
            .map(|row| (Arc::new(Registry::well_known(row)), Some(row)));
        let all: Vec<(Arc<Registry>, Option<&Known>)> =
            configured.into_iter().chain(known).collect();

        let serving = all
            .iter()
            .flat_map(|(registry, row)| places(registry, *row));
        // Token hosts come last: no row may take a configured registry's host away.
        let tokens = all
            .iter()
            .flat_map(|(registry, row)| token_places(registry, *row));
        Self {
            fallback: config.default,
            rules: config.rules,
            sites: serving.chain(tokens).collect(),
            registries: all.into_iter().map(|(registry, _)| registry).collect(),
        }
    }

    /// The same with a registry switched on or off; `None` where no registry has that name.
    pub fn switched(&self, name: &str, enabled: bool) -> Option<Self> {
        let switch = |registry: &Arc<Registry>| match registry.name == name {
            true => Arc::new(Registry {
                enabled,
                ..Registry::clone(registry)
            }),
            false => Arc::clone(registry),
        };
        if !self.registries.iter().any(|registry| registry.name == name) {
            return None;
        }
        let sites = self.sites.iter().map(|place| Place {
            pattern: place.pattern.clone(),
            ports: place.ports.clone(),
            site: Arc::new(Site {
                registry: switch(&place.site.registry),
                role: place.site.role.clone(),
            }),
        });
        Some(Self {
            fallback: self.fallback,
            rules: self.rules.clone(),
            sites: sites.collect(),
            registries: self.registries.iter().map(switch).collect(),
        })
    }

    /// What happens when `client`, known as `user`, asks for `target`.
    pub fn decide(&self, client: IpAddr, user: Option<&str>, via: Via, target: &Target) -> Verdict {
        let request = denial::Request {
            client,
            user,
            via,
            target,
        };
        for (at, rule) in self.rules.iter().enumerate() {
            if rule.fits(client, user, via, target) == Fit::Matches {
                let action = match rule.action {
                    RuleAction::Tunnel => Action::Tunnel,
                    RuleAction::Deny => denial::by_rule(self, at, request),
                };
                let rule = RuleName::Rule(at + 1);
                return Verdict { action, rule };
            }
        }
        if let Some(site) = self.site(via, target) {
            return Verdict {
                rule: RuleName::of(&site.registry),
                action: Action::Intercept(site),
            };
        }
        let action = match self.fallback {
            Fallback::Tunnel => Action::Tunnel,
            Fallback::Deny => denial::by_default(self, request),
        };
        Verdict {
            action,
            rule: RuleName::Default,
        }
    }

    /// The registry that is known by `host`, whatever the rules say: a name like `docker.io`, or
    /// one of its hosts. Without a port: the one on 443, or else on 80.
    pub fn registry_for(&self, host: &str, port: Option<u16>) -> Option<Arc<Registry>> {
        let host: Host = host.parse().ok()?;
        let answers = |registry: &Registry| match port {
            Some(port) => [Via::Connect, Via::Http]
                .iter()
                .any(|via| registry.ports.allow(*via, port)),
            None => registry.ports.allow(Via::Connect, 443) || registry.ports.allow(Via::Http, 80),
        };
        self.registries
            .iter()
            .filter(|registry| answers(registry))
            .find(|registry| {
                registry.serves(&host) || (registry.one_namespace && registry.name == host.as_str())
            })
            .cloned()
    }

    /// Whether a registry or a rule has this very host.
    pub fn speaks_of(&self, host: &str) -> bool {
        let Ok(host) = host.parse::<Host>() else {
            return false;
        };
        let mut written = self.rules.iter().flat_map(|rule| &rule.hosts);
        written.any(|pattern| pattern.exact().as_ref() == Some(&host))
            || self.registry_for(host.as_str(), None).is_some()
            || self
                .sites
                .iter()
                .any(|place| place.pattern.exact().as_ref() == Some(&host))
    }

    /// Where the registry of that name, which may have a port, is asked.
    pub fn target_of(&self, name: &str) -> Option<Target> {
        let written: Target = name
            .parse()
            .or_else(|_| format!("{name}:443").parse())
            .ok()?;
        let port = name.parse::<Target>().ok().map(|target| target.port);
        let registry = self.registry_for(written.host.as_str(), port)?;
        if registry.serves(&written.host) {
            return Some(written);
        }
        let host = registry.hosts.iter().find_map(|host| host.exact())?;
        Some(Target::new(host, written.port))
    }

    /// Every registry that is answered, in the order of precedence.
    pub fn registries(&self) -> &[Arc<Registry>] {
        &self.registries
    }

    /// What a CA must be allowed to sign so that every intercepted host can be answered.
    pub fn name_constraints(&self) -> NameConstraints {
        let mut dns = BTreeSet::new();
        let mut ips = BTreeSet::new();
        let mut everything = false;
        for place in self.sites.iter().filter(|place| !self.stands_aside(place)) {
            match place.pattern.constraint() {
                Some(Constraint::Dns(name)) => drop(dns.insert(name)),
                Some(Constraint::Ip(ip)) => drop(ips.insert(ip)),
                None => everything = true,
            }
        }
        let inside = |name: &str| {
            let mut rest = name;
            while let Some((_, above)) = rest.split_once('.') {
                if dns.contains(above) {
                    return true;
                }
                rest = above;
            }
            false
        };
        NameConstraints {
            dns: dns.iter().filter(|name| !inside(name)).cloned().collect(),
            ips: ips.into_iter().collect(),
            everything,
        }
    }

    fn site(&self, via: Via, target: &Target) -> Option<Arc<Site>> {
        self.sites
            .iter()
            .filter(|place| !self.stands_aside(place))
            .find(|place| place.pattern.covers(&target.host) && place.ports.allow(via, target.port))
            .map(|place| Arc::clone(&place.site))
    }

    /// A token host that does other things too (all of gitlab.com) is cut down to its tokens where
    /// the rest is denied anyway; where everything else may pass, it passes untouched.
    fn stands_aside(&self, place: &Place) -> bool {
        let shared = matches!(
            place.site.role,
            Role::Auth {
                path_prefix: Some(_)
            }
        );
        shared && self.fallback == Fallback::Tunnel
    }
}

// === impl Role ===

impl Role {
    /// Whether the host speaks `/v2/`.
    pub fn is_registry(&self) -> bool {
        matches!(self, Self::Registry | Self::Search)
    }
}

// === impl RuleName ===

impl RuleName {
    fn of(registry: &Registry) -> Self {
        Self::Registry {
            name: registry.name.clone(),
            builtin: registry.builtin,
        }
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(number) => write!(f, "policy.rule {number}"),
            Self::Registry {
                name,
                builtin: true,
            } => write!(f, "registry {name} (built in)"),
            Self::Registry { name, .. } => write!(f, "registry {name}"),
            Self::Default => f.write_str("policy.default"),
        }
    }
}

// === impl NameConstraints ===

impl NameConstraints {
    /// Whether a CA with these constraints may sign for `host`.
    pub fn cover(&self, host: &Host) -> bool {
        let name = host.as_str();
        let below = |tree: &String| {
            name.strip_suffix(tree.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        match host.ip() {
            _ if self.everything => true,
            Some(ip) => self
                .ips
                .iter()
                .any(|mine| mine.to_canonical() == ip.to_canonical()),
            None => self.dns.iter().any(below),
        }
    }
}

/// The first port on which two entries speak of the very same hosts, so that the second would never
/// be asked there. A pattern and a host that it covers are not the same: the host goes first.
pub fn shared_port(one: &RegistryConfig, other: &RegistryConfig) -> Option<u16> {
    let row = |entry: &RegistryConfig| builtin::row_of(&entry.host);
    let name = |entry: &RegistryConfig| match row(entry) {
        Some(row) if row.one_namespace => row.name.to_owned(),
        _ => entry.host.to_string(),
    };
    let same_address = || {
        let (one, other) = (one.host.exact()?.ip()?, other.host.exact()?.ip()?);
        Some(one.to_canonical() == other.to_canonical())
    };
    if name(one) != name(other) && same_address() != Some(true) {
        return None;
    }
    let ports = |entry: &RegistryConfig| Ports::of(entry.ports.clone(), row(entry));
    ports(one).shared(&ports(other))
}

#[cfg(test)]
mod tests;
