//! What this room asks of the one that put the gateway together.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::policy::Policy;

/// What came of a reload. Keys are named as in the file; values, which may be secrets, are not told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReloadReport {
    /// Keys that are in force as the file says by now.
    pub changed: Vec<String>,
    /// Keys that the file says differently, and that stay as they are until the next start.
    pub needs_restart: Vec<String>,
    /// What the owner should hear, though it stops nothing.
    pub warnings: Vec<String>,
}

/// The CA as clients need it.
#[derive(Clone, Debug)]
pub struct Ca {
    /// SHA-256, as `openssl x509 -fingerprint` writes it.
    pub fingerprint: String,
    pub pem: String,
}

/// An answer that takes a while.
pub type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is in force, and how it is changed. Errors are sentences for a person.
pub trait Steering: Send + Sync {
    fn policy(&self) -> Arc<Policy>;

    fn ca(&self) -> Ca;

    /// How long a tag of a registry, as people write it, is answered without asking upstream.
    fn tag_ttl(&self, registry: &str, tag: &str) -> Duration;

    /// Why the configuration that was read last is not in force; `None`: it is.
    fn refused(&self) -> Option<String>;

    /// Addresses of the proxy's listeners as clients name them, `http://…` or `https://…`.
    fn doors(&self) -> Vec<String>;

    /// Reads the configuration anew.
    fn reload(&self) -> Later<'_, Result<ReloadReport, String>>;

    /// Switches a registry on or off; answers until when that holds.
    fn switch(&self, registry: String, enabled: bool) -> Later<'_, Result<String, String>>;
}
