//! Where a registry's clients get their tokens, when that is not the registry itself.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use super::hosts::{HostPattern, PatternError};

/// One entry of `token_hosts`: `HOST[:PORT][/PATH]`.
///
/// Where the host does other things as well, as a GitLab does beside handing out tokens for its
/// registry, the path says what is open: it, and what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHost {
    pub host: HostPattern,
    /// `None`: 443, in TLS.
    pub port: Option<u16>,
    /// Begins with a slash.
    pub path: Option<Arc<str>>,
}

/// Why a text is no [`TokenHost`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenHostError {
    #[error(
        "{0:?} has a scheme; write it without, for example \"auth.example\" or \"gitlab.example/jwt/auth\""
    )]
    Scheme(String),
    #[error("{0:?} is not a port (1 to 65535)")]
    Port(String),
    #[error("{0:?} has a query; only the path before it counts")]
    Query(String),
    #[error(transparent)]
    Host(#[from] PatternError),
}

// === impl TokenHost ===

impl FromStr for TokenHost {
    type Err = TokenHostError;

    fn from_str(text: &str) -> Result<Self, TokenHostError> {
        if text.contains("://") {
            return Err(TokenHostError::Scheme(text.to_owned()));
        }
        if text.contains(['?', '#']) {
            return Err(TokenHostError::Query(text.to_owned()));
        }
        let (authority, path) = match text.find('/') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        // An IPv6 address has colons of its own, and brackets where a port follows.
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if host.ends_with(']') || !host.contains(':') => (host, Some(port)),
            _ => (authority, None),
        };
        let port = match port.map(str::parse::<u16>) {
            None => None,
            Some(Ok(port)) if port > 0 => Some(port),
            Some(_) => return Err(TokenHostError::Port(port.unwrap_or_default().to_owned())),
        };
        Ok(Self {
            host: host.parse()?,
            port,
            path: (path.len() > 1).then(|| path.into()),
        })
    }
}

impl fmt::Display for TokenHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.host.as_str())?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.path.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_host_is_a_host_with_a_port_and_a_path_where_it_has_them() {
        for (text, host, port, path) in [
            ("auth.example", "auth.example", None, None),
            ("auth.example/", "auth.example", None, None),
            ("auth.example:8443", "auth.example", Some(8443), None),
            (
                "gitlab.example/jwt/auth",
                "gitlab.example",
                None,
                Some("/jwt/auth"),
            ),
            (
                "*.example:5001/token",
                "*.example",
                Some(5001),
                Some("/token"),
            ),
            ("[fd00::1]:5001", "fd00::1", Some(5001), None),
            ("fd00::1", "fd00::1", None, None),
        ] {
            let read: TokenHost = text.parse().unwrap();
            assert_eq!(read.host, host.parse().unwrap(), "{text}");
            assert_eq!((read.port, read.path.as_deref()), (port, path), "{text}");
        }
    }

    #[test]
    fn what_is_no_token_host_is_told_why() {
        for (text, said) in [
            ("https://auth.example", "scheme"),
            ("auth.example:0", "port"),
            ("auth.example:https", "port"),
            ("auth.example/token?service=x", "query"),
            ("", "empty"),
        ] {
            let error = text.parse::<TokenHost>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
