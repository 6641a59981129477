//! Scripts that set a client machine up against this gateway, and back. Pure: facts to text.
//!
//! Served as `/setup/CLIENT`. The scripts are POSIX sh in `scripts/`: what they have in common,
//! then each client's own part; this room puts the facts before them.

mod place;

use std::fmt;
use std::fmt::Write;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

pub use self::place::{NoPlace, Place, Scheme};
use crate::policy::Policy;

/// What can be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Buildkit,
    Containerd,
    Docker,
    Kubernetes,
    Podman,
}

/// What every script has to know of the gateway, but for its address.
#[derive(Clone, Debug)]
pub struct Kit {
    ca_pem: String,
    fingerprint: String,
    /// `HOST`, or `HOST:PORT` where that is not 443: as folders of `certs.d` are called.
    registries: Vec<String>,
}

/// A text that is no client.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is none of docker, containerd, podman, buildkit, kubernetes")]
pub struct NoClient(String);

// === impl Client ===

impl Client {
    pub const ALL: [Self; 5] = [
        Self::Docker,
        Self::Containerd,
        Self::Podman,
        Self::Buildkit,
        Self::Kubernetes,
    ];

    /// The last part of the script's path.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Buildkit => "buildkit",
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Kubernetes => "kubernetes",
            Self::Podman => "podman",
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Self::Kubernetes => "application/yaml",
            _ => "text/x-shellscript; charset=utf-8",
        }
    }

    fn part(self) -> &'static str {
        match self {
            Self::Buildkit => include_str!("scripts/buildkit.sh"),
            // A node of Kubernetes is set up as any machine with containerd.
            Self::Containerd | Self::Kubernetes => include_str!("scripts/containerd.sh"),
            Self::Docker => include_str!("scripts/docker.sh"),
            Self::Podman => include_str!("scripts/podman.sh"),
        }
    }
}

impl FromStr for Client {
    type Err = NoClient;

    fn from_str(text: &str) -> Result<Self, NoClient> {
        Self::ALL
            .into_iter()
            .find(|client| client.as_str() == text)
            .ok_or_else(|| NoClient(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Kit ===

impl Kit {
    /// `ca_pem` is the certificate that clients are to trust, `fingerprint` its SHA-256 (`AA:BB:…`).
    pub fn new(policy: &Policy, ca_pem: &str, fingerprint: &str) -> Self {
        let mut registries = Vec::new();
        for registry in policy.registries() {
            let name = registry.one_namespace.then(|| registry.name.clone());
            let exact = registry.hosts.iter().filter_map(|host| host.exact());
            let hosts: Vec<String> = exact.map(|host| bracketed(&host)).collect();
            for host in name.into_iter().chain(hosts) {
                registries.extend(registry.ports.tls().iter().map(|port| match port {
                    443 => host.clone(),
                    port => format!("{host}:{port}"),
                }));
            }
        }
        registries.sort();
        registries.dedup();
        Self {
            ca_pem: ca_pem.trim_end().to_owned(),
            fingerprint: fingerprint.to_owned(),
            registries,
        }
    }

    /// The script, or the manifest for Kubernetes. It does what `options` say, each of them one that
    /// the script takes itself; those of its caller come after them.
    pub fn script(&self, client: Client, gateway: &Place, options: &[&str]) -> String {
        match client {
            Client::Kubernetes => self.manifest(gateway, options),
            client => self.shell(client, gateway, options),
        }
    }

    fn shell(&self, client: Client, gateway: &Place, options: &[&str]) -> String {
        let name = match client {
            Client::Kubernetes => Client::Containerd,
            client => client,
        };
        let Place { scheme, target } = gateway;
        let mut text = format!(
            "#!/bin/sh\n\
             # pierhead: sets {name} up on this machine to pull through the gateway {gateway}.\n\
             #\n\
             #   curl -fsSL {gateway}/setup/{name} | sudo sh\n\
             #   … | sudo sh -s -- --undo         takes everything back\n\
             #   … | sh -s -- --dry-run           says what it would do, and does nothing\n\
             #   … | sudo sh -s -- --no-restart   leaves the service running as it is\n\
             #\n\
             # From the environment (sudo --preserve-env=NAME):\n\
             #   PIERHEAD_PROXY_LOGIN=user:password   for a gateway that asks for one; empty takes it out again\n\
             #   PIERHEAD_NO_PROXY=host,…             what is not asked through the gateway\n\
             #   PIERHEAD_ROOT=/mnt/image             the root of a system that does not run, such as an image\n\
             #\n\
             # It may run again: what is as it should be stays untouched. Nothing runs before its last line\n\
             # has arrived.\n\
             set -eu\n\n\
             CLIENT={name}\n\
             SCHEME={scheme}\n\
             PLACE={}\n\
             FINGERPRINT={}\n\
             CA={}\n",
            quoted(&target.to_string()),
            quoted(&self.fingerprint),
            quoted(&self.ca_pem),
        );
        let list = quoted(&self.registries.join("\n"));
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "# shellcheck disable=SC2034 # not every client wants them\nREGISTRIES={list}"
        );
        text.push_str(include_str!("scripts/common.sh"));
        text.push_str(client.part());
        text.push_str("\nmain");
        for option in options {
            let _ = write!(text, " {option}");
        }
        text.push_str(" \"$@\"\n");
        text
    }

    fn manifest(&self, gateway: &Place, options: &[&str]) -> String {
        let script = self.shell(Client::Kubernetes, gateway, options);
        let sum: String = Sha256::digest(&script)
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut block = String::new();
        for line in script.lines() {
            match line.is_empty() {
                true => block.push('\n'),
                false => block.push_str(&format!("    {line}\n")),
            }
        }
        include_str!("scripts/kubernetes.yaml")
            .replace("@GATEWAY@", &gateway.to_string())
            .replace("@FINGERPRINT@", &self.fingerprint)
            .replace("@SUM@", &sum)
            .replace("@SCRIPT@\n", &block)
    }
}

/// What a query asks the script to do: `?undo`, `?dry-run`, `?no-restart`, as a manifest takes no
/// arguments. What else it says is nothing to us.
pub fn options(query: Option<&str>) -> Vec<&'static str> {
    let words = query.into_iter().flat_map(|query| query.split('&'));
    words
        .filter_map(|word| match word {
            "undo" => Some("--undo"),
            "dry-run" => Some("--dry-run"),
            "no-restart" => Some("--no-restart"),
            _ => None,
        })
        .collect()
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn bracketed(host: &crate::policy::Host) -> String {
    match host.ip() {
        Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => host.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{PolicyConfig, RegistryConfig};

    fn kit() -> Kit {
        let mut partner = RegistryConfig::new("registry.partner.example".parse().unwrap());
        partner.ports = vec![443, 5000];
        let pattern = RegistryConfig::new("*.partner.example".parse().unwrap());
        let six = RegistryConfig::new("[fd00::7]".parse().unwrap());
        let all = vec![partner, pattern, six];
        let policy = Policy::new(PolicyConfig::default(), all, true);
        Kit::new(&policy, "-----BEGIN IT-----\nAA'A\n", "AA:BB")
    }

    #[test]
    fn every_registry_that_can_be_named_is_in_the_list_and_no_pattern() {
        let registries = kit().registries;
        for host in [
            "docker.io",
            "registry-1.docker.io",
            "ghcr.io",
            "registry.partner.example",
            "registry.partner.example:5000",
            "[fd00::7]",
        ] {
            assert!(registries.iter().any(|one| one == host), "{host}");
        }
        assert!(
            registries.iter().all(|one| !one.contains('*')),
            "{registries:?}"
        );
    }

    #[test]
    fn facts_are_single_words_of_the_shell() {
        let gateway = Place::asked(Scheme::Https, "gw.corp:3130").unwrap();
        let script = kit().script(Client::Docker, &gateway, &["--undo"]);
        assert!(script.contains("PLACE='gw.corp:3130'\n"));
        assert!(script.contains("AA'\\''A'\n"));
        assert!(script.ends_with("\nmain --undo \"$@\"\n"));
    }

    #[test]
    fn the_manifest_has_the_script_of_containerd_and_nothing_left_to_fill_in() {
        let gateway = Place::asked(Scheme::Http, "gw:3128").unwrap();
        let manifest = kit().script(Client::Kubernetes, &gateway, &[]);
        assert!(manifest.contains("\n    CLIENT=containerd\n"));
        assert!(manifest.contains("\n    main \"$@\"\n---\n"));
        for mark in ["@GATEWAY@", "@SCRIPT@", "@SUM@", "@FINGERPRINT@"] {
            assert!(!manifest.contains(mark), "{mark}");
        }
    }

    #[test]
    fn clients_are_named_by_their_path() {
        for client in Client::ALL {
            assert_eq!(client.as_str().parse::<Client>().unwrap(), client);
        }
        assert!("Docker".parse::<Client>().is_err());
    }
}
