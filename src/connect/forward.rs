//! Absolute-form requests: plain http, cached for a registry, forwarded for the rest.

use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::text::{denied, plain};
use super::{Gateway, Live, Peer, shown};
use crate::policy::{Action, Target, Via};
use crate::registry::{Answer, Asked, TOKEN_PATH, endpoint};
use crate::telemetry::access::{self, Line, Outcome};
use crate::upstream::FaultKind;
use crate::wire::body::Body;
use crate::wire::headers;
use crate::wire::pace::Busy;

impl Gateway {
    pub(super) async fn forward(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        live: Arc<Live>,
        peer: &Peer,
        user: Option<String>,
        started: Instant,
        busy: Busy,
    ) -> Response<Body> {
        let uri = request.uri().clone();
        if uri.scheme_str() != Some("http") {
            return plain(
                StatusCode::BAD_REQUEST,
                "pierhead: only http:// goes through in absolute form; for https:// use CONNECT\n",
            );
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        let with_port = match host.rsplit_once(':') {
            Some((_, port)) if !port.contains(']') => host.to_owned(),
            _ => format!("{host}:80"),
        };
        let target: Target = match with_port.parse() {
            Ok(target) => target,
            Err(e) => return plain(StatusCode::BAD_REQUEST, format!("pierhead: {e}\n")),
        };
        let path_and_query = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut line = Line {
            client: peer.client,
            user,
            method: request.method().clone(),
            host: shown(&target, Via::Http).into(),
            registry: self.metrics.tally(""),
            repository: Arc::default(),
            reference: uri.path().into(),
            status: 403,
            outcome: Outcome::Denied,
            rule: String::new(),
            started,
        };
        let user = line.user.as_deref();
        let verdict = live.policy.decide(peer.client, user, Via::Http, &target);
        match verdict.action {
            Action::Deny { reason, mend } => {
                line.rule = verdict.rule.to_string();
                access::write(&self.metrics, &line, 0, true);
                self.metrics.live.denied(&line, &reason, &mend);
                denied(&reason, &mend)
            }
            Action::Intercept(site) => {
                let Some(endpoint) = endpoint(&site, Via::Http, &target) else {
                    return plain(StatusCode::BAD_REQUEST, "pierhead: that is no host\n");
                };
                line.registry = self.metrics.tally(&site.registry.name);
                let asked = Asked {
                    endpoint: Arc::new(endpoint),
                    method: request.method().clone(),
                    path_and_query: path_and_query.to_owned(),
                    headers: std::mem::take(request.headers_mut()),
                    client: peer.client,
                    site,
                    rules: live.rules.clone(),
                    mirror: false,
                    refresh: false,
                    name_prefix: String::new(),
                    realm: Some(format!("http://{}{TOKEN_PATH}", line.host).into()),
                };
                let body = live.request_body(request.into_body());
                let answer = self.registries.serve(asked, body).await;
                self.logged(answer, line, busy)
            }
            Action::Tunnel => {
                let request = request.map(|body| live.request_body(body));
                let answer = match self.upstream.send("forward", request).await {
                    Ok(mut response) => {
                        headers::strip_hop_by_hop(response.headers_mut());
                        Answer::new(response, Outcome::Relay)
                    }
                    Err(fault) => {
                        let (status, outcome) = match fault.kind {
                            FaultKind::Forbidden => (StatusCode::FORBIDDEN, Outcome::Denied),
                            FaultKind::Timeout => (StatusCode::GATEWAY_TIMEOUT, Outcome::Error),
                            _ => (StatusCode::BAD_GATEWAY, Outcome::Error),
                        };
                        let said = format!("pierhead: {fault}\n");
                        Answer::new(plain(status, said), outcome).because(&fault.message, "")
                    }
                };
                let rule = match answer.outcome {
                    Outcome::Denied => "upstream.allow_private".into(),
                    _ => verdict.rule.to_string(),
                };
                let answer = Answer {
                    rule,
                    reference: line.reference.clone(),
                    ..answer
                };
                self.logged(answer, line, busy)
            }
        }
    }
}
