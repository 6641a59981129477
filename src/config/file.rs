//! `pierhead.toml` as it is written: one struct for each heading, with its defaults. Nothing
//! outside `config` sees these.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::units::{Bind, Fixed, Limit, Maybe, Net, Period, Secret, Size, Text, Url};
use crate::oci::manifest::Platform;
use crate::oci::name::ImageName;
use crate::policy::{
    AuthMode, Fallback, Host, HostPattern, Patterns, Push, RuleAction, TagTtl, Target, TokenHost,
};

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    pub builtin_registries: bool,
    pub watch_config: bool,
    pub listen: Listen,
    pub admin: Admin,
    pub ca: Ca,
    pub cache: Cache,
    pub upstream: Upstream,
    pub policy: Policy,
    pub limits: Limits,
    pub log: Log,
    pub registry: Vec<Registry>,
    pub prefetch: Vec<Prefetch>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    pub proxy: Vec<Text<Bind>>,
    pub proxy_tls: Vec<Text<Bind>>,
    pub names: Vec<Text<Host>>,
    pub tls_certificate: Maybe<PathBuf>,
    pub tls_key: Maybe<PathBuf>,
    pub admin: Maybe<Bind>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    pub users_file: Maybe<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ca {
    pub dir: PathBuf,
    pub certificate: Maybe<PathBuf>,
    pub key: Maybe<PathBuf>,
    pub name_constraints: bool,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    pub dir: PathBuf,
    pub max_size: Size,
    pub min_free: Size,
    pub tag_ttl: Period,
    pub revalidate_timeout: Limit,
    pub offline_for: Period,
    pub shared: Shared,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shared {
    pub url: Maybe<String>,
    pub endpoint: Maybe<String>,
    pub region: Maybe<String>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    pub ca_file: Maybe<PathBuf>,
    pub proxy: Option<Secret>,
    pub no_proxy: Option<Vec<String>>,
    pub allow_private: Vec<Text<Net>>,
    #[serde(deserialize_with = "resolve")]
    pub resolve: Resolve,
    pub parallel: NonZeroUsize,
    pub lookahead: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    #[serde(with = "FallbackText")]
    pub default: Fallback,
    pub users_file: Maybe<PathBuf>,
    pub rule: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(with = "RuleActionText")]
    pub action: RuleAction,
    #[serde(deserialize_with = "some_hosts")]
    pub hosts: Vec<HostPattern>,
    #[serde(default, deserialize_with = "some_ports")]
    pub ports: Vec<NonZeroU16>,
    #[serde(default, deserialize_with = "some_clients")]
    pub clients: Vec<Text<Net>>,
    #[serde(default, deserialize_with = "some_users")]
    pub users: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub client_headers: Limit,
    pub client_idle: Limit,
    pub upstream_connect: Limit,
    pub upstream_idle: Limit,
    pub drain: Period,
    pub connections_per_client: NonZeroUsize,
    pub manifest_size: Size,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub format: super::LogFormat,
    pub level: super::LogLevel,
    pub otlp: Maybe<Url>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    pub host: Text<HostPattern>,
    #[serde(default, deserialize_with = "some_ports")]
    pub ports: Vec<NonZeroU16>,
    #[serde(default, with = "AuthModeText")]
    pub auth: AuthMode,
    #[serde(default)]
    pub username: Maybe<String>,
    #[serde(default)]
    pub password_file: Maybe<PathBuf>,
    #[serde(default)]
    pub password_env: Maybe<String>,
    #[serde(default)]
    pub docker_config: Maybe<PathBuf>,
    #[serde(default, with = "PushText")]
    pub push: Push,
    #[serde(default, deserialize_with = "tag_ttl")]
    pub tag_ttl: TagTtl,
    #[serde(default, deserialize_with = "some_patterns")]
    pub repositories: Option<Patterns>,
    #[serde(default, deserialize_with = "patterns")]
    pub deny_repositories: Patterns,
    #[serde(default = "yes")]
    pub enabled: bool,
    #[serde(default)]
    pub url: Maybe<Url>,
    #[serde(default)]
    pub token_hosts: Vec<Text<TokenHost>>,
    #[serde(default)]
    pub ca_file: Maybe<PathBuf>,
    #[serde(default)]
    pub client_certificate: Maybe<PathBuf>,
    #[serde(default)]
    pub client_key: Maybe<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prefetch {
    #[serde(deserialize_with = "some_images")]
    pub images: Vec<Text<ImageName>>,
    #[serde(default, deserialize_with = "some_platforms")]
    pub platforms: Vec<Text<Platform>>,
    #[serde(default = "hourly")]
    pub interval: Limit,
}

/// Fixed addresses by `host` or `host:port`.
pub type Resolve = HashMap<String, (IpAddr, Option<u16>)>;

/// A key of the contract that is set and that this version does not fulfil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotYet {
    pub key: &'static str,
    /// Of `[[registry]]`; counts from one.
    pub entry: Option<usize>,
    /// To be read before "is not in this version".
    pub feature: &'static str,
}

/// The first key whose promise this version cannot keep, where ignoring it would be unsafe: a
/// gateway without the shared store its owner named is not what was configured.
///
/// A feature that arrives deletes its line here.
pub fn not_yet(file: &File) -> Option<NotYet> {
    let one = |set: bool, key, feature| set.then_some((key, None, feature));
    let found = [one(
        file.cache.shared.url.0.is_some(),
        "cache.shared.url",
        "a shared store",
    )];
    let first = found.into_iter().flatten().next();
    first.map(|(key, entry, feature)| NotYet {
        key,
        entry,
        feature,
    })
}

/// Keys that are set and change nothing in this version, and do no harm so.
pub fn without_effect(file: &File) -> Vec<&'static str> {
    let shared = &file.cache.shared;
    let set = [
        (shared.endpoint.0.is_some(), "cache.shared.endpoint"),
        (shared.region.0.is_some(), "cache.shared.region"),
    ];
    set.iter()
        .filter(|(set, _)| *set)
        .map(|(_, key)| *key)
        .collect()
}

// === defaults ===

impl Default for File {
    fn default() -> Self {
        Self {
            builtin_registries: true,
            watch_config: false,
            listen: Listen::default(),
            admin: Admin::default(),
            ca: Ca::default(),
            cache: Cache::default(),
            upstream: Upstream::default(),
            policy: Policy::default(),
            limits: Limits::default(),
            log: Log::default(),
            registry: Vec::new(),
            prefetch: Vec::new(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        let loopback = |port| Bind((std::net::Ipv4Addr::LOCALHOST, port).into());
        Self {
            proxy: vec![Text(loopback(3128))],
            proxy_tls: Vec::new(),
            names: Vec::new(),
            tls_certificate: Maybe(None),
            tls_key: Maybe(None),
            admin: Maybe(Some(loopback(3129))),
        }
    }
}

impl Default for Ca {
    fn default() -> Self {
        Self {
            dir: "ca".into(),
            certificate: Maybe(None),
            key: Maybe(None),
            name_constraints: true,
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            dir: "cache".into(),
            max_size: Size(50 << 30),
            min_free: Size(1 << 30),
            tag_ttl: Period(Duration::from_secs(60)),
            revalidate_timeout: Limit(Duration::from_secs(3)),
            offline_for: Period(Duration::from_secs(7 * 24 * 3600)),
            shared: Shared::default(),
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            ca_file: Maybe::default(),
            proxy: None,
            no_proxy: None,
            allow_private: Vec::new(),
            resolve: Resolve::default(),
            parallel: const { NonZeroUsize::new(4).unwrap() },
            lookahead: true,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            client_headers: Limit(Duration::from_secs(10)),
            client_idle: Limit(Duration::from_secs(5 * 60)),
            upstream_connect: Limit(Duration::from_secs(10)),
            upstream_idle: Limit(Duration::from_secs(30)),
            drain: Period(Duration::from_secs(30)),
            connections_per_client: const { NonZeroUsize::new(2000).unwrap() },
            manifest_size: Size(4 << 20),
        }
    }
}

fn yes() -> bool {
    true
}

fn hourly() -> Limit {
    Limit(Duration::from_secs(3600))
}

// === policy's types, as text ===

#[derive(Deserialize)]
#[serde(remote = "Fallback", rename_all = "kebab-case")]
enum FallbackText {
    Deny,
    Tunnel,
}

#[derive(Deserialize)]
#[serde(remote = "RuleAction", rename_all = "kebab-case")]
enum RuleActionText {
    Tunnel,
    Deny,
}

#[derive(Deserialize)]
#[serde(remote = "AuthMode", rename_all = "kebab-case")]
enum AuthModeText {
    Client,
    Gateway,
    ClientOrGateway,
}

#[derive(Deserialize)]
#[serde(remote = "Push", rename_all = "kebab-case")]
enum PushText {
    Deny,
    Allow,
}

fn some_hosts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<HostPattern>, D::Error> {
    let hosts = Vec::<Text<HostPattern>>::deserialize(from)?;
    match hosts.is_empty() {
        true => Err(de::Error::custom(
            "a rule without hosts says nothing; [\"*\"] means every host",
        )),
        false => Ok(hosts.into_iter().map(|host| host.0).collect()),
    }
}

/// An empty list here would read as "none" and mean "all".
fn some_clients<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Text<Net>>, D::Error> {
    let nets = Vec::<Text<Net>>::deserialize(from)?;
    match nets.is_empty() {
        true => Err(de::Error::custom(
            "an empty list names no client; leave the key out to mean every client",
        )),
        false => Ok(nets),
    }
}

/// An empty list here would read as "none" and mean "all".
fn some_users<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let users = Vec::<String>::deserialize(from)?;
    match users.is_empty() {
        true => Err(de::Error::custom(
            "an empty list names no user; leave the key out to mean every user",
        )),
        false => Ok(users),
    }
}

fn some_images<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Text<ImageName>>, D::Error> {
    let images = Vec::<Text<ImageName>>::deserialize(from)?;
    match images.is_empty() {
        true => Err(de::Error::custom(
            "an empty list names no image; say for example [\"alpine\"], or leave the entry out",
        )),
        false => Ok(images),
    }
}

/// An empty list here would read as "none" and mean "all".
fn some_platforms<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Text<Platform>>, D::Error> {
    let platforms = Vec::<Text<Platform>>::deserialize(from)?;
    match platforms.is_empty() {
        true => Err(de::Error::custom(
            "an empty list names no platform; leave the key out to mean all of them",
        )),
        false => Ok(platforms),
    }
}

fn some_ports<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<NonZeroU16>, D::Error> {
    let ports = Vec::<NonZeroU16>::deserialize(from)?;
    match ports.is_empty() {
        true => Err(de::Error::custom(
            "an empty list names no port; leave the key out to mean the usual ones",
        )),
        false => Ok(ports),
    }
}

fn patterns<'de, D: Deserializer<'de>>(from: D) -> Result<Patterns, D::Error> {
    Patterns::new(Vec::<String>::deserialize(from)?).map_err(de::Error::custom)
}

fn some_patterns<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Patterns>, D::Error> {
    patterns(from).map(Some)
}

fn tag_ttl<'de, D: Deserializer<'de>>(from: D) -> Result<TagTtl, D::Error> {
    let rules = BTreeMap::<String, Period>::deserialize(from)?;
    TagTtl::new(rules.into_iter().map(|(tag, ttl)| (tag, ttl.0))).map_err(de::Error::custom)
}

/// Keys become `host` or `host:port` in the spelling that [`Host`] and [`Target`] print.
fn resolve<'de, D: Deserializer<'de>>(from: D) -> Result<Resolve, D::Error> {
    let mut fixed = HashMap::new();
    for (name, to) in BTreeMap::<String, Text<Fixed>>::deserialize(from)? {
        let key = match name.parse::<Target>() {
            Ok(target) => target.to_string(),
            Err(_) => name.parse::<Host>().map_err(de::Error::custom)?.to_string(),
        };
        fixed.insert(key, (to.0.0, to.0.1));
    }
    Ok(fixed)
}
