//! TLS with a leaf for the host that was asked for, and HTTP inside it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::text::plain;
use super::verdict::upgraded;
use super::{Gateway, LARGEST_HEAD, Live, Peer, rest, shown};
use crate::oci::error::{Code, OciError};
use crate::policy::{Action, Site, Target, Via};
use crate::registry::{Answer, Asked, TOKEN_PATH, endpoint};
use crate::telemetry::access::{Line, Outcome};
use crate::telemetry::metrics::Tally;
use crate::upstream::Endpoint;
use crate::wire::body::{self, Body};
use crate::wire::drain::Drain;
use crate::wire::headers;
use crate::wire::pace::{Busy, Paced};
use crate::wire::socket::Socket;

/// An intercepted connection, as its requests see it.
struct Inside {
    gateway: Arc<Gateway>,
    target: Target,
    peer: Peer,
    /// What the CONNECT was judged by.
    live: Arc<Live>,
    /// What came of that.
    place: Place,
    /// A reload has made an end of it: what runs finishes.
    over: CancellationToken,
    /// What the client's TLS named, when it is not the target.
    misnamed: Option<String>,
    /// The target, as its log lines show it.
    host: Arc<str>,
    realm: Arc<str>,
}

/// What a request is answered as.
#[derive(Clone)]
struct Place {
    site: Arc<Site>,
    endpoint: Arc<Endpoint>,
    tally: Arc<Tally>,
}

impl Gateway {
    pub(super) async fn intercept(
        self: Arc<Self>,
        upgrade: OnUpgrade,
        config: Arc<ServerConfig>,
        site: Arc<Site>,
        target: Target,
        live: Arc<Live>,
        peer: Peer,
    ) {
        let Some(socket) = upgraded(upgrade).await else {
            return;
        };
        let Some(place) = self.place(site, &target) else {
            return;
        };
        let pace = socket.pace().clone();
        // The socket's own patience bounds the handshake.
        let accepting = Box::pin(TlsAcceptor::from(config).accept(socket));
        let accepted = tokio::select! {
            accepted = accepting => accepted,
            () = peer.drain.begun() => return,
        };
        let tls = match accepted {
            // Boxed, as whatever it goes through from here on would have room for it once more.
            Ok(tls) => Box::new(tls),
            Err(e) => {
                self.metrics.handshake("failed");
                info!(client = %peer.client, host = %target, error = %e, "a TLS handshake failed; a client that speaks of certificates does not trust the CA yet");
                return;
            }
        };
        self.metrics.handshake("ok");
        pace.rest();
        let named = tls.get_ref().1.server_name();
        let misnamed = named
            .filter(|name| {
                !name
                    .trim_end_matches('.')
                    .eq_ignore_ascii_case(target.host.as_str())
            })
            .map(str::to_owned);
        let h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let drain = peer.drain.clone();
        let over = CancellationToken::new();
        let host = shown(&target, Via::Connect);
        let inside = Arc::new(Inside {
            gateway: self,
            target,
            peer,
            live,
            place,
            over: over.clone(),
            misnamed,
            realm: format!("https://{host}{TOKEN_PATH}").into(),
            host: host.into(),
        });
        let streams = h2.then(|| pace.multiplex());
        let busy = pace.clone();
        let service = service_fn(move |request| {
            let (inside, busy, streams) = (inside.clone(), busy.busy(), streams.clone());
            // A connection has room for an answer's state only while there is one.
            Box::pin(async move {
                let answer = inside.answer(request, busy).await;
                Ok::<_, Infallible>(match streams {
                    Some(streams) => answer.map(|body| streams.watch(body)),
                    None => answer,
                })
            })
        });
        // Boxed: what one of them needs is not room in all connections.
        let result = if h2 {
            Box::pin(speak_h2(tls, service, &drain, &over)).await
        } else {
            Box::pin(rest::serve(tls, &pace, service, ending(&drain, &over))).await
        };
        if let Err(e) = result {
            debug!(error = %e, "an intercepted connection ended");
        }
    }

    /// `None` where the target is no host.
    fn place(&self, site: Arc<Site>, target: &Target) -> Option<Place> {
        Some(Place {
            endpoint: Arc::new(endpoint(&site, Via::Connect, target)?),
            tally: self.metrics.tally(&site.registry.name),
            site,
        })
    }
}

// === impl Inside ===

impl Inside {
    async fn answer(&self, request: Request<Incoming>, busy: Busy) -> Response<Body> {
        let mut line = Line {
            client: self.peer.client,
            user: self.peer.user.clone(),
            method: request.method().clone(),
            host: self.host.clone(),
            registry: self.place.tally.clone(),
            repository: Arc::default(),
            reference: Arc::default(),
            status: 0,
            outcome: Outcome::Error,
            rule: String::new(),
            started: Instant::now(),
        };
        if headers::has_passed(request.headers(), self.gateway.upstream.via()) {
            let said = plain(
                StatusCode::LOOP_DETECTED,
                "pierhead: this request has passed this gateway before\n",
            );
            return match line.method {
                Method::HEAD => body::without_content(said),
                _ => said,
            };
        }
        if request.method() == Method::CONNECT {
            return plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "pierhead: CONNECT leads through the proxy port, not through a tunnel\n",
            );
        }
        if let Err(wrong) = self.names_the_target(&request) {
            let error = OciError::new(
                Code::Denied,
                format!(
                    "this tunnel leads to {}, the request names {wrong}",
                    self.target
                ),
            );
            let mut answer = Answer::error(StatusCode::MISDIRECTED_REQUEST, &error);
            answer.outcome = Outcome::Denied;
            answer.rule = "Host and SNI name the CONNECT target".into();
            answer = answer.because(&format!("the request names {wrong}"), "");
            return self
                .gateway
                .logged(answer.about("", request.uri().path()), line, busy);
        }
        let live = self.gateway.live.load_full();
        let place = match self.judge(&live) {
            Ok(place) => place,
            Err(answer) => {
                // Whoever connects anew is told by the CONNECT what to do about it.
                self.over.cancel();
                return self
                    .gateway
                    .logged(answer.about("", request.uri().path()), line, busy);
            }
        };
        let (head, body) = request.into_parts();
        line.registry = place.tally;
        let asked = Asked {
            site: place.site,
            rules: live.rules.clone(),
            endpoint: place.endpoint,
            method: head.method,
            path_and_query: head
                .uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
            headers: head.headers,
            client: self.peer.client,
            mirror: false,
            refresh: false,
            name_prefix: String::new(),
            realm: Some(self.realm.clone()),
        };
        let body = live.request_body(body);
        let answer = self.gateway.registries.serve(asked, body).await;
        self.gateway.logged(answer, line, busy)
    }

    /// What the next request is, on a connection that may be older than the last reload.
    fn judge(&self, live: &Arc<Live>) -> Result<Place, Box<Answer>> {
        if Arc::ptr_eq(live, &self.live) {
            return Ok(self.place.clone());
        }
        let user = self.peer.user.as_deref();
        if live.users.asked() && !user.is_some_and(|user| live.users.knows(user)) {
            let message = "the proxy asks for a user by now, or for another one; connect anew";
            return Err(Box::new(Answer::denied(
                message,
                "policy.users_file".to_owned(),
            )));
        }
        let verdict = live
            .policy
            .decide(self.peer.client, user, Via::Connect, &self.target);
        let rule = verdict.rule.to_string();
        match verdict.action {
            Action::Deny { reason, .. } => Err(Box::new(Answer::denied(&reason, rule))),
            Action::Tunnel => {
                let message = format!("{} is tunnelled by now; connect anew", self.target);
                let error = OciError::new(Code::Denied, message);
                let mut answer = Answer::error(StatusCode::MISDIRECTED_REQUEST, &error);
                answer.outcome = Outcome::Denied;
                answer.rule = rule;
                Err(Box::new(answer))
            }
            Action::Intercept(site) => match self.gateway.place(site, &self.target) {
                Some(place) => Ok(place),
                // It was one when the connection began.
                None => Err(Box::new(Answer::denied("that is no host", rule))),
            },
        }
    }

    /// `Host`, `:authority` and SNI must all name the CONNECT target; the error is what they name.
    fn names_the_target(&self, request: &Request<Incoming>) -> Result<(), String> {
        if let Some(sni) = &self.misnamed {
            return Err(format!("{sni} (SNI)"));
        }
        let hosts = headers::lines(request.headers(), &header::HOST);
        let authority = request.uri().authority().map(Authority::as_str);
        let mut named = false;
        for name in hosts.chain(authority) {
            named = true;
            // As nearly all clients write it.
            if self.target.port == 443 && name == self.target.host.as_str() {
                continue;
            }
            let names: Option<Target> =
                name.parse().or_else(|_| format!("{name}:443").parse()).ok();
            if names.as_ref() != Some(&self.target) {
                return Err(name.chars().take(128).collect());
            }
        }
        if named { Ok(()) } else { Err("no host".into()) }
    }
}

async fn speak_h2<S>(
    tls: Box<TlsStream<Paced<Socket>>>,
    service: S,
    drain: &Drain,
    over: &CancellationToken,
) -> hyper::Result<()>
where
    S: hyper::service::HttpService<Incoming, ResBody = Body, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(LARGEST_HEAD as u32)
        .max_send_buf_size(SEND_BUFFER)
        .serve_connection(TokioIo::new(tls), service);
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => result,
        () = ending(drain, over) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// The gateway ends, or this connection is to.
async fn ending(drain: &Drain, over: &CancellationToken) {
    tokio::select! {
        () = drain.begun() => {}
        () = over.cancelled() => {}
    }
}

/// Of one connection at a time. hyper holds a chunk of 256 KiB for each that its client gives no window.
const STREAMS: u32 = 32;
/// Bytes a stream may hold for a client that reads slowly.
const SEND_BUFFER: usize = 256 << 10;
