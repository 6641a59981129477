//! Verdict to bytes: what becomes of a request on the proxy port.

mod forward;
mod intercept;
mod local;
mod mirror;
mod rest;
mod text;
mod tunnel;
mod verdict;

use std::any::Any;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tracing::debug;

pub use self::local::{health, readiness};
use self::text::plain;
use crate::oci::manifest::{DOCKER_MANIFEST, OCI_MANIFEST};
use crate::policy::{Policy, Target, Via};
use crate::registry::{Answer, Registries, RegistryRules};
use crate::telemetry::access::{self, Line, Outcome};
use crate::telemetry::metrics::Metrics;
use crate::tls::Leaves;
use crate::upstream::Upstream;
use crate::users::Users;
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
        let user = match live.users.verify(peer.client, sent).await {
            Ok(user) => user,
            Err(why) => return self.ask_who(&request, peer, started, why),
        };
        if connect {
            return self.connect(request, live, peer, user, started).await;
        }
        self.forward(request, live, peer, user, started, busy).await
    }

    /// Turns a registry's answer into a response that writes its log line when it has gone.
    fn logged(&self, mut answer: Answer, mut line: Line, busy: Busy) -> Response<Body> {
        if line.method == Method::HEAD {
            answer.response = body::without_content(answer.response);
        }
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
        Idle::new(body, self.client_idle, "the client")
            .at_least(SLOWEST_UPLOAD)
            .boxed_unsync()
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
/// Bytes a second that a client has to send on average, once it is silent: as upstream does.
const SLOWEST_UPLOAD: u64 = 1 << 10;
