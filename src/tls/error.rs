//! What can be wrong with the CA.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why there is no CA, or no signature from it. Each says what to do about it.
#[derive(Debug, Error)]
pub enum CaError {
    #[error("cannot {action} {}: {source}{}", path.display(), mend(source))]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// A file that the configuration gives; `key` names it there.
    #[error("{key}: cannot read {}: {source}; {}", path.display(), mend_given(source))]
    Unreadable {
        key: String,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{key}: {source}")]
    Unfit { key: String, source: Box<Self> },
    #[error("there is no CA in {} yet: `pierhead ca init` or the first `pierhead serve` makes one", dir.display())]
    Absent { dir: PathBuf },
    #[error(
        "{} is there but its key {} is not: put the key back from a backup, or move {} away to have a new CA made (all clients need that one then)",
        certificate.display(), key.display(), certificate.display()
    )]
    KeyMissing { certificate: PathBuf, key: PathBuf },
    #[error(
        "the key {} is there but its certificate {} is not: `pierhead ca init` or `pierhead serve` issues it again from the key",
        key.display(), certificate.display()
    )]
    CertificateMissing { certificate: PathBuf, key: PathBuf },
    #[error(
        "[ca] {given} is set but {missing} is not: a CA takes both (neither: pierhead makes its own)"
    )]
    HalfGiven {
        given: &'static str,
        missing: &'static str,
    },
    #[error("{} is not a certificate in PEM: {reason}", path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("{} is not a usable key: {reason}; PEM is needed (PKCS#8, SEC1 or PKCS#1), P-256, P-384 or RSA, without a passphrase", path.display())]
    Key { path: PathBuf, reason: String },
    #[error(
        "{} is not the key of {}: they have to be a pair (the issuing certificate first in its file, then its chain)",
        key.display(), certificate.display()
    )]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("{} cannot sign for hosts: {reason}; a CA or intermediate certificate is needed, not a server's", path.display())]
    NotACa { path: PathBuf, reason: &'static str },
    #[error("{} was not made by pierhead, which therefore cannot renew it: ask whoever gave it for a new one", path.display())]
    NotOurs { path: PathBuf },
    #[error("{name:?} cannot be a name constraint of the CA: it is neither a host nor a domain")]
    Constraint { name: String },
    #[error("cannot sign a certificate: {0}")]
    Sign(#[from] rcgen::Error),
}

/// What a person can do about a file that is given and cannot be read.
pub(super) fn mend_given(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "it has to be readable for the user that the gateway runs as"
        }
        io::ErrorKind::NotFound => "put it there, or say where it is",
        _ => "say a file in PEM",
    }
}

/// What a person can do about `[ca] dir`, where it is plain.
fn mend(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; it has to belong to the user that the gateway runs as, or [ca] dir has to be elsewhere"
        }
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotFound => {
            "; [ca] dir has to be a folder that the gateway may make and write"
        }
        _ => "",
    }
}

// === impl CaError ===

impl CaError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// The same of a pair of files that the configuration gives, the second of which is `key_file`;
    /// `certificate` and `key` name them there.
    pub(super) fn given(self, certificate: &str, key: &str, key_file: &Path) -> Self {
        let blamed = match &self {
            Self::Io { path, .. } | Self::Key { path, .. } if path == key_file => key,
            _ => certificate,
        };
        let key = blamed.to_owned();
        match self {
            Self::Io { path, source, .. } => Self::Unreadable { key, path, source },
            other => Self::Unfit {
                key,
                source: Box::new(other),
            },
        }
    }
}
