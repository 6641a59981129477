//! What is known of one request to a registry.

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Method, Request, Response};

use super::RegistryRules;
use crate::policy::{AuthMode, Registry, Site, Target, Via};
use crate::telemetry::access::Outcome;
use crate::upstream::identity::Identity;
use crate::upstream::{Endpoint, Fault, FaultKind};
use crate::wire::body::Body;
use crate::wire::headers;

/// One request, as it came.
#[derive(Clone)]
pub struct Asked {
    pub site: Arc<Site>,
    pub rules: Arc<RegistryRules>,
    pub endpoint: Arc<Endpoint>,
    pub method: Method,
    /// Path and query.
    pub path_and_query: String,
    pub headers: HeaderMap,
    pub client: IpAddr,
    /// It came to the gateway as to a registry, and not as to a proxy.
    pub mirror: bool,
    /// Upstream is asked what a tag stands for, however fresh the last answer is.
    pub refresh: bool,
    /// What stands before the repository's name in the client's paths, as `ghcr.io/`, or nothing.
    pub name_prefix: String,
    /// Our own token service, for clients that have to choose whether to log in.
    pub realm: Option<Arc<str>>,
}

/// One request, with in whose name it is answered.
#[derive(Clone)]
pub struct Call {
    pub asked: Arc<Asked>,
    /// In whose name upstream is asked.
    pub identity: Identity,
}

/// What is sent back, and what its log line says of it.
pub struct Answer {
    pub response: Response<Body>,
    pub outcome: Outcome,
    pub rule: String,
    /// Why it was denied, and what would allow it, where something does.
    pub reason: String,
    pub mend: String,
    pub repository: Arc<str>,
    pub reference: Arc<str>,
}

// === impl Asked ===

impl Asked {
    /// Without the query.
    pub fn path(&self) -> &str {
        let path = self.path_and_query.split('?').next();
        path.unwrap_or("/")
    }
}

// === impl Call ===

impl Deref for Call {
    type Target = Asked;

    fn deref(&self) -> &Asked {
        &self.asked
    }
}

// The headers hold credentials.
impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call")
            .field("endpoint", &self.endpoint.id)
            .field("method", &self.method)
            .field("path", &self.path_and_query)
            .finish_non_exhaustive()
    }
}

impl Call {
    pub fn registry(&self) -> &Registry {
        &self.site.registry
    }

    pub fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// The same question of another path and query.
    pub fn asking_for(&self, path_and_query: String) -> Self {
        let asked = Asked {
            path_and_query,
            ..(*self.asked).clone()
        };
        Self {
            asked: Arc::new(asked),
            identity: self.identity.clone(),
        }
    }

    /// The request as its client made it, for upstream, with this body.
    pub fn as_it_came(&self, body: Body) -> Result<Request<Body>, Fault> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.headers.clone();
        let uri = self
            .endpoint
            .uri(&self.path_and_query, request.headers_mut())?;
        *request.uri_mut() = uri;
        Ok(request)
    }

    /// What the caller's standing with upstream hangs on; `None` for who comes as anybody.
    pub fn credential(&self) -> Option<Cow<'_, [u8]>> {
        match &self.identity {
            Identity::Caller(credential) => Some(credential.as_ref()?.as_bytes().into()),
            Identity::Login(login) => Some(login.to_basic().as_bytes().to_vec().into()),
            Identity::Anonymous => None,
            Identity::Gateway(_) => Some(b"gateway".into()),
        }
    }

    /// Whether the credential is the caller's for good, and not a token of minutes.
    pub fn is_lasting(&self) -> bool {
        self.credential().is_none_or(|credential| {
            let scheme = credential.get(..BEARER.len());
            !scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(BEARER))
        })
    }

    /// Policy alone decides who may see what.
    pub fn by_policy_alone(&self) -> bool {
        self.registry().auth == AuthMode::Gateway
    }

    /// Whether `fault` is upstream's no to whom this is asked for, and not an upstream that is away.
    pub fn is_refusal(&self, fault: &Fault) -> bool {
        fault.kind == FaultKind::Login && !self.by_policy_alone()
    }

    /// The fields of a request made for the caller.
    pub fn asking(&self, accept: Option<HeaderValue>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(agent) = self.headers.get(header::USER_AGENT) {
            headers.insert(header::USER_AGENT, agent.clone());
        }
        if let Some(accept) = accept {
            headers.insert(header::ACCEPT, accept);
        }
        headers
    }

    /// Whether the caller already holds what `digest` names (RFC 9110 section 13.1.2).
    pub fn holds(&self, digest: &str) -> bool {
        headers::lines(&self.headers, &header::IF_NONE_MATCH)
            .flat_map(|line| line.split(','))
            .map(|tag| tag.trim().trim_start_matches("W/").trim_matches('"'))
            .any(|tag| tag == digest || tag == "*")
    }
}

const BEARER: &[u8] = b"Bearer ";

/// The endpoint of `site` for a client that asked for `target`, in TLS or in plain http.
pub fn endpoint(site: &Site, via: Via, target: &Target) -> Option<Endpoint> {
    let (scheme, default) = match via {
        Via::Connect => (Scheme::HTTPS, 443),
        Via::Http => (Scheme::HTTP, 80),
    };
    let host = match target.host.ip() {
        Some(IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => target.host.to_string(),
    };
    let plain = match target.port {
        port if port == default => host,
        port => format!("{host}:{port}"),
    };
    let registry = &site.registry;
    let id = registry.namespace(via, target);
    // Another address is the registry's own, not that of its token service.
    let (scheme, authority, prefix, namespace) = match &registry.url {
        Some(url) if site.role.is_registry() => (
            url.scheme()?.clone(),
            url.authority()?.clone(),
            url.path().trim_end_matches('/').to_owned(),
            Some(id.trim_start_matches("http://").to_owned()),
        ),
        _ => (
            scheme,
            plain.parse::<Authority>().ok()?,
            String::new(),
            None,
        ),
    };
    Some(Endpoint {
        id,
        name: registry.name.clone(),
        scheme,
        authority,
        prefix,
        namespace,
        enabled: registry.enabled,
    })
}
