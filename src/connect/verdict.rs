//! A CONNECT (RFC 9110 section 9.3.6): denied, tunnelled, or intercepted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tracing::debug;

use super::text::{closing, denied, plain};
use super::tunnel::Tunnel;
use super::{Gateway, Live, Peer, shown};
use crate::policy::{Action, Target, Via};
use crate::telemetry::access::{self, Line, Outcome};
use crate::upstream::dial::{Carries, DialError};
use crate::upstream::{Connection, Fault, FaultKind};
use crate::wire::body::{self, Body};
use crate::wire::drain::Drain;
use crate::wire::pace::Paced;
use crate::wire::socket::Socket;

// === impl Gateway ===

impl Gateway {
    pub(super) async fn connect(
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

    pub(super) fn unreachable(&self, error: &DialError, mut line: Line) -> Response<Body> {
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
}

// === helpers ===

/// The raw socket of a CONNECT, with what its client sent early.
pub(super) async fn upgraded(upgrade: OnUpgrade) -> Option<Paced<Socket>> {
    let upgraded = upgrade
        .await
        .inspect_err(|e| debug!(error = %e, "a client left before its tunnel stood"))
        .ok()?;
    // Connections are served over exactly this type.
    let parts = upgraded.downcast::<TokioIo<Paced<Socket>>>().ok()?;
    Some(parts.io.into_inner().rewind(&parts.read_buf))
}
