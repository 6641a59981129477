//! Why a request brought no answer, whose fault that is, and whether another try may help.

use std::error::Error as StdError;

use http::Uri;
use http::uri::Authority;

use super::dial::DialError;
use super::parent::ParentError;

/// Why a request brought no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    pub kind: FaultKind,
    /// A sentence for the person who has to mend it.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The registry is switched off.
    Disabled,
    /// The address guard forbids it.
    Forbidden,
    /// The gateway's own login was refused, or cannot be read.
    Login,
    /// No name, no route, no listener, or a connection that broke.
    Unreachable,
    /// A certificate that does not verify, or another failure of TLS.
    Tls,
    /// Nothing came in time.
    Timeout,
    /// It answered what is no HTTP, or a redirect that leads nowhere; or the parent proxy refuses.
    Nonsense,
}

// === impl Fault ===

impl Fault {
    pub fn nonsense(message: String) -> Self {
        Self {
            kind: FaultKind::Nonsense,
            message,
        }
    }

    /// Whether the same request may fare better a moment later.
    pub fn may_pass(&self) -> bool {
        matches!(self.kind, FaultKind::Timeout | FaultKind::Unreachable)
    }

    /// Reads hyper's chain of causes for the one that a person can act on.
    pub(super) fn from_client(error: hyper_util::client::legacy::Error, uri: &Uri) -> Self {
        let place = uri.authority().map_or("", Authority::as_str);
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
        let mut last = String::new();
        while let Some(e) = cause {
            if let Some(dial) = e.downcast_ref::<DialError>() {
                return dial.into();
            }
            if let Some(tls) = tls_error(e) {
                return Self {
                    kind: FaultKind::Tls,
                    message: format!(
                        "TLS to {place} failed: {tls}; a private CA belongs into upstream.ca_file, or ca_file of the [[registry]]"
                    ),
                };
            }
            last = e.to_string();
            cause = e.source();
        }
        Self {
            kind: FaultKind::Unreachable,
            message: format!("the connection to {place} broke: {last}"),
        }
    }
}

impl From<&DialError> for Fault {
    fn from(error: &DialError) -> Self {
        let kind = match error {
            DialError::Refused { .. } => FaultKind::Forbidden,
            DialError::Name { .. } | DialError::Connect { .. } => FaultKind::Unreachable,
            DialError::Timeout { .. } => FaultKind::Timeout,
            DialError::Parent { why, .. } => match why {
                ParentError::Tls(_) => FaultKind::Tls,
                ParentError::Late { .. } => FaultKind::Timeout,
                why if why.may_pass() => FaultKind::Unreachable,
                _ => FaultKind::Nonsense,
            },
        };
        Self {
            kind,
            message: error.to_string(),
        }
    }
}

// === impl FaultKind ===

impl FaultKind {
    /// For metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Forbidden => "forbidden",
            Self::Login => "login",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Nonsense => "nonsense",
        }
    }
}

// === helpers ===

/// The TLS error in a cause; connectors wrap it in several `io::Error`s, which `source` passes over.
fn tls_error<'a>(mut error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    loop {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        error = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    }
}
