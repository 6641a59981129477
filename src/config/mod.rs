//! FILE → the rooms' configurations. Nothing is bound, created or dialled before [`Config::load`]
//! has accepted everything.
//!
//! The file is `--config`, else `PIERHEAD_CONFIG`, else `pierhead.toml` in the working directory,
//! else `/etc/pierhead/pierhead.toml`, else none: every key has a default. Relative paths in it
//! are relative to the working directory. The environment comes over the file.

mod addresses;
mod changes;
mod checked;
mod env;
mod error;
mod file;
mod keys;
mod parent;
mod places;
mod registry;
mod units;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
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
use crate::policy::{Host, HostPattern, PolicyConfig, RegistryConfig};
use crate::upstream::credentials::LoginSource;
use crate::warm::PrefetchConfig;

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
    /// Where the gateway's own logins are kept.
    pub logins: Vec<LoginConfig>,
    /// The files of registries that want TLS of their own, by the entry's host.
    pub registry_tls: Vec<(HostPattern, RegistryTls)>,
    /// The `[[prefetch]]` entries, in the file's order.
    pub prefetch: Vec<PrefetchConfig>,
    /// Where `images` of each of them is written.
    pub prefetch_origins: Vec<Origin>,
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

/// The gateway's own login of one `[[registry]]` entry.
#[derive(Clone, Debug)]
pub struct LoginConfig {
    /// The entry's host.
    pub host: HostPattern,
    pub source: LoginSource,
    /// The key that says where the password is.
    pub key: KeyPath,
    /// Where that key is written.
    pub origin: Origin,
    /// `false`: the entry's `auth` is "client", and nobody asks for it.
    pub used: bool,
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
        let named: Vec<String> = file
            .registry
            .iter()
            .filter_map(|entry| entry.password_env.0.clone())
            .collect();
        let mut config = checked::build(file, &places)?;
        for foreign in environment.foreign {
            if !named.contains(&foreign) {
                config.warnings.push(format!(
                    "the environment variable {foreign} is no setting of pierhead, and means nothing here"
                ));
            }
        }
        Ok(config)
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

#[cfg(test)]
mod tests;
