//! FILE → the rooms' configurations. Nothing is bound, created or dialled before [`Config::load`]
//! has accepted everything.
//!
//! The file is `--config`, else `PIERHEAD_CONFIG`, else `pierhead.toml` in the working directory,
//! else `/etc/pierhead/pierhead.toml`, else none: every key has a default. Relative paths in it
//! are relative to the working directory. The environment comes over the file.

mod changes;
mod env;
mod error;
mod file;
mod keys;
mod parent;
mod places;
mod units;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use ipnet::IpNet;
use serde::Deserialize;

pub use self::changes::Change;
use self::env::Environment;
pub use self::error::{ConfigError, KeyPath, Origin};
use self::file::File;
pub use self::keys::{KEYS, Key, Kind};
pub use self::parent::ParentConfig;
use self::places::Places;
use crate::oci::manifest::Platform;
use crate::policy::{
    AddressGuard, AuthMode, Host, HostPattern, PolicyConfig, RegistryConfig, RuleConfig,
    shared_port,
};
use crate::upstream::credentials::LoginSource;
use crate::warm::{Platforms, PrefetchConfig};

/// Everything that can be configured, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from; `None` when there was none.
    pub file: Option<PathBuf>,
    pub listen: ListenConfig,
    pub ca: CaConfig,
    pub cache: CacheConfig,
    pub upstream: UpstreamConfig,
    pub policy: PolicyConfig,
    /// `admin.users_file`; `None`: whoever reaches the admin listener may look, this machine may change.
    pub admin_users_file: Option<PathBuf>,
    /// `policy.users_file`; `None`: nobody is asked for a name.
    pub users_file: Option<PathBuf>,
    /// The `[[registry]]` entries, in the file's order.
    pub registries: Vec<RegistryConfig>,
    /// Where the gateway's own logins are kept, by the entry's host.
    pub logins: Vec<(HostPattern, LoginSource)>,
    /// The files of registries that want TLS of their own, by the entry's host.
    pub registry_tls: Vec<(HostPattern, RegistryTls)>,
    /// The `[[prefetch]]` entries, in the file's order.
    pub prefetch: Vec<PrefetchConfig>,
    /// Whether the well-known public registries are answered.
    pub builtin_registries: bool,
    /// Whether a change of the file is taken up by itself.
    pub watch_config: bool,
    pub limits: LimitsConfig,
    pub log: LogConfig,
    /// What the owner should hear at the start, though it stops nothing.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// At least one here or in `proxy_tls`. Port 0 is allowed: the system picks one.
    pub proxy: Vec<SocketAddr>,
    /// The same, in TLS.
    pub proxy_tls: Vec<SocketAddr>,
    /// What clients call the gateway; empty: its host name and addresses.
    pub names: Vec<Host>,
    /// The certificate of `proxy_tls` and its key, where they are given.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// `None`: no admin listener.
    pub admin: Option<SocketAddr>,
}

#[derive(Clone, Debug)]
pub struct CaConfig {
    pub dir: PathBuf,
    /// The company's own CA, PEM; given together with `key` or not at all.
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    pub name_constraints: bool,
}

#[derive(Clone, Debug)]
pub struct CacheConfig {
    pub dir: PathBuf,
    /// In bytes; 0 keeps nothing.
    pub max_size: u64,
    /// In bytes.
    pub min_free: u64,
    /// Zero: every tag is asked for.
    pub tag_ttl: Duration,
    /// Never zero.
    pub revalidate_timeout: Duration,
    pub offline_for: Duration,
}

#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// PEM roots that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The parent proxy that everything beyond is reached through.
    pub parent: Option<ParentConfig>,
    pub allow_private: Vec<IpNet>,
    /// By `host` or `host:port`, in lower case; an IPv6 host has brackets when a port follows.
    pub resolve: HashMap<String, (IpAddr, Option<u16>)>,
    /// Connections for one large blob; not zero.
    pub parallel: usize,
    /// A manifest that passes starts its layers' download.
    pub lookahead: bool,
}

/// What one registry has of its own for TLS, PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryTls {
    /// Roots that are trusted beside all others, for whatever this registry leads to.
    pub ca_file: Option<PathBuf>,
    /// The certificate that the gateway shows it, with its chain, and the key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Nothing here is zero but `drain`, which may be.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    pub client_headers: Duration,
    pub client_idle: Duration,
    pub upstream_connect: Duration,
    pub upstream_idle: Duration,
    pub drain: Duration,
    pub connections_per_client: usize,
    /// In bytes.
    pub manifest_size: u64,
}

#[derive(Clone, Debug, Default)]
pub struct LogConfig {
    pub format: LogFormat,
    pub level: LogLevel,
    /// A collector that is told of spans, without `/v1/traces`.
    pub otlp: Option<Uri>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

// === impl Config ===

impl Config {
    /// Reads the file and the environment. `path` is `--config`.
    pub fn load(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let usual = ["pierhead.toml", "/etc/pierhead/pierhead.toml"];
        Self::load_from(path, &usual.map(Path::new), env)
    }

    /// The same with the environment of this process.
    pub fn load_here(path: Option<&Path>) -> Result<Self, ConfigError> {
        // Only ours: what others put into the environment need not be text.
        let ours = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            name.starts_with("PIERHEAD_")
                .then(|| (name, value.to_string_lossy().into_owned()))
        });
        Self::load(path, ours)
    }

    /// Reads it anew from where it came from. A file that is gone is an error: the defaults are not
    /// what its owner wanted.
    pub fn load_again(&self) -> Result<Self, ConfigError> {
        Self::load_here(self.file.as_deref())
    }

    fn load_from(
        path: Option<&Path>,
        usual: &[&Path],
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let environment = Environment::read(env)?;
        let named = path.or(environment.file.as_deref());
        let mut places = Places::default();
        if let Some((file, text)) = read(named, usual)? {
            places.file = Some(file);
            places.text = text;
        }
        let mut file: File =
            toml::from_str(&places.text).map_err(|error| places.explain(&error))?;
        let mut table: toml::Table =
            toml::from_str(&places.text).map_err(|error| places.explain(&error))?;
        for one in environment.overrides {
            one.apply(&mut table);
            // What came before was accepted, so whatever is wrong now is this variable's.
            file = table.clone().try_into().map_err(|error: toml::de::Error| {
                let origin = Origin::Variable(one.variable.clone());
                places::explain_at(origin, KeyPath::new(one.key.path, None), error.message())
            })?;
            places.variables.insert(one.key.path, one.variable);
        }
        build(file, &places)
    }
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

// === helpers ===

/// The named file, which must exist, or the first of the usual ones that does.
fn read(named: Option<&Path>, usual: &[&Path]) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let usual = match named {
        Some(_) => &[],
        None => usual,
    };
    for file in named.iter().chain(usual) {
        match std::fs::read_to_string(file) {
            Ok(text) => return Ok(Some((file.to_path_buf(), text))),
            Err(err) if named.is_none() && err.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(ConfigError::Read {
                    file: file.to_path_buf(),
                    source,
                });
            }
        }
    }
    Ok(None)
}

fn build(mut file: File, places: &Places) -> Result<Config, ConfigError> {
    if let Some(missing) = file::not_yet(&file) {
        let key = KeyPath::new(missing.key, missing.entry);
        return Err(ConfigError::NotYet {
            origin: places.origin(&key),
            key,
            feature: missing.feature,
        });
    }
    let wrong = |key: &str, entry: Option<usize>, message: &str| {
        let key = KeyPath::new(key, entry);
        Err(ConfigError::Value {
            origin: places.origin(&key),
            key,
            message: message.to_owned(),
        })
    };
    if file.listen.proxy.is_empty() && file.listen.proxy_tls.is_empty() {
        return wrong(
            "listen.proxy",
            None,
            "pierhead would listen nowhere; say for example proxy = [\"127.0.0.1:3128\"]",
        );
    }
    match (&file.ca.certificate.0, &file.ca.key.0) {
        (Some(_), None) => return wrong("ca.certificate", None, "say `ca.key` as well"),
        (None, Some(_)) => return wrong("ca.key", None, "say `ca.certificate` as well"),
        _ => {}
    }
    let tls = match (&file.listen.tls_certificate.0, &file.listen.tls_key.0) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => {
            return wrong(
                "listen.tls_certificate",
                None,
                "say `listen.tls_key` as well",
            );
        }
        (None, Some(_)) => {
            return wrong(
                "listen.tls_key",
                None,
                "say `listen.tls_certificate` as well",
            );
        }
    };
    if file.limits.manifest_size.0 == 0 {
        let message = "no manifest would pass; say for example manifest_size = \"4MiB\"";
        return wrong("limits.manifest_size", None, message);
    }

    let nameless = file.policy.users_file.0.is_none();
    let for_users = |rule: &file::Rule| !rule.users.is_empty();
    if let (true, Some(at)) = (nameless, file.policy.rule.iter().position(for_users)) {
        let message = "this rule is for users, and nobody is asked for a name as long as `policy.users_file` is not set; say for example users_file = \"htpasswd\" under [policy]";
        return wrong("policy.rule.users", Some(at + 1), message);
    }
    let no_proxy = file.upstream.no_proxy.take().unwrap_or_default();
    for entry in &no_proxy {
        if let Err(message) = parent::check_exception(entry) {
            return wrong("upstream.no_proxy", None, &message);
        }
    }
    let proxy = file
        .upstream
        .proxy
        .take()
        .filter(|url| !url.reveal().is_empty());
    if let Some(Err(message)) = proxy.as_ref().map(parent::check_url) {
        return wrong("upstream.proxy", None, message);
    }

    let mut warnings: Vec<String> = file::without_effect(&file)
        .iter()
        .map(|key| format!("`{key}` is set, but has no effect in this version of pierhead yet"))
        .collect();
    let mut logins = Vec::new();
    let mut registry_tls = Vec::new();
    for (at, entry) in file.registry.iter().enumerate() {
        match own_tls(entry) {
            Ok(None) => {}
            Ok(Some(tls)) => registry_tls.push((entry.host.0.clone(), tls)),
            Err((key, message)) => return wrong(key, Some(at + 1), message),
        }
        match login(entry) {
            Ok(None) => {}
            Ok(Some(source)) => {
                if entry.auth == AuthMode::Client {
                    warnings.push(format!(
                        "the login of [[registry]] entry {} is not used: its auth is \"client\"",
                        at + 1
                    ));
                }
                logins.push((entry.host.0.clone(), source));
            }
            Err((key, message)) => return wrong(key, Some(at + 1), message),
        }
    }
    if proxy.is_none() && !no_proxy.is_empty() {
        warnings.push("`upstream.no_proxy` is set, but there is no `upstream.proxy`".to_owned());
    }
    let registries: Vec<RegistryConfig> = file.registry.into_iter().map(registry).collect();
    for (at, entry) in registries.iter().enumerate() {
        let earlier = registries[..at].iter().enumerate();
        let shared = |(first, one)| Some((first, one, shared_port(one, entry)?));
        if let Some((first, one, port)) = earlier.filter_map(shared).next() {
            let message = format!(
                "{} on port {port} is what entry {} (host = \"{}\") speaks of already; make them one, or give each `ports` of its own",
                entry.host,
                first + 1,
                one.host
            );
            return wrong("registry.host", Some(at + 1), &message);
        }
    }
    let upstream = UpstreamConfig {
        ca_file: file.upstream.ca_file.0,
        parent: proxy.map(|url| ParentConfig { url, no_proxy }),
        allow_private: file
            .upstream
            .allow_private
            .iter()
            .map(|net| net.0.0)
            .collect(),
        resolve: file.upstream.resolve,
        parallel: file.upstream.parallel.get(),
        lookahead: file.upstream.lookahead,
    };
    warnings.extend(refused_addresses(&upstream));
    if tls.is_some() && file.listen.proxy_tls.is_empty() {
        warnings.push("`listen.tls_certificate` has no effect without `listen.proxy_tls`".into());
    }

    let (cache, limits) = (file.cache, file.limits);
    Ok(Config {
        file: places.file.clone(),
        listen: ListenConfig {
            proxy: file.listen.proxy.iter().map(|addr| addr.0.0).collect(),
            proxy_tls: file.listen.proxy_tls.iter().map(|addr| addr.0.0).collect(),
            names: file.listen.names.into_iter().map(|name| name.0).collect(),
            tls,
            admin: file.listen.admin.0.map(|addr| addr.0),
        },
        ca: CaConfig {
            dir: file.ca.dir,
            certificate: file.ca.certificate.0,
            key: file.ca.key.0,
            name_constraints: file.ca.name_constraints,
        },
        cache: CacheConfig {
            dir: cache.dir,
            max_size: cache.max_size.0,
            min_free: cache.min_free.0,
            tag_ttl: cache.tag_ttl.0,
            revalidate_timeout: cache.revalidate_timeout.0,
            offline_for: cache.offline_for.0,
        },
        upstream,
        policy: PolicyConfig {
            default: file.policy.default,
            rules: file.policy.rule.into_iter().map(rule).collect(),
        },
        admin_users_file: file.admin.users_file.0,
        users_file: file.policy.users_file.0,
        registries,
        prefetch: file.prefetch.into_iter().map(prefetch).collect(),
        logins,
        registry_tls,
        builtin_registries: file.builtin_registries,
        watch_config: file.watch_config,
        limits: LimitsConfig {
            client_headers: limits.client_headers.0,
            client_idle: limits.client_idle.0,
            upstream_connect: limits.upstream_connect.0,
            upstream_idle: limits.upstream_idle.0,
            drain: limits.drain.0,
            connections_per_client: limits.connections_per_client.get(),
            manifest_size: limits.manifest_size.0,
        },
        log: LogConfig {
            format: file.log.format,
            level: file.log.level,
            otlp: file.log.otlp.0.map(|url| url.0),
        },
        warnings,
    })
}

fn rule(rule: file::Rule) -> RuleConfig {
    RuleConfig {
        action: rule.action,
        hosts: rule.hosts,
        ports: ports(rule.ports),
        clients: rule.clients.into_iter().map(|net| net.0.0).collect(),
        users: rule.users,
    }
}

fn prefetch(entry: file::Prefetch) -> PrefetchConfig {
    let platforms: Vec<Platform> = entry.platforms.into_iter().map(|one| one.0).collect();
    PrefetchConfig {
        images: entry.images.into_iter().map(|image| image.0).collect(),
        platforms: match platforms.is_empty() {
            true => Platforms::All,
            false => Platforms::Only(platforms),
        },
        interval: entry.interval.0,
    }
}

fn registry(entry: file::Registry) -> RegistryConfig {
    RegistryConfig {
        host: entry.host.0,
        ports: ports(entry.ports),
        auth: entry.auth,
        push: entry.push,
        tag_ttl: entry.tag_ttl,
        repositories: entry.repositories,
        deny_repositories: entry.deny_repositories,
        enabled: entry.enabled,
        url: entry.url.0.map(|url| url.0),
        token_hosts: entry.token_hosts.into_iter().map(|one| one.0).collect(),
    }
}

/// What an entry has of its own for TLS; the error is a key and what to say there.
fn own_tls(entry: &file::Registry) -> Result<Option<RegistryTls>, (&'static str, &'static str)> {
    let client = match (&entry.client_certificate.0, &entry.client_key.0) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => return Err(("registry.client_certificate", "say client_key as well")),
        (None, Some(_)) => return Err(("registry.client_key", "say client_certificate as well")),
    };
    let tls = RegistryTls {
        ca_file: entry.ca_file.0.clone(),
        client,
    };
    Ok((tls != RegistryTls::default()).then_some(tls))
}

/// The gateway's own login of an entry; the error is a key and what to say there.
fn login(entry: &file::Registry) -> Result<Option<LoginSource>, (&'static str, &'static str)> {
    let (username, file, variable) = (
        entry.username.0.clone(),
        entry.password_file.0.clone(),
        entry.password_env.0.clone(),
    );
    match (username, file, variable, entry.docker_config.0.clone()) {
        (None, None, None, None) => Ok(None),
        (None, None, None, Some(file)) => Ok(Some(LoginSource::DockerConfig {
            file,
            host: entry.host.0.to_string(),
        })),
        (_, _, _, Some(_)) => Err((
            "registry.docker_config",
            "it brings its own name and password; leave out username, password_file and password_env",
        )),
        (Some(username), Some(file), None, None) => {
            Ok(Some(LoginSource::PasswordFile { username, file }))
        }
        (Some(username), None, Some(variable), None) => {
            Ok(Some(LoginSource::PasswordEnv { username, variable }))
        }
        (Some(_), Some(_), Some(_), None) => Err((
            "registry.password_env",
            "there is a password_file already; leave one of them out",
        )),
        (Some(_), None, None, None) => Err((
            "registry.username",
            "say password_file or password_env as well",
        )),
        (None, ..) => Err(("registry.password_file", "say username as well")),
    }
}

fn ports(ports: Vec<NonZeroU16>) -> Vec<u16> {
    ports.into_iter().map(NonZeroU16::get).collect()
}

/// A fixed address goes through the address guard like every other.
fn refused_addresses(upstream: &UpstreamConfig) -> Vec<String> {
    let guard = AddressGuard::new(upstream.allow_private.clone());
    // The parent proxy may be anywhere.
    let parent = upstream.parent.as_ref().and_then(ParentConfig::host);
    let mut refused: Vec<String> = upstream
        .resolve
        .iter()
        .filter(|(host, _)| {
            let name = host.split(':').next().unwrap_or(host);
            parent.as_ref().is_none_or(|parent| parent.as_str() != name)
        })
        .filter_map(|(host, (ip, _))| {
            let why = guard.check(*ip).err()?;
            Some(format!(
                "`upstream.resolve` sends {host} where it may not go: {why}"
            ))
        })
        .collect();
    refused.sort();
    refused
}

#[cfg(test)]
mod tests;
