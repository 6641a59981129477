//! The ports a registry is answered on.

use std::fmt;

use super::Via;
use super::builtin::Known;

/// The ports a registry is answered on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    listed: Vec<u16>,
    tls_only: bool,
}

// === impl Ports ===

impl Ports {
    pub(super) fn new(listed: Vec<u16>, tls_only: bool) -> Self {
        Self { listed, tls_only }
    }

    /// Those of an entry; a well-known registry is TLS only unless its entry lists ports.
    pub(super) fn of(listed: Vec<u16>, row: Option<&Known>) -> Self {
        let tls_only = row.is_some() && listed.is_empty();
        Self::new(listed, tls_only)
    }

    /// The first port that both are answered on, in the same way.
    pub(super) fn shared(&self, other: &Self) -> Option<u16> {
        let usual = [Via::Connect, Via::Http].map(Via::default_port);
        self.listed.iter().copied().chain(usual).find(|port| {
            [Via::Connect, Via::Http]
                .iter()
                .any(|via| self.allow(*via, *port) && other.allow(*via, *port))
        })
    }

    pub fn allow(&self, via: Via, port: u16) -> bool {
        if via == Via::Http && self.tls_only {
            return false;
        }
        match self.listed.as_slice() {
            [] => port == via.default_port(),
            listed => listed.contains(&port),
        }
    }

    /// These and `port`, as an entry lists them.
    pub(super) fn with(&self, port: u16) -> Vec<u16> {
        let mut ports = match (self.listed.as_slice(), self.tls_only) {
            ([], true) => vec![443],
            ([], false) => vec![443, 80],
            (listed, _) => listed.to_vec(),
        };
        if !ports.contains(&port) {
            ports.push(port);
        }
        ports
    }

    /// The ports it is answered on in TLS.
    pub fn tls(&self) -> &[u16] {
        match self.listed.as_slice() {
            [] => &[443],
            listed => listed,
        }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.listed.as_slice(), self.tls_only) {
            ([], true) => f.write_str("443 over TLS only"),
            ([], false) => f.write_str("443, or 80 for plain http, only"),
            (listed, _) => {
                let listed: Vec<String> = listed.iter().map(u16::to_string).collect();
                write!(f, "{} only", listed.join(", "))
            }
        }
    }
}
