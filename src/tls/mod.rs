//! TLS on both sides: the CA that signs for intercepted hosts, a leaf for each of them, and the
//! roots that upstream certificates are verified against.
//!
//! [`Authority`] is the CA (pierhead's own, or one the company gives), [`Leaves`] turns it into a
//! `rustls::ServerConfig` for a host, [`Roots`] are the way out. The crypto provider is
//! always named here and never taken from the process, so no start-up order can matter.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

mod authority;
mod certificate;
mod constraints;
mod der;
mod error;
mod files;
mod front;
mod leaf;
mod notice;
mod rekey;
mod roots;
#[cfg(test)]
mod test_support;

pub use authority::Authority;
pub use certificate::fingerprint;
pub use constraints::NameConstraints;
pub use error::CaError;
pub use front::Front;
pub use leaf::{LeafError, Leaves};
pub use notice::{Notice, Scope};
pub use rekey::Aside;
pub use roots::{Roots, RootsError};

/// Where the CA is and how far it may reach: `[ca]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaConfig {
    /// Where `ca.crt` and `ca.key` are made at the first start. Not used with a given CA.
    pub dir: PathBuf,
    /// A CA or intermediate that the company gives: the issuing certificate, then its chain, PEM.
    pub certificate: Option<PathBuf>,
    /// The private key of `certificate`: PKCS#8, SEC1 or PKCS#1, PEM, not encrypted.
    pub key: Option<PathBuf>,
    /// Whether pierhead's own CA is limited to the configured registries. A given CA is used as it is.
    pub name_constraints: bool,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
