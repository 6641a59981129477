//! Verdict to bytes: what becomes of a request on the proxy port.

mod forward;
mod intercept;
mod local;
mod mirror;
mod rest;
mod tunnel;

use std::any::Any;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use self::local::{health, readiness};
use self::tunnel::Tunnel;
use crate::oci::manifest::{DOCKER_MANIFEST, OCI_MANIFEST};
use crate::policy::{Action, Policy, Target, Via};
use crate::registry::{Answer, Registries, RegistryRules};
use crate::telemetry::access::{self, Line, Outcome};
use crate::telemetry::metrics::Metrics;
use crate::tls::Leaves;
use crate::upstream::dial::{Carries, DialError};
use crate::upstream::{Connection, Fault, FaultKind, Upstream};
use crate::users::{Denied, Users};
use crate::wire::body::{self, Body};
use crate::wire::drain::Drain;
use crate::wire::headers;
use crate::wire::idle::Idle;
use crate::wire::pace::{Busy, Paced};
use crate::wire::socket::Socket;

/// Everything a request on the proxy port may need.
#[derive(Debug)]
pub struct Gateway {
    /// Read once for each request.
    pub live: ArcSwap<Live>,
    pub leaves: Arc<Leaves>,
    pub registries: Arc<Registries>,
    pub upstream: Arc<Upstream>,
    pub metrics: Arc<Metrics>,
}

/// What requests are judged by, and a reload puts another one in the place of.
#[derive(Clone, Debug)]
pub struct Live {
    pub policy: Arc<Policy>,
    pub users: Arc<Users>,
    pub rules: Arc<RegistryRules>,
    /// Ends connections, tunnels and uploads that fall silent.
    pub client_idle: Duration,
}

/// One client connection, as its requests see it.
#[derive(Clone, Debug)]
pub struct Peer {
    pub client: IpAddr,
    /// Whom the CONNECT around it was allowed; `None` before one.
    pub user: Option<String>,
    /// It came in TLS.
    pub secure: bool,
    pub drain: Drain,
    /// Counted among the client's connections as long as this lives.
    pub place: Arc<dyn Any + Send + Sync>,
}

// === impl Gateway ===

impl Gateway {
    /// Serves one connection to its end.
    pub async fn serve(self: Arc<Self>, socket: Paced<Socket>, peer: Peer) {
        let pace = socket.pace().clone();
        let drain = peer.drain.clone();
        let gateway = self.clone();
        let heard = CancellationToken::new();
        let asked = heard.clone();
        let service = service_fn(move |request| {
            asked.cancel();
            let (gateway, peer, busy) = (gateway.clone(), peer.clone(), pace.busy());
            async move { Ok::<_, Infallible>(gateway.answer(request, &peer, busy).await) }
        });
        let connection = http1::Builder::new()
            // Without a timer of hyper's: the socket's pace bounds every wait.
            .header_read_timeout(None)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades();
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = drain.begun() => {
                // Who has just come has yet to say what for, and would go without an answer.
                tokio::select! {
                    biased;
                    () = heard.cancelled() => {}
                    result = connection.as_mut() => return ended(result),
                    () = tokio::time::sleep(FIRST_WORD) => {}
                }
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        ended(result);
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: &Peer,
        busy: Busy,
    ) -> Response<Body> {
        let started = Instant::now();
        let live = self.live.load_full();
        if headers::has_passed(request.headers(), self.upstream.via()) {
            return plain(
                StatusCode::LOOP_DETECTED,
                "pierhead: this request has passed this gateway before; upstream.proxy or a registry's url leads back here\n",
            );
        }
        let connect = request.method() == Method::CONNECT;
        if !connect && request.uri().authority().is_none() {
            if mirror::serves(request.uri().path()) {
                return self.mirror(request, live, peer, started, busy).await;
            }
            return local::answer(&self, &request, peer.secure, peer.drain.has_begun());
        }
        let sent = request.headers().get(header::PROXY_AUTHORIZATION);
        let user = match live.users.verify(sent).await {
            Ok(user) => user,
            Err(why) => return self.ask_who(&request, peer, started, why),
        };
        if connect {
            return self.connect(request, live, peer, user, started).await;
        }
        self.forward(request, live, peer, user, started, busy).await
    }

    /// 407: who is it, and how does it say so.
    fn ask_who(
        &self,
        request: &Request<Incoming>,
        peer: &Peer,
        started: Instant,
        why: Denied,
    ) -> Response<Body> {
        let said = match why {
            Denied::Missing => "this proxy asks for a user and a password, and none were sent",
            Denied::Wrong { .. } => "the user or the password is not right",
            Denied::Busy => "too many passwords are being checked at this moment; try again",
        };
        let refused = why != Denied::Busy;
        let host = request.uri().host().unwrap_or_default();
        let text = format!(
            "pierhead: {said}\n\nSet the proxy as http://USER:PASSWORD@GATEWAY:PORT (HTTPS_PROXY, HTTP_PROXY; percent-encode what is special in a URL).\nWho runs the gateway adds users with `htpasswd -B FILE USER`, where FILE is policy.users_file of pierhead.toml.\n",
        );
        let mut response = plain(StatusCode::PROXY_AUTHENTICATION_REQUIRED, text);
        let headers = response.headers_mut();
        if why == Denied::Busy {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        } else {
            let basic = HeaderValue::from_static("Basic realm=\"pierhead\"");
            headers.insert(header::PROXY_AUTHENTICATE, basic);
        }
        let line = Line {
            client: peer.client,
            user: match why {
                Denied::Wrong { user } => user,
                _ => None,
            },
            method: request.method().clone(),
            host: host.chars().take(128).collect::<String>().into(),
            registry: self.metrics.tally(""),
            repository: Arc::default(),
            reference: Arc::default(),
            status: response.status().as_u16(),
            outcome: Outcome::Denied,
            rule: "policy.users_file".into(),
            started,
        };
        access::write(&self.metrics, &line, 0, true);
        if refused {
            let mend = "htpasswd -B FILE USER adds a user, where FILE is policy.users_file";
            self.metrics.live.denied(&line, said, mend);
        }
        closing(response)
    }

    async fn connect(
        self: Arc<Self>,
        request: Request<Incoming>,
        live: Arc<Live>,
        peer: &Peer,
        user: Option<String>,
        started: Instant,
    ) -> Response<Body> {
        let asked = request.uri().authority().map_or("", Authority::as_str);
        let target: Target = match asked.parse() {
            Ok(target) => target,
            Err(e) => {
                let text = format!("pierhead: CONNECT wants host:port: {e}\n");
                let line = Line {
                    client: peer.client,
                    user,
                    method: Method::CONNECT,
                    host: asked.chars().take(128).collect::<String>().into(),
                    registry: self.metrics.tally(""),
                    repository: Arc::default(),
                    reference: Arc::default(),
                    status: 400,
                    outcome: Outcome::Error,
                    rule: String::new(),
                    started,
                };
                access::write(&self.metrics, &line, 0, true);
                return closing(plain(StatusCode::BAD_REQUEST, text));
            }
        };
        let mut line = Line {
            client: peer.client,
            user,
            method: Method::CONNECT,
            host: shown(&target, Via::Connect).into(),
            registry: self.metrics.tally(""),
            repository: Arc::default(),
            reference: Arc::default(),
            status: 200,
            outcome: Outcome::Tunnel,
            rule: String::new(),
            started,
        };
        let user = line.user.as_deref();
        let verdict = live.policy.decide(peer.client, user, Via::Connect, &target);
        line.rule = verdict.rule.to_string();
        match verdict.action {
            Action::Deny { reason, mend } => {
                line.outcome = Outcome::Denied;
                line.status = 403;
                access::write(&self.metrics, &line, 0, true);
                self.metrics.live.denied(&line, &reason, &mend);
                denied(&reason, &mend)
            }
            Action::Tunnel => match self
                .upstream
                .dialer()
                .dial(
                    target.host.as_str(),
                    target.port,
                    Carries::Bytes(request.headers()),
                )
                .await
            {
                Ok(socket) => {
                    let upgrade = hyper::upgrade::on(request);
                    let ending = peer.drain.clone();
                    let place = peer.place.clone();
                    peer.drain.spawn(async move {
                        self.tunnel(upgrade, socket, line, live.client_idle, ending)
                            .await;
                        drop(place);
                    });
                    Response::new(body::empty())
                }
                Err(error) => self.unreachable(&error, line),
            },
            Action::Intercept(site) => match self.leaves.server_config(target.host.as_str()) {
                Ok(config) => {
                    let upgrade = hyper::upgrade::on(request);
                    let peer = Peer {
                        user: line.user,
                        ..peer.clone()
                    };
                    let drain = peer.drain.clone();
                    drain.spawn(self.intercept(upgrade, config, site, target, live, peer));
                    Response::new(body::empty())
                }
                Err(e) => {
                    line.outcome = Outcome::Error;
                    line.status = 502;
                    access::write(&self.metrics, &line, 0, true);
                    let text = format!("pierhead: no certificate for {}: {e}\n", target.host);
                    plain(StatusCode::BAD_GATEWAY, text)
                }
            },
        }
    }

    async fn tunnel(
        &self,
        upgrade: OnUpgrade,
        target: Connection,
        mut line: Line,
        idle: Duration,
        ending: Drain,
    ) {
        let Some(client) = upgraded(upgrade).await else {
            return;
        };
        let (client, early) = client.into_parts();
        self.metrics.tunnels.inc();
        let live = &self.metrics.live;
        let listed = live.tunnel(line.client, line.user.clone(), line.host.to_string());
        let shown = listed.moved().clone();
        let mut tunnel = Tunnel::new(client, target, &early, idle, shown);
        let result = tokio::select! {
            result = &mut tunnel => result,
            // A tunnel has no requests to finish: it may go on until the drain's limit.
            () = async { ending.begun().await; std::future::pending().await } => Ok(()),
        };
        self.metrics.tunnels.dec();
        drop(listed);
        let moved = tunnel.moved();
        self.metrics.tunnel_bytes.inc_by(moved.up + moved.down);
        line.outcome = Outcome::Tunnel;
        access::write(&self.metrics, &line, moved.up + moved.down, result.is_ok());
    }

    fn unreachable(&self, error: &DialError, mut line: Line) -> Response<Body> {
        let fault = Fault::from(error);
        let status = match fault.kind {
            FaultKind::Forbidden => StatusCode::FORBIDDEN,
            FaultKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        };
        line.outcome = match fault.kind {
            FaultKind::Forbidden => Outcome::Denied,
            _ => Outcome::Error,
        };
        if fault.kind == FaultKind::Forbidden {
            line.rule = "upstream.allow_private".into();
        }
        line.status = status.as_u16();
        access::write(&self.metrics, &line, 0, true);
        if line.outcome == Outcome::Denied {
            self.metrics.live.denied(&line, &fault.message, "");
        }
        closing(plain(status, format!("pierhead: {fault}\n")))
    }

    /// Turns a registry's answer into a response that writes its log line when it has gone.
    fn logged(&self, answer: Answer, mut line: Line, busy: Busy) -> Response<Body> {
        line.status = answer.response.status().as_u16();
        line.outcome = answer.outcome;
        line.rule = answer.rule;
        line.repository = answer.repository;
        line.reference = answer.reference;
        if line.outcome == Outcome::Denied {
            self.metrics
                .live
                .denied(&line, &answer.reason, &answer.mend);
        }
        if is_pull(&line, answer.response.headers()) {
            self.metrics.pulled(&line.registry);
        }
        let metrics = self.metrics.clone();
        let length = answer.response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        answer
            .response
            .map(|body| access::logged(body, length, metrics, line, busy))
    }
}

// === impl Live ===

impl Live {
    fn request_body(&self, body: Incoming) -> Body {
        if body.is_end_stream() {
            return body::empty();
        }
        Idle::new(body, self.client_idle, "the client").boxed_unsync()
    }
}

/// Whether a client is given an image with this: every pull gets one manifest that is an image's, for
/// its platform, by tag or by digest; asking what a tag stands for and reading an index are none.
fn is_pull(line: &Line, headers: &HeaderMap) -> bool {
    let image = |kind: &HeaderValue| {
        [OCI_MANIFEST, DOCKER_MANIFEST]
            .iter()
            .any(|image| kind.as_bytes() == image.as_bytes())
    };
    line.status == 200
        && line.method == Method::GET
        && line.outcome.is_content()
        && headers.get(header::CONTENT_TYPE).is_some_and(image)
}

/// The raw socket of a CONNECT, with what its client sent early.
async fn upgraded(upgrade: OnUpgrade) -> Option<Paced<Socket>> {
    let upgraded = upgrade
        .await
        .inspect_err(|e| debug!(error = %e, "a client left before its tunnel stood"))
        .ok()?;
    // Connections are served over exactly this type.
    let parts = upgraded.downcast::<TokioIo<Paced<Socket>>>().ok()?;
    Some(parts.io.into_inner().rewind(&parts.read_buf))
}

/// An answer in plain text, for a person or a proxy client.
fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(body::full(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn denied(reason: &str, mend: &str) -> Response<Body> {
    closing(plain(
        StatusCode::FORBIDDEN,
        format!("pierhead: {reason}\n\n{mend}\n"),
    ))
}

/// After a refused CONNECT a client has no use for the connection, and may already have sent what was
/// meant for the tunnel.
fn closing(mut response: Response<Body>) -> Response<Body> {
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A host for a log line: the port only where it is not the usual one.
fn shown(target: &Target, via: Via) -> String {
    if target.port == via.default_port() {
        target.host.to_string()
    } else {
        target.to_string()
    }
}

fn ended(result: hyper::Result<()>) {
    if let Err(e) = result {
        debug!(error = %e, "a client connection ended");
    }
}

/// How long a connection that has asked nothing yet may take to, once the end has begun.
const FIRST_WORD: Duration = Duration::from_secs(2);
/// Bytes of a request's head.
const LARGEST_HEAD: usize = 64 << 10;
