//! The network beyond: requests to registries, token services and blob hosts.

mod client;
mod connection;
pub mod credentials;
pub mod dial;
pub mod health;
pub mod identity;
pub mod parent;
mod probe;
mod reads;
mod redirect;
mod token;

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{self, Authority, PathAndQuery};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tracing::field::Empty;
use tracing::{Instrument, info_span};

use self::client::HttpClient;
pub use self::client::Tls;
pub use self::connection::Connection;
use self::dial::{DialError, Dialer};
use self::health::{Health, RateLimit};
use self::identity::Scheme;
use self::parent::ParentError;
pub use self::probe::Probe;
use self::token::Tokens;
use crate::oci::range::ContentRange;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans;
use crate::wire::body::{self, Body};
use crate::wire::headers;
use crate::wire::idle::{Idle, Progress};

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
    /// that answers for several (the distribution spec's "Registry Proxying").
    pub namespace: Option<String>,
    /// `false`: nothing is ever sent there.
    pub enabled: bool,
}

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

/// On an answer's extensions: it came from where a redirect led.
#[derive(Clone, Copy, Debug)]
pub struct Redirected;

/// Sends requests upstream, with every wait bounded.
#[derive(Debug)]
pub struct Upstream {
    way: ArcSwap<Way>,
    health: Health,
    tokens: Tokens,
    /// How endpoints want to be asked, by repository.
    schemes: moka::sync::Cache<String, Scheme>,
    /// Token services that were asked seconds ago, and whether they answered.
    services: moka::sync::Cache<String, bool>,
    via: HeaderValue,
    metrics: Arc<Metrics>,
}

/// How everything beyond is reached: `[upstream]`, and its limits.
#[derive(Debug)]
pub struct Way {
    client: HttpClient,
    /// Of registries that are spoken to in TLS of their own, by name: to wherever they lead.
    own: HashMap<String, HttpClient>,
    dialer: Arc<Dialer>,
    /// Bounds every wait for an upstream's next byte.
    idle: Duration,
}

// === impl Way ===

impl Way {
    /// With pools of connections of its own. `own`: registries that want other TLS than `tls`, by
    /// name. `idle` bounds every wait for an upstream's next byte.
    pub fn new(
        tls: rustls::ClientConfig,
        own: HashMap<String, Tls>,
        dialer: Dialer,
        idle: Duration,
    ) -> Self {
        let dialer = Arc::new(dialer);
        let everyones = Tls {
            anyone: tls,
            known_to: None,
        };
        let own = own.into_iter();
        Self {
            client: client::build(everyones, dialer.clone()),
            own: own
                .map(|(name, tls)| (name, client::build(tls, dialer.clone())))
                .collect(),
            dialer,
            idle,
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// The address of a path (with its query) at this endpoint, if it may be asked at all.
    pub fn uri(&self, path_and_query: &str) -> Result<Uri, Fault> {
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
            full.push_str(if full.contains('?') { "&ns=" } else { "?ns=" });
            full.push_str(namespace);
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
    fn from_client(error: hyper_util::client::legacy::Error, uri: &Uri) -> Self {
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

// === impl Upstream ===

impl Upstream {
    pub fn new(way: Way, via: HeaderValue, metrics: Arc<Metrics>) -> Self {
        Self {
            way: ArcSwap::from_pointee(way),
            health: Health::default(),
            tokens: Tokens::default(),
            schemes: moka::sync::Cache::builder()
                .max_capacity(10_000)
                .time_to_live(SCHEMES_FOR)
                .build(),
            services: moka::sync::Cache::builder()
                .max_capacity(1_000)
                .time_to_live(SERVICES_FOR)
                .build(),
            via,
            metrics,
        }
    }

    /// The dialer, for tunnels.
    pub fn dialer(&self) -> Arc<Dialer> {
        self.way.load().dialer.clone()
    }

    /// From here on everything beyond is reached by `way`; what runs goes on as it began.
    pub fn go_by(&self, way: Way) {
        self.way.store(Arc::new(way));
    }

    /// Forgets how upstreams last were: the configuration may lead elsewhere by now.
    pub fn start_over(&self) {
        self.schemes.invalidate_all();
        self.services.invalidate_all();
        self.health.forget();
    }

    /// What this gateway adds to `Via`.
    pub fn via(&self) -> &HeaderValue {
        &self.via
    }

    /// How registries have lately answered.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Sends one request as it is, without following redirects. The answer's body fails when upstream
    /// falls silent. `name` is the registry, for metrics.
    pub async fn send(&self, name: &str, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let (response, idle) = self.exchange(name, request).await?;
        Ok(response.map(|body| Idle::new(body, idle, "upstream").boxed_unsync()))
    }

    /// Asks for content, and once more where the connection breaks before an answer: one that was kept
    /// open may have been closed meanwhile. The answer's body fails when upstream falls silent, and when
    /// it comes in drops.
    async fn ask_once(
        &self,
        name: &str,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Fault> {
        let request = || bare_request(method.clone(), uri.clone(), headers.clone());
        let (response, idle) = match self.exchange(name, request()).await {
            Err(fault) if fault.kind == FaultKind::Unreachable => {
                self.exchange(name, request()).await?
            }
            answer => answer?,
        };
        Ok(response.map(|body| {
            Idle::new(body, idle, "upstream")
                .at_least(SLOWEST)
                .boxed_unsync()
        }))
    }

    /// One question and the head of its answer, with the limit for silences in what follows.
    async fn exchange(
        &self,
        name: &str,
        mut request: Request<Body>,
    ) -> Result<(Response<Incoming>, Duration), Fault> {
        headers::strip_hop_by_hop(request.headers_mut());
        headers::add_via(request.headers_mut(), &self.via);
        // The client writes the field from the address.
        request.headers_mut().remove(header::HOST);
        // The listener has answered it already (RFC 9110 section 10.1.1).
        request.headers_mut().remove(header::EXPECT);
        let uri = request.uri().clone();
        let way = self.way.load_full();
        let forwarder = match uri.scheme_str() {
            Some("http") => way.dialer.forwarder(client::bare_host(&uri)),
            _ => None,
        };
        if let Some((_, Some(login))) = forwarder {
            let fields = request.headers_mut();
            fields.insert(header::PROXY_AUTHORIZATION, login.clone());
        }
        let span = info_span!(
            target: spans::TARGET,
            "upstream",
            otel.kind = "client",
            http.request.method = request.method().as_str(),
            server.address = uri.host().unwrap_or_default(),
            url.path = uri.path(),
            pierhead.registry = name,
            http.response.status_code = Empty,
            error = Empty,
        );
        let started = Instant::now();
        let limit = way.idle + way.dialer.limit();
        // An upload may take as long as it flows: the clock starts anew with every part of it.
        let progress = Progress::default();
        let request = request.map(|body| progress.watch(body));
        let client = way.own.get(name).unwrap_or(&way.client);
        let asking = progress.within(limit, client.request(request));
        let result = match asking.instrument(span.clone()).await {
            Ok(Ok(response)) => match forwarder {
                // The parent's own word, which is nothing to the client.
                Some((parent, _))
                    if response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED =>
                {
                    Err(Fault::from(&parent.failed(ParentError::Login)))
                }
                _ => Ok(response),
            },
            Ok(Err(e)) => Err(Fault::from_client(e, &uri)),
            Err(_) => Err(Fault {
                kind: FaultKind::Timeout,
                message: format!(
                    "{} did not answer within {limit:?}",
                    uri.authority().map_or("", Authority::as_str)
                ),
            }),
        };
        let label = match &result {
            Ok(response) => status_label(response.status()),
            Err(fault) => fault.kind.label(),
        };
        match &result {
            Ok(response) => span.record("http.response.status_code", response.status().as_u16()),
            Err(fault) => span.record("error", fault.message.as_str()),
        };
        let took = started.elapsed();
        self.metrics
            .upstream_request(name, label, took.as_secs_f64());
        let failure = match &result {
            Ok(response) => failure_status(response.status()),
            Err(fault) => Some(fault.message.clone()),
        };
        match failure {
            None => self.health.succeeded(name, took),
            Some(why) => self.health.failed(name, why),
        }
        let response = result?;
        if let Some(limit) = RateLimit::read(response.headers()) {
            self.metrics.rate_limit_remaining(name, limit.remaining);
            if let Some(all) = limit.limit {
                self.metrics.rate_limit(name, all);
            }
            self.health.limited(name, limit);
        }
        Ok((response, way.idle))
    }

    async fn send_bare(
        &self,
        name: &str,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        follow: bool,
    ) -> Result<Response<Body>, Fault> {
        if follow {
            self.follow(name, method, uri, headers).await
        } else {
            self.ask_once(name, &method, &uri, &headers).await
        }
    }
}

impl FaultKind {
    fn label(self) -> &'static str {
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

/// The TLS error in a cause; connectors wrap it in several `io::Error`s, which `source` passes over.
fn tls_error<'a>(mut error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    loop {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        error = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    }
}

/// Reads a body of at most `limit` bytes whole.
pub async fn collect(body: Body, limit: u64) -> Result<Bytes, Fault> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(Fault::nonsense(format!(
            "upstream sent more than {limit} bytes where a small document was due"
        ))),
        Err(e) => {
            let late = e
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::TimedOut);
            Err(Fault {
                kind: match late {
                    true => FaultKind::Timeout,
                    false => FaultKind::Unreachable,
                },
                message: format!("upstream broke off: {e}"),
            })
        }
    }
}

/// The total that a `Content-Range` or, on a whole answer, `Content-Length` announces; and the first
/// byte's offset.
pub fn extent(response: &Response<Body>) -> (u64, Option<u64>) {
    let headers = response.headers();
    let length = || {
        headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok())
    };
    let range = headers
        .get(header::CONTENT_RANGE)
        .and_then(|value| ContentRange::parse(value.to_str().ok()?));
    match range {
        Some(ContentRange::Part { start, total, .. })
            if response.status() == StatusCode::PARTIAL_CONTENT =>
        {
            (start, total)
        }
        Some(ContentRange::Unsatisfied { total })
            if response.status() == StatusCode::RANGE_NOT_SATISFIABLE =>
        {
            (0, Some(total))
        }
        _ => (0, length()),
    }
}

/// Whether a 206 says which part it is (RFC 9110 section 15.3.7).
pub fn names_its_part(response: &Response<Body>) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE);
    let range = range.and_then(|value| ContentRange::parse(value.to_str().ok()?));
    matches!(range, Some(ContentRange::Part { .. }))
}

fn bare_request(method: Method, uri: Uri, headers: HeaderMap) -> Request<Body> {
    let mut request = Request::new(body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

/// What an answer says against the registry's health; nothing for an answer that is the client's own
/// business, as a 404.
fn failure_status(status: StatusCode) -> Option<String> {
    let failed = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    failed.then(|| format!("it answered {status}"))
}

fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "401",
        403 => "403",
        404 => "404",
        429 => "429",
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

/// Bytes a second that content comes with at least; what is slower has broken.
const SLOWEST: u64 = 1 << 10;
const SERVICES_FOR: Duration = Duration::from_secs(10);
const SCHEMES_FOR: Duration = Duration::from_secs(3600);
