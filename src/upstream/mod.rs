//! The network beyond: requests to registries, token services and blob hosts.

mod answer;
mod client;
mod connection;
pub mod credentials;
pub mod dial;
mod endpoint;
mod fault;
pub mod health;
pub mod identity;
pub mod parent;
mod probe;
mod reads;
mod redirect;
mod token;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::capture_connection;
use tracing::field::Empty;
use tracing::{Instrument, info_span};

pub use self::answer::{Redirected, collect, extent, names_its_part};
use self::answer::{failure_status, status_label};
use self::client::HttpClient;
pub use self::client::Tls;
pub use self::connection::Connection;
use self::dial::Dialer;
pub use self::endpoint::Endpoint;
pub use self::fault::{Fault, FaultKind};
use self::health::{Health, RateLimit};
use self::identity::Scheme;
use self::parent::ParentError;
pub use self::probe::Probe;
use self::token::Tokens;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans;
use crate::wire::body::{self, Body};
use crate::wire::headers;
use crate::wire::idle::{Idle, Progress};

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
        let limit = way.idle;
        // An upload may take as long as it flows: the clock starts anew with every part of it.
        let progress = Progress::default();
        let mut request = request.map(|body| progress.watch(body));
        // The making of a connection has a limit of its own.
        let mut connection = capture_connection(&mut request);
        let connected = async {
            let connected = connection.wait_for_connection_metadata();
            let _ = tokio::time::timeout(way.dialer.limit(), connected).await;
        };
        let client = way.own.get(name).unwrap_or(&way.client);
        // Boxed, as what is asked of upstream is not room in every request that is answered without.
        let asking = Box::pin(progress.within(limit, connected, client.request(request)));
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

fn bare_request(method: Method, uri: Uri, headers: HeaderMap) -> Request<Body> {
    let mut request = Request::new(body::empty());
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

/// Bytes a second that content comes with at least; what is slower has broken.
const SLOWEST: u64 = 1 << 10;
const SERVICES_FOR: Duration = Duration::from_secs(10);
const SCHEMES_FOR: Duration = Duration::from_secs(3600);
