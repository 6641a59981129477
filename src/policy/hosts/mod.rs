//! Host names, targets and the patterns that name sets of hosts.
//!
//! Everything is parsed once, at the edge: a [`Host`] is known to be a DNS name or a complete IP
//! address, in lower case and without a trailing dot, so nothing further in has to wonder.

mod pattern;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

pub use self::pattern::{Constraint, HostPattern, PatternError};

/// A DNS name or an IP address, checked, in lower case, without a trailing dot or brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    text: Arc<str>,
    ip: Option<IpAddr>,
}

/// What a client asks to be connected to: `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

/// Why a text is no [`Host`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HostError {
    #[error("a host name must not be empty")]
    Empty,
    #[error("{0:?} is longer than a host name may be (253 characters, 63 between two dots)")]
    TooLong(String),
    #[error("{0:?} has an empty part between two dots")]
    EmptyLabel(String),
    #[error(
        "{host:?} is not a host name: {found:?} may not stand in one (letters, digits, `-`, `_` and dots may)"
    )]
    Character { host: String, found: char },
    #[error("{0:?} is not a host name: no part of it may begin or end with `-`")]
    Hyphen(String),
    #[error("{0:?} is neither a host name nor a complete IP address")]
    Numeric(String),
    #[error("{0:?} is not an IPv6 address")]
    Ipv6(String),
}

/// Why a text is no [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TargetError {
    #[error("{0:?} names no port; say host:port, for example registry.example:443")]
    NoPort(String),
    #[error("{0:?} is not a port (1 to 65535)")]
    Port(String),
    #[error(transparent)]
    Host(#[from] HostError),
}

// === impl Host ===

impl Host {
    /// The name or address as text: lower case, no brackets, no trailing dot.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if let Some(ip) = parse_ip(text)? {
            return Ok(Self::from(ip));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        check_name(name, false)?;
        // `127.1` and `0x7f000001` are addresses to some resolvers and names to none.
        let last = name.rsplit('.').next().unwrap_or(name);
        let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
        if last.bytes().all(|b| b.is_ascii_digit())
            || hex.is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(HostError::Numeric(shown(text)));
        }
        Ok(Self {
            text: name.to_ascii_lowercase().into(),
            ip: None,
        })
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self {
            text: ip.to_string().into(),
            ip: Some(ip),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

// === impl Target ===

impl Target {
    pub fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (host, port) = match text.rsplit_once(':') {
            // The last colon of `[::1]` or of a bare IPv6 address is no port's.
            Some((host, port))
                if !port.contains(']') && (host.ends_with(']') || !host.contains(':')) =>
            {
                (host, port)
            }
            _ => return Err(TargetError::NoPort(shown(text))),
        };
        let number = match port.bytes().all(|b| b.is_ascii_digit()) {
            true => port.parse::<u16>().ok().filter(|port| *port != 0),
            false => None,
        };
        let port = number.ok_or_else(|| TargetError::Port(shown(port)))?;
        Ok(Self::new(host.parse()?, port))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            _ => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

// === helpers ===

/// An IP address, with or without brackets when it is IPv6; `None` when the text looks like a name.
fn parse_ip(text: &str) -> Result<Option<IpAddr>, HostError> {
    if let Some(inner) = text.strip_prefix('[') {
        let ip = inner
            .strip_suffix(']')
            .and_then(|ip| ip.parse::<Ipv6Addr>().ok());
        return match ip {
            Some(ip) => Ok(Some(IpAddr::V6(ip))),
            None => Err(HostError::Ipv6(shown(text))),
        };
    }
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(Some(ip)),
        Err(_) if text.matches(':').count() > 1 => Err(HostError::Ipv6(shown(text))),
        Err(_) => Ok(None),
    }
}

fn check_name(name: &str, wildcards: bool) -> Result<(), HostError> {
    if name.is_empty() {
        return Err(HostError::Empty);
    }
    if name.len() > 253 || name.split('.').any(|label| label.len() > 63) {
        return Err(HostError::TooLong(shown(name)));
    }
    let odd =
        |c: &char| !(c.is_ascii_alphanumeric() || "-_.".contains(*c) || (wildcards && *c == '*'));
    if let Some(found) = name.chars().find(odd) {
        return Err(HostError::Character {
            host: shown(name),
            found,
        });
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(HostError::EmptyLabel(shown(name)));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(HostError::Hyphen(shown(name)));
        }
    }
    Ok(())
}

/// Text of a stranger, cut to what an error should carry.
fn shown(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests;
