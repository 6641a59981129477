//! A configuration in the making.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{Upstream, secrets::Secrets};

/// A configuration in the making. `start` writes it down and runs it.
#[derive(Clone, Default)]
pub struct Setup {
    sections: BTreeMap<String, BTreeMap<String, String>>,
    registries: BTreeMap<String, String>,
    resolve: BTreeMap<String, SocketAddr>,
    roots: String,
    more: String,
    env: BTreeMap<String, String>,
    pub(super) cache_dir: Option<PathBuf>,
    /// What the gateway gets to know and has to keep to itself.
    pub(super) secrets: Vec<Secrets>,
}

// === impl Setup ===

impl Setup {
    /// Sets `key` of `section` to `value`, which is TOML: `set("cache", "tag_ttl", "\"0s\"")`.
    pub fn set(mut self, section: &str, key: &str, value: &str) -> Self {
        let keys = self.sections.entry(section.to_owned()).or_default();
        keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// The same for a text, without the quotes.
    pub fn text(self, section: &str, key: &str, value: &str) -> Self {
        self.set(section, key, &format!("{value:?}"))
    }

    /// Lines for the `[[registry]]` of this host, which is made when there is none.
    pub fn registry(mut self, host: &str, lines: &str) -> Self {
        let entry = self.registries.entry(host.to_owned()).or_default();
        entry.push_str(lines);
        entry.push('\n');
        self
    }

    /// Takes the `[[registry]]` of this host out.
    pub fn no_registry(mut self, host: &str) -> Self {
        self.registries.remove(host);
        self
    }

    /// TOML for the end of the file, such as `[[policy.rule]]` tables.
    pub fn more(mut self, toml: &str) -> Self {
        self.more.push_str(toml);
        self.more.push('\n');
        self
    }

    /// Takes everything that `more` added out.
    pub fn no_more(mut self) -> Self {
        self.more.clear();
        self
    }

    /// A fixed address for a host.
    pub fn resolve(mut self, host: &str, addr: SocketAddr) -> Self {
        self.resolve.insert(host.to_owned(), addr);
        self
    }

    /// The hosts of a further upstream: resolved, trusted, and its registries configured.
    pub fn and(mut self, upstream: &Upstream) -> Self {
        for host in upstream.registry_hosts() {
            self = self.registry(&host, "");
        }
        self.reaching(upstream)
    }

    /// The hosts of a further upstream: resolved and trusted, and no more.
    pub fn reaching(mut self, upstream: &Upstream) -> Self {
        for host in upstream.hosts() {
            self = self.resolve(&host, upstream.addr());
        }
        self.roots.push_str(upstream.ca_pem());
        self.secrets.push(upstream.secrets());
        self
    }

    /// Takes the fixed address of a host away.
    pub fn no_resolve(mut self, host: &str) -> Self {
        self.resolve.remove(host);
        self
    }

    /// Trusts nobody of the test's upstream for what is beyond, but only this certificate.
    pub fn trusting(mut self, pem: &str) -> Self {
        self.roots = pem.to_owned();
        self
    }

    /// Sets a variable in its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What its environment has more than the test's.
    pub fn environment(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// Keeps the cache in a directory of the test's choice, such as a small file system.
    pub fn cache_in(mut self, dir: &Path) -> Self {
        self.cache_dir = Some(dir.to_owned());
        self
    }

    /// Writes `pierhead.toml` and what it names, and says where it is.
    pub fn write(&self, home: &TempDir) -> PathBuf {
        let roots = home.path().join("upstream-roots.pem");
        if !self.roots.is_empty() {
            std::fs::write(&roots, &self.roots).expect("written");
        }
        let config = home.path().join("pierhead.toml");
        std::fs::write(&config, self.toml(home.path())).expect("written");
        config
    }

    fn toml(&self, home: &Path) -> String {
        let mut all = self.sections.clone();
        let mut default = |section: &str, key: &str, value: String| {
            let keys = all.entry(section.to_owned()).or_default();
            keys.entry(key.to_owned()).or_insert(value);
        };
        let cache = self.cache_dir.clone().unwrap_or_else(|| home.join("cache"));
        default("listen", "proxy", r#"["127.0.0.1:0"]"#.into());
        default("listen", "admin", r#""127.0.0.1:0""#.into());
        default("ca", "dir", format!("{:?}", home.join("ca")));
        default("cache", "dir", format!("{cache:?}"));
        default("cache", "min_free", r#""0""#.into());
        default("upstream", "allow_private", r#"["127.0.0.0/8"]"#.into());
        // Most tests count what upstream was asked for by their own clients.
        default("upstream", "lookahead", "false".into());
        if !self.roots.is_empty() {
            let roots = home.join("upstream-roots.pem");
            default("upstream", "ca_file", format!("{roots:?}"));
        }
        let pairs = self
            .resolve
            .iter()
            .map(|(host, addr)| format!("{host:?} = \"{addr}\""));
        let pairs: Vec<_> = pairs.collect();
        default("upstream", "resolve", format!("{{ {} }}", pairs.join(", ")));
        default("log", "format", r#""json""#.into());

        let mut toml = String::new();
        for (section, keys) in &all {
            // The section without a name is the top of the file, and sorts first.
            if !section.is_empty() {
                toml.push_str(&format!("[{section}]\n"));
            }
            for (key, value) in keys {
                toml.push_str(&format!("{key} = {value}\n"));
            }
        }
        for (host, lines) in &self.registries {
            toml.push_str(&format!("[[registry]]\nhost = {host:?}\n{lines}\n"));
        }
        toml + &self.more
    }
}
