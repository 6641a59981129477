//! The file's words → the rooms' configurations; what is wrong with them, by key and line.

use std::num::NonZeroU16;

use super::addresses;
use super::error::{ConfigError, KeyPath};
use super::file::{self, File};
use super::parent::{self, ParentConfig};
use super::places::Places;
use super::registry::{key_of, login, own_tls, registry};
use super::{
    CaConfig, CacheConfig, Config, LimitsConfig, ListenConfig, LogConfig, LoginConfig,
    UpstreamConfig,
};
use crate::oci::manifest::Platform;
use crate::policy::{
    AddressGuard, AuthMode, PolicyConfig, RegistryConfig, RuleConfig, shared_port,
};
use crate::warm::{Platforms, PrefetchConfig};

/// Checks what the file says, and puts it in each room's own terms.
pub(super) fn build(mut file: File, places: &Places) -> Result<Config, ConfigError> {
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
    addresses::check(&file.listen, places)?;
    for (key, dir, usual) in [
        ("ca.dir", &file.ca.dir, "ca"),
        ("cache.dir", &file.cache.dir, "cache"),
    ] {
        if dir.as_os_str().is_empty() {
            let message = format!(
                "an empty path would be the working directory; say for example dir = \"{usual}\""
            );
            return wrong(key, None, &message);
        }
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
            Ok(None) if entry.username.0.is_some() => warnings.push(format!(
                "[[registry]] entry {} has a username and neither password_file nor password_env: it is asked as anybody",
                at + 1
            )),
            Ok(None) => {}
            Ok(Some(source)) => {
                if entry.auth == AuthMode::Client {
                    warnings.push(format!(
                        "the login of [[registry]] entry {} is not used: its auth is \"client\"",
                        at + 1
                    ));
                }
                let key = KeyPath::new(key_of(&source), Some(at + 1));
                logins.push(LoginConfig {
                    host: entry.host.0.clone(),
                    source,
                    origin: places.origin(&key),
                    key,
                    used: entry.auth != AuthMode::Client,
                });
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
        prefetch_origins: (1..=file.prefetch.len())
            .map(|entry| places.origin(&KeyPath::new("prefetch.images", Some(entry))))
            .collect(),
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

// === helpers ===

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

pub(super) fn ports(ports: Vec<NonZeroU16>) -> Vec<u16> {
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
