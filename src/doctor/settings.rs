//! What a machine's files and its environment say of proxies and mirrors.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;
use serde_json::Value;

use super::systemd::{self, Set};

/// Somebody who pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    Containerd,
    Docker,
    Podman,
    /// Whatever is started from this shell: skopeo, buildah, ctr, curl.
    Shell,
}

/// A text that is no client.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is none of docker, containerd, podman, shell")]
pub struct NoClient(String);

/// The variables of this process that matter.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

/// How one client goes to registries.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub client: Client,
    /// As it is set; it may hold a password.
    pub proxy: String,
    /// Where it is set.
    pub source: String,
    /// What is reached without it.
    pub no_proxy: String,
    /// `SSL_CERT_FILE`.
    pub roots: Option<PathBuf>,
}

/// What the machine says.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub ways: Vec<Way>,
    /// dockerd's `registry-mirrors`, which count for Docker Hub alone.
    pub mirrors: Vec<String>,
}

// === impl Client ===

impl FromStr for Client {
    type Err = NoClient;

    fn from_str(text: &str) -> Result<Self, NoClient> {
        Ok(match text {
            "containerd" => Self::Containerd,
            "docker" => Self::Docker,
            "podman" => Self::Podman,
            "shell" => Self::Shell,
            other => return Err(NoClient(other.to_owned())),
        })
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Shell => "shell",
        })
    }
}

// === impl Environment ===

impl Environment {
    /// That of this process.
    pub fn here() -> Self {
        let all = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let ours =
            all.filter(|(name, _)| NAMES.iter().any(|known| name.eq_ignore_ascii_case(known)));
        Self(ours.collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let small = name.to_ascii_lowercase();
        let found = self.0.get(name).or_else(|| self.0.get(&small));
        found.map(String::as_str).filter(|text| !text.is_empty())
    }
}

// === impl Settings ===

impl Settings {
    /// Reads what there is under `root`, for one client or for all.
    pub(super) fn read(root: &Path, environment: &Environment, client: Option<Client>) -> Self {
        let mut settings = Self::default();
        let daemon = json(&root.join("etc/docker/daemon.json"));
        let mirrors = daemon.get("registry-mirrors").and_then(Value::as_array);
        if client.is_none_or(|client| client == Client::Docker) {
            let mirrors = mirrors.into_iter().flatten().filter_map(Value::as_str);
            settings.mirrors = mirrors.map(str::to_owned).collect();
        }
        let ways = [
            docker(root, &daemon),
            service(root, Client::Containerd, "containerd.service"),
            podman(root),
            shell(root, environment),
        ];
        let ways = ways.into_iter().flatten();
        settings.ways = ways
            .filter(|way| client.is_none_or(|client| way.client == client))
            .collect();
        settings
    }
}

// === impl Way ===

impl Way {
    /// Whether `host` is reached without the proxy, and by which word of `NO_PROXY`.
    pub(super) fn passes_by(&self, host: &str) -> Option<&str> {
        let address: Option<IpAddr> = host.parse().ok();
        let words = self.no_proxy.split([',', ' ']).map(str::trim);
        words.filter(|word| !word.is_empty()).find(|word| {
            let name = word.trim_start_matches('*').trim_start_matches('.');
            match address {
                Some(address) => {
                    word.parse::<IpNet>()
                        .is_ok_and(|net| net.contains(&address))
                        || *word == host
                }
                None if *word == "*" => true,
                None => {
                    let below = host
                        .strip_suffix(name)
                        .is_some_and(|rest| rest.ends_with('.'));
                    !name.is_empty() && (host == name || below)
                }
            }
        })
    }
}

fn docker(root: &Path, daemon: &Value) -> Option<Way> {
    // What stands in daemon.json counts before the environment.
    let proxies = daemon.get("proxies");
    let text = |name: &str| proxies?.get(name)?.as_str().filter(|text| !text.is_empty());
    let by_unit = service(root, Client::Docker, "docker.service");
    match text("https-proxy") {
        None => by_unit,
        Some(proxy) => Some(Way {
            client: Client::Docker,
            proxy: proxy.to_owned(),
            source: "/etc/docker/daemon.json".to_owned(),
            no_proxy: text("no-proxy").unwrap_or_default().to_owned(),
            roots: by_unit.and_then(|way| way.roots),
        }),
    }
}

fn service(root: &Path, client: Client, unit: &str) -> Option<Way> {
    let set = systemd::environment(root, unit);
    let (proxy, source) = of(&set, "HTTPS_PROXY")?;
    Some(Way {
        client,
        proxy,
        source: shown(root, &source),
        no_proxy: of(&set, "NO_PROXY")
            .map(|(text, _)| text)
            .unwrap_or_default(),
        roots: of(&set, "SSL_CERT_FILE").map(|(file, _)| root.join(file.trim_start_matches('/'))),
    })
}

fn podman(root: &Path) -> Option<Way> {
    let mut files = vec![
        root.join("usr/share/containers/containers.conf"),
        root.join("etc/containers/containers.conf"),
    ];
    let drop_ins = std::fs::read_dir(root.join("etc/containers/containers.conf.d"));
    let mut drop_ins: Vec<PathBuf> = drop_ins
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    drop_ins.sort();
    files.extend(drop_ins);
    let mut found: Option<Way> = None;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let Ok(table) = toml::from_str::<toml::Table>(&text) else {
            continue;
        };
        let lines = table.get("engine").and_then(|engine| engine.get("env"));
        let lines = lines.and_then(toml::Value::as_array);
        let lines: Vec<&str> = lines
            .into_iter()
            .flatten()
            .filter_map(toml::Value::as_str)
            .collect();
        let value = |name: &str| {
            let mut pairs = lines.iter().filter_map(|line| line.split_once('='));
            pairs.find_map(|(known, value)| {
                known.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        if let Some(proxy) = value("HTTPS_PROXY") {
            found = Some(Way {
                client: Client::Podman,
                proxy,
                source: shown(root, &file),
                no_proxy: value("NO_PROXY").unwrap_or_default(),
                roots: value("SSL_CERT_FILE").map(|file| root.join(file.trim_start_matches('/'))),
            });
        }
    }
    found
}

fn shell(root: &Path, environment: &Environment) -> Option<Way> {
    let login = systemd::assignments(&root.join("etc/environment"));
    let at_login = |name: &str| {
        let mut pairs = login.iter();
        let found = pairs.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone())
    };
    let (proxy, source) = match environment.get("HTTPS_PROXY") {
        Some(proxy) => (proxy.to_owned(), "the environment".to_owned()),
        None => (at_login("HTTPS_PROXY")?, "/etc/environment".to_owned()),
    };
    let no_proxy = environment.get("NO_PROXY").map(str::to_owned);
    Some(Way {
        client: Client::Shell,
        proxy,
        source,
        no_proxy: no_proxy
            .or_else(|| at_login("NO_PROXY"))
            .unwrap_or_default(),
        roots: environment.get("SSL_CERT_FILE").map(PathBuf::from),
    })
}

/// In capitals, or in small letters.
fn of(set: &Set, name: &str) -> Option<(String, PathBuf)> {
    let found = set
        .get(name)
        .or_else(|| set.get(&name.to_ascii_lowercase()));
    found.filter(|(value, _)| !value.is_empty()).cloned()
}

fn json(file: &Path) -> Value {
    let text = std::fs::read(file).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// A path as the machine itself calls it.
pub(super) fn shown(root: &Path, file: &Path) -> String {
    match file.strip_prefix(root) {
        Ok(inside) => format!("/{}", inside.display()),
        Err(_) => file.display().to_string(),
    }
}

const NAMES: [&str; 3] = ["HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"];

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let file = root.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    #[test]
    fn every_client_has_settings_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(
            root,
            "etc/systemd/system/docker.service.d/pierhead.conf",
            "[Service]\nEnvironment=HTTPS_PROXY=http://one:3128\nEnvironment=NO_PROXY=.corp\n",
        );
        put(
            root,
            "etc/containers/containers.conf.d/pierhead.conf",
            "[engine]\nenv = [\"HTTPS_PROXY=http://two:3128\"]\n",
        );
        put(
            root,
            "etc/environment",
            "https_proxy=\"http://three:3128\"\n",
        );
        put(
            root,
            "etc/docker/daemon.json",
            r#"{"registry-mirrors": ["http://four:3128"]}"#,
        );
        let all = Settings::read(root, &Environment::default(), None);
        let ways: Vec<(Client, &str)> = all
            .ways
            .iter()
            .map(|way| (way.client, way.proxy.as_str()))
            .collect();
        assert_eq!(
            ways,
            [
                (Client::Docker, "http://one:3128"),
                (Client::Podman, "http://two:3128"),
                (Client::Shell, "http://three:3128")
            ]
        );
        assert_eq!(all.mirrors, ["http://four:3128"]);
        let podman = Settings::read(root, &Environment::default(), Some(Client::Podman));
        assert_eq!((podman.ways.len(), podman.mirrors.len()), (1, 0));
        put(
            root,
            "etc/docker/daemon.json",
            r#"{"proxies": {"https-proxy": "http://five:3128"}}"#,
        );
        let docker = Settings::read(root, &Environment::default(), Some(Client::Docker));
        assert_eq!(docker.ways[0].proxy, "http://five:3128");
    }

    #[test]
    fn no_proxy_names_hosts_what_is_below_them_and_networks() {
        let way = |no_proxy: &str| Way {
            client: Client::Shell,
            proxy: String::new(),
            source: String::new(),
            no_proxy: no_proxy.to_owned(),
            roots: None,
        };
        for (no_proxy, host, by) in [
            ("", "ghcr.io", None),
            ("localhost,.io", "ghcr.io", Some(".io")),
            ("ghcr.io", "ghcr.io", Some("ghcr.io")),
            ("ghcr.io", "pkg.ghcr.io", Some("ghcr.io")),
            ("hcr.io", "ghcr.io", None),
            ("10.0.0.0/8", "10.1.2.3", Some("10.0.0.0/8")),
            ("10.0.0.0/8", "ghcr.io", None),
            ("*", "ghcr.io", Some("*")),
        ] {
            assert_eq!(way(no_proxy).passes_by(host), by, "{no_proxy} {host}");
        }
    }
}
