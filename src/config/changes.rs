//! Two configurations, key by key: what is different, and what of it a running gateway can take.

use super::Config;
use crate::policy::{HostPattern, RegistryConfig, shared_port};

/// A key that is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// `cache.max_size`; `registry registry.example: auth, push` for an entry.
    pub key: String,
    /// The gateway takes it at its next start only.
    pub needs_restart: bool,
}

// === impl Config ===

impl Config {
    /// What `new` says differently.
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let mut changes: Vec<Change> = ROWS
            .iter()
            .filter(|row| !(row.same)(self, new))
            .map(|row| Change {
                key: row.key.to_owned(),
                needs_restart: row.takes == Takes::Restart,
            })
            .collect();
        changes.extend(entries(self, new).into_iter().map(|key| Change {
            key,
            needs_restart: false,
        }));
        changes
    }

    /// This configuration as a gateway that runs with `running` can take it: whatever needs a restart
    /// stays as it is there.
    pub fn as_far_as_reloadable(mut self, running: &Self) -> Self {
        self.watch_config = running.watch_config;
        self.listen = running.listen.clone();
        self.ca = running.ca.clone();
        self.cache.dir = running.cache.dir.clone();
        self.log.format = running.log.format;
        self.log.otlp.clone_from(&running.log.otlp);
        self
    }
}

// === helpers ===

/// One key outside the entries of `[[registry]]`.
struct Row {
    key: &'static str,
    takes: Takes,
    same: fn(&Config, &Config) -> bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Reload,
    Restart,
}

macro_rules! row {
    ($takes:ident $key:literal $($field:ident).+) => {
        Row {
            key: $key,
            takes: Takes::$takes,
            same: |a, b| a.$($field).+ == b.$($field).+,
        }
    };
}

/// What [`Config::as_far_as_reloadable`] keeps is `Restart` here.
const ROWS: &[Row] = &[
    row!(Reload "builtin_registries" builtin_registries),
    row!(Restart "watch_config" watch_config),
    row!(Restart "listen.proxy" listen.proxy),
    row!(Restart "listen.proxy_tls" listen.proxy_tls),
    row!(Restart "listen.names" listen.names),
    Row {
        key: "listen.tls_certificate",
        takes: Takes::Restart,
        same: |a, b| {
            let certificate = |c: &Config| c.listen.tls.as_ref().map(|tls| tls.0.clone());
            certificate(a) == certificate(b)
        },
    },
    Row {
        key: "listen.tls_key",
        takes: Takes::Restart,
        same: |a, b| {
            let key = |c: &Config| c.listen.tls.as_ref().map(|tls| tls.1.clone());
            key(a) == key(b)
        },
    },
    row!(Restart "listen.admin" listen.admin),
    row!(Restart "ca.dir" ca.dir),
    row!(Restart "ca.certificate" ca.certificate),
    row!(Restart "ca.key" ca.key),
    row!(Restart "ca.name_constraints" ca.name_constraints),
    row!(Restart "cache.dir" cache.dir),
    row!(Reload "cache.max_size" cache.max_size),
    row!(Reload "cache.min_free" cache.min_free),
    row!(Reload "cache.tag_ttl" cache.tag_ttl),
    row!(Reload "cache.revalidate_timeout" cache.revalidate_timeout),
    row!(Reload "cache.offline_for" cache.offline_for),
    row!(Reload "upstream.ca_file" upstream.ca_file),
    Row {
        key: "upstream.proxy",
        takes: Takes::Reload,
        same: |a, b| {
            let (a, b) = (&a.upstream.parent, &b.upstream.parent);
            a.as_ref().map(|parent| &parent.url) == b.as_ref().map(|parent| &parent.url)
        },
    },
    Row {
        key: "upstream.no_proxy",
        takes: Takes::Reload,
        same: |a, b| {
            let (a, b) = (&a.upstream.parent, &b.upstream.parent);
            a.as_ref().map(|parent| &parent.no_proxy) == b.as_ref().map(|parent| &parent.no_proxy)
        },
    },
    row!(Reload "upstream.allow_private" upstream.allow_private),
    row!(Reload "upstream.resolve" upstream.resolve),
    row!(Reload "upstream.parallel" upstream.parallel),
    row!(Reload "upstream.lookahead" upstream.lookahead),
    row!(Reload "policy.default" policy.default),
    row!(Reload "admin.users_file" admin_users_file),
    row!(Reload "policy.users_file" users_file),
    row!(Reload "policy.rule" policy.rules),
    row!(Reload "limits.client_headers" limits.client_headers),
    row!(Reload "limits.client_idle" limits.client_idle),
    row!(Reload "limits.upstream_connect" limits.upstream_connect),
    row!(Reload "limits.upstream_idle" limits.upstream_idle),
    row!(Reload "limits.drain" limits.drain),
    row!(Reload "limits.connections_per_client" limits.connections_per_client),
    row!(Reload "limits.manifest_size" limits.manifest_size),
    row!(Reload "prefetch" prefetch),
    row!(Restart "log.format" log.format),
    row!(Reload "log.level" log.level),
    row!(Restart "log.otlp" log.otlp),
];

type SameEntry = fn(&RegistryConfig, &RegistryConfig) -> bool;

const ENTRY: &[(&str, SameEntry)] = &[
    ("auth", |a, b| a.auth == b.auth),
    ("push", |a, b| a.push == b.push),
    ("tag_ttl", |a, b| a.tag_ttl == b.tag_ttl),
    ("repositories", |a, b| a.repositories == b.repositories),
    ("deny_repositories", |a, b| {
        a.deny_repositories == b.deny_repositories
    }),
    ("enabled", |a, b| a.enabled == b.enabled),
    ("url", |a, b| a.url == b.url),
    ("token_hosts", |a, b| a.token_hosts == b.token_hosts),
];

/// The entries of `[[registry]]` that came, went or say something else.
fn entries(old: &Config, new: &Config) -> Vec<String> {
    let partner = |all: &[RegistryConfig], one: &RegistryConfig| {
        all.iter()
            .position(|other| shared_port(other, one).is_some())
    };
    let mut told = Vec::new();
    let mut order = Vec::new();
    for entry in &new.registries {
        let Some(at) = partner(&old.registries, entry) else {
            told.push(format!("registry {}: added", entry.host));
            continue;
        };
        order.push(at);
        let before = &old.registries[at];
        let mut keys: Vec<&str> = ENTRY
            .iter()
            .filter(|(_, same)| !same(before, entry))
            .map(|(key, _)| *key)
            .collect();
        // Another name for the same registry, or for the same ports.
        if before.host != entry.host || before.ports != entry.ports {
            keys.push("host");
        }
        let login = |config: &Config, host: &HostPattern| {
            let mut logins = config.logins.iter();
            logins
                .find(|login| login.host == *host)
                .map(|login| login.source.clone())
        };
        if login(old, &before.host) != login(new, &entry.host) {
            keys.push("login");
        }
        let tls = |config: &Config, host| {
            let mut all = config.registry_tls.iter();
            all.find(|(of, _)| of == host).map(|(_, tls)| tls.clone())
        };
        if tls(old, &before.host) != tls(new, &entry.host) {
            keys.push("tls");
        }
        if !keys.is_empty() {
            told.push(format!("registry {}: {}", entry.host, keys.join(", ")));
        }
    }
    for entry in &old.registries {
        if partner(&new.registries, entry).is_none() {
            told.push(format!("registry {}: removed", entry.host));
        }
    }
    // Of two patterns that cover a host the first decides.
    if !order.is_sorted() {
        told.push("registry: order".to_owned());
    }
    told
}

#[cfg(test)]
mod tests {
    use super::super::keys::overridable;
    use super::*;

    /// A value of each key that is not its default.
    const OTHERS: &[(&str, &str)] = &[
        ("builtin_registries", "false"),
        ("watch_config", "true"),
        ("listen.proxy", "[\"127.0.0.1:4000\"]"),
        ("listen.proxy_tls", "[\"127.0.0.1:4001\"]"),
        ("listen.names", "[\"gateway.corp\"]"),
        ("listen.tls_certificate", "\"a.crt\""),
        ("listen.tls_key", "\"a.key\""),
        ("listen.admin", "\"127.0.0.1:4002\""),
        ("ca.dir", "\"other\""),
        ("ca.certificate", "\"a.crt\""),
        ("ca.key", "\"a.key\""),
        ("ca.name_constraints", "false"),
        ("cache.dir", "\"other\""),
        ("cache.max_size", "7"),
        ("cache.min_free", "7"),
        ("cache.tag_ttl", "7"),
        ("cache.revalidate_timeout", "7"),
        ("cache.offline_for", "7"),
        ("upstream.ca_file", "\"roots.pem\""),
        ("upstream.proxy", "\"http://parent:1\""),
        ("upstream.no_proxy", "[\"a.test\"]"),
        ("upstream.allow_private", "[\"10.0.0.0/8\"]"),
        ("upstream.resolve", "{ \"a.test\" = \"192.0.2.1\" }"),
        ("upstream.parallel", "7"),
        ("upstream.lookahead", "false"),
        ("policy.default", "\"tunnel\""),
        ("policy.users_file", "\"htpasswd\""),
        (
            "policy.rule",
            "[{ action = \"deny\", hosts = [\"a.test\"] }]",
        ),
        ("limits.client_headers", "7"),
        ("limits.client_idle", "7"),
        ("limits.upstream_connect", "7"),
        ("limits.upstream_idle", "7"),
        ("limits.drain", "7"),
        ("limits.connections_per_client", "7"),
        ("limits.manifest_size", "7"),
        ("admin.users_file", "\"htpasswd\""),
        ("prefetch", "[{ images = [\"alpine\"] }]"),
        ("log.format", "\"json\""),
        ("log.level", "\"debug\""),
        ("log.otlp", "\"http://collector:4318\""),
        ("registry", "[{ host = \"a.test\" }]"),
    ];

    /// Keys that change nothing in this version, or that stop the start.
    const IDLE: &[&str] = &[
        "cache.shared.url",
        "cache.shared.endpoint",
        "cache.shared.region",
    ];

    fn load(settings: &[(&str, &str)]) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pierhead.toml");
        let lines: Vec<String> = settings
            .iter()
            .map(|(k, v)| format!("{k} = {v}\n"))
            .collect();
        std::fs::write(&path, lines.concat()).unwrap();
        Config::load(Some(&path), std::iter::empty()).unwrap()
    }

    #[test]
    fn every_key_is_seen_to_change_and_what_needs_a_restart_stays() {
        let plain = load(&[]);
        assert_eq!(plain.changes(&load(&[])), []);
        for key in overridable().filter(|key| !IDLE.contains(&key.path)) {
            let mut settings: Vec<(&str, &str)> = OTHERS
                .iter()
                .copied()
                .filter(|(name, _)| *name == key.path)
                .collect();
            assert_eq!(
                settings.len(),
                1,
                "another value of {} is missing here",
                key.path
            );
            // Some keys come in pairs; `no_proxy` counts with a parent only.
            let pair = match key.path {
                "listen.tls_certificate" => Some("listen.tls_key"),
                "listen.tls_key" => Some("listen.tls_certificate"),
                "ca.certificate" => Some("ca.key"),
                "ca.key" => Some("ca.certificate"),
                "upstream.no_proxy" => Some("upstream.proxy"),
                _ => None,
            };
            let partner = OTHERS.iter().filter(|(name, _)| Some(*name) == pair);
            settings.extend(partner);
            let new = load(&settings);
            let changes = plain.changes(&new);
            let change = changes
                .iter()
                .find(|change| change.key.starts_with(key.path));
            let change = change.unwrap_or_else(|| panic!("{} is not seen: {changes:?}", key.path));
            let taken = new.as_far_as_reloadable(&plain);
            let left = plain.changes(&taken);
            let is_taken = left.iter().any(|left| left.key == change.key);
            assert_eq!(is_taken, !change.needs_restart, "{}", key.path);
        }
    }

    #[test]
    fn an_entry_is_named_with_what_is_different() {
        let old = "[{ host = \"a.test\", push = \"allow\" }, { host = \"b.test\" }, { host = \"c.test\" }]";
        let new = "[{ host = \"c.test\" }, { host = \"a.test\", auth = \"gateway\", username = \"r\", password_env = \"P\" }, { host = \"d.test\" }]";
        let changes = load(&[("registry", old)]).changes(&load(&[("registry", new)]));
        let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "registry a.test: auth, push, login",
                "registry d.test: added",
                "registry b.test: removed",
                "registry: order"
            ]
        );
        assert!(changes.iter().all(|change| !change.needs_restart));
    }
}
