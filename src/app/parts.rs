//! What several commands make of the configuration: rooms in part, each from its own keys.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::cache::space::Bounds;
use crate::config::{Config, RegistryTls};
use crate::policy::{AddressGuard, Host, HostPattern, NameConstraints, Policy, Registry};
use crate::registry::RegistryRules;
use crate::tls::{self, Authority, CaConfig, Front, Leaves, Notice, Roots, RootsError};
use crate::upstream::credentials::Credentials;
use crate::upstream::dial::Dialer;
use crate::upstream::parent::Parent;
use crate::upstream::{Tls, Upstream, Way};
use crate::wire::pace::Patience;

/// The gateway's own logins, by the name of the registry they are for.
pub fn robots(config: &Config, policy: &Policy) -> HashMap<String, Arc<Credentials>> {
    let mut robots = HashMap::new();
    for login in &config.logins {
        if let Some(registry) = configured(policy, &login.host) {
            robots.insert(
                registry.name.clone(),
                Credentials::new(login.source.clone()),
            );
        }
    }
    robots
}

/// What the registry of that name has of its own for TLS.
pub fn registry_tls<'a>(
    config: &'a Config,
    policy: &Policy,
    name: &str,
) -> Option<&'a RegistryTls> {
    let of = |host| configured(policy, host).is_some_and(|registry| registry.name == name);
    let entry = config.registry_tls.iter().find(|(host, _)| of(host));
    entry.map(|(_, files)| files)
}

/// The registry that the entry of this host is about.
fn configured<'a>(policy: &'a Policy, host: &HostPattern) -> Option<&'a Registry> {
    let same = |one: &HostPattern| one.as_str() == host.as_str();
    let mut registries = policy.registries().iter().map(Arc::as_ref);
    registries.find(|registry| {
        !registry.builtin && (registry.name == host.as_str() || registry.hosts.iter().any(same))
    })
}

/// How TLS is spoken beyond.
pub struct Beyond {
    pub tls: rustls::ClientConfig,
    /// Registries that want other TLS, by name.
    pub own: HashMap<String, Tls>,
    /// What the owner should hear, though it stops nothing.
    pub warnings: Vec<String>,
}

/// Reads the roots, and the certificates and keys that registries have of their own.
pub fn beyond(config: &Config, policy: &Policy) -> Result<Beyond, Unusable> {
    let (roots, warnings) =
        Roots::load(config.upstream.ca_file.as_deref()).map_err(Unusable::new)?;
    let mut own = HashMap::new();
    for (host, files) in &config.registry_tls {
        let Some(registry) = configured(policy, host) else {
            continue;
        };
        let tls = own_tls(&roots, registry, files).map_err(Unusable::new)?;
        own.insert(registry.name.clone(), tls);
    }
    let tls = roots.client_config().map_err(Unusable::new)?;
    Ok(Beyond { tls, own, warnings })
}

fn own_tls(roots: &Roots, registry: &Registry, files: &RegistryTls) -> Result<Tls, RootsError> {
    let name = &registry.name;
    let roots = match &files.ca_file {
        Some(file) => roots.and(name, file)?,
        None => roots.clone(),
    };
    let known_to = match &files.client {
        Some((certificate, key)) => {
            let config = roots.client_config_as(name, certificate, key)?;
            Some((registry.own_hosts(), config))
        }
        None => None,
    };
    Ok(Tls {
        anyone: roots.client_config()?,
        known_to,
    })
}

/// How long a tag of a registry, as people write it, is answered without asking upstream; `default` is
/// `cache.tag_ttl`.
pub(super) fn tag_ttl(policy: &Policy, registry: &str, tag: &str, default: Duration) -> Duration {
    let mut all = policy.registries().iter();
    let named = all.find(|one| one.name == registry).cloned();
    match named.or_else(|| policy.registry_for(registry, None)) {
        Some(registry) => registry.tag_ttl(tag, default),
        None => default,
    }
}

/// How everything beyond is reached.
pub(super) fn way(config: &Config, beyond: Beyond, parent: Option<Parent>) -> Way {
    let dialer = Dialer::new(
        AddressGuard::new(config.upstream.allow_private.clone()),
        config.upstream.resolve.clone(),
        config.limits.upstream_connect,
    );
    let idle = config.limits.upstream_idle;
    Way::new(beyond.tls, beyond.own, dialer.behind(parent), idle)
}

/// What asks upstream, for a command that asks once.
pub(super) fn upstream(config: &Config, policy: &Policy) -> anyhow::Result<Upstream> {
    let beyond = beyond(config, policy)?;
    let via = via()?;
    let parent = parent(config, &beyond.tls, via.clone())?;
    let way = way(config, beyond, parent);
    Ok(Upstream::new(way, via, Arc::default()))
}

pub(super) fn bounds(config: &Config) -> Bounds {
    Bounds {
        max_size: config.cache.max_size,
        min_free: config.cache.min_free,
    }
}

/// How long clients may take.
pub(super) fn patience(config: &Config) -> Patience {
    Patience {
        head: config.limits.client_headers,
        idle: config.limits.client_idle,
    }
}

/// What requests to registries are answered by.
pub(super) fn rules(config: &Config, robots: HashMap<String, Arc<Credentials>>) -> RegistryRules {
    RegistryRules {
        tag_ttl: config.cache.tag_ttl,
        offline_for: config.cache.offline_for,
        revalidate_timeout: config.cache.revalidate_timeout,
        manifest_size: config.limits.manifest_size,
        lookahead: config.upstream.lookahead,
        robots,
    }
}

/// The CA as configured, made or re-issued where it has to be.
pub fn authority(config: &Config, policy: &Policy) -> anyhow::Result<(Authority, Vec<Notice>)> {
    Authority::open_or_create(
        &ca_config(config, policy),
        &name_constraints(config, policy),
    )
    .map_err(|e| match config.ca.certificate {
        Some(_) => Unusable::new(e).into(),
        None => e.into(),
    })
}

/// `upstream.proxy`, where it is set. `via` is what this gateway signs with.
pub fn parent(
    config: &Config,
    tls: &rustls::ClientConfig,
    via: HeaderValue,
) -> anyhow::Result<Option<Parent>> {
    let Some(parent) = &config.upstream.parent else {
        return Ok(None);
    };
    Parent::new(parent.url.reveal(), &parent.no_proxy, tls, via)
        .map(Some)
        .map_err(|e| Unusable::new(e).into())
}

/// What the configuration names and cannot be used: as bad as the configuration itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

impl Unusable {
    pub fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// `[ca]` in the terms of its room.
pub fn ca_config(config: &Config, policy: &Policy) -> CaConfig {
    CaConfig {
        dir: config.ca.dir.clone(),
        certificate: config.ca.certificate.clone(),
        key: config.ca.key.clone(),
        // A registry `*` may be any name: there is nothing to constrain to.
        name_constraints: config.ca.name_constraints && !policy.name_constraints().everything,
    }
}

/// Rules that name users whom nobody can be; worth a word, because the file may yet get them.
pub fn strangers(config: &Config, knows: impl Fn(&str) -> bool) -> Vec<String> {
    let mut told = Vec::new();
    for (at, rule) in config.policy.rules.iter().enumerate() {
        for user in rule.users.iter().filter(|user| !knows(user)) {
            told.push(format!(
                "policy.rule {} is for the user {user}, whom policy.users_file does not have",
                at + 1
            ));
        }
    }
    told
}

/// What the CA may sign for.
pub fn name_constraints(config: &Config, policy: &Policy) -> tls::NameConstraints {
    let NameConstraints {
        mut dns, mut ips, ..
    } = policy.name_constraints();
    if config.listen.tls.is_none() {
        for name in own_names(config) {
            match name.ip() {
                Some(ip) => ips.push(ip),
                None => dns.push(name.to_string()),
            }
        }
    }
    tls::NameConstraints { dns, ips }
}

/// What clients call the gateway itself, where it needs a certificate of its own.
pub(super) fn own_names(config: &Config) -> Vec<Host> {
    let listen = &config.listen;
    if listen.proxy_tls.is_empty() {
        return Vec::new();
    }
    if !listen.names.is_empty() {
        return listen.names.clone();
    }
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_str().ok().map(str::to_owned);
    let bound = listen.proxy_tls.iter().map(SocketAddr::ip);
    let bound = bound.filter(|ip| !ip.is_unspecified());
    let names = machine.into_iter().chain(bound.map(|ip| ip.to_string()));
    // A machine may be called what no host can be.
    names.filter_map(|name| name.parse().ok()).collect()
}

/// What `listen.proxy_tls` shows its clients.
pub(super) fn front(config: &Config, leaves: &Arc<Leaves>) -> anyhow::Result<Option<Arc<Front>>> {
    if config.listen.proxy_tls.is_empty() {
        return Ok(None);
    }
    let front = match &config.listen.tls {
        Some((certificate, key)) => Front::given(certificate, key),
        None => Front::minted(leaves.clone(), &front_names(config)?),
    };
    Ok(Some(Arc::new(front.map_err(Unusable::new)?)))
}

/// What the certificate for `listen.proxy_tls` is minted for, where none is given.
pub fn front_names(config: &Config) -> Result<Vec<String>, Unusable> {
    let names: Vec<String> = own_names(config).iter().map(Host::to_string).collect();
    match names.is_empty() {
        true => Err(Unusable::new(
            "this machine's name is no host name, and `listen.proxy_tls` is bound to no address in particular: say listen.names = [\"…\"], as clients call the gateway",
        )),
        false => Ok(names),
    }
}

/// A name for this process, so that it knows its own requests when they come back.
pub(super) fn via() -> anyhow::Result<HeaderValue> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
    let id = u32::from_le_bytes(random);
    Ok(HeaderValue::try_from(format!("1.1 pierhead-{id:08x}"))?)
}
