//! Where a registry is.

use http::uri::{self, Authority, PathAndQuery};
use http::{HeaderMap, Uri};

use super::fault::{Fault, FaultKind};
use crate::wire::headers;

/// Where a registry is, and what its content is remembered under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme, host and port the client asked for: the identity of what is cached through it.
    pub id: String,
    /// The registry's configured name, for metrics.
    pub name: String,
    pub scheme: uri::Scheme,
    pub authority: Authority,
    /// A path before `/v2/`, where the configured `url` has one.
    pub prefix: String,
    /// What the registry is called, for one that is asked at another address: it may be a gateway
    /// that answers for several.
    pub namespace: Option<String>,
    /// `false`: nothing is ever sent there.
    pub enabled: bool,
}

// === impl Endpoint ===

impl Endpoint {
    /// The host that the client asked for.
    pub fn host(&self) -> &str {
        let id = self.id.split_once("://").map_or(&*self.id, |(_, id)| id);
        match id.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => id,
        }
    }

    /// The address of a path (with its query) at this endpoint, if it may be asked at all. What has to be
    /// said for it to be understood there goes into `headers`.
    pub fn uri(&self, path_and_query: &str, headers: &mut HeaderMap) -> Result<Uri, Fault> {
        if !self.enabled {
            return Err(Fault {
                kind: FaultKind::Disabled,
                message: format!(
                    "{} is switched off (enabled = false): only what is cached is served",
                    self.name
                ),
            });
        }
        let mut full = format!("{}{path_and_query}", self.prefix);
        if let Some(namespace) = &self.namespace {
            headers::say_meant_host(headers, namespace);
            // Another gateway would take a client's `ns=` for ours.
            if let Some((path, query)) = full.split_once('?').filter(|(_, it)| it.contains("ns=")) {
                let rest = query.split('&').filter(|pair| !pair.starts_with("ns="));
                full = format!("{path}?{}", rest.collect::<Vec<_>>().join("&"));
                full.truncate(full.trim_end_matches('?').len());
            }
        }
        let path = full
            .parse::<PathAndQuery>()
            .map_err(|e| Fault::nonsense(format!("the path {full} cannot be asked for: {e}")))?;
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .map_err(|e| Fault::nonsense(e.to_string()))
    }
}
