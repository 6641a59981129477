//! Everything the cache has no part in: passed on as it is, streamed both ways.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;

use super::Registries;
use super::access::is_away;
use super::call::{Answer, Asked, Call};
use super::reply::{API_VERSION, REGISTRY_2, STALE, finish};
use crate::policy::AuthMode;
use crate::telemetry::access::Outcome;
use crate::upstream::identity::Identity;
use crate::upstream::{Fault, FaultKind};
use crate::wire::body::{self, Body};
use crate::wire::headers;

impl Registries {
    /// Passes a request on and its answer back; redirects are the caller's to follow.
    pub(super) async fn relay(&self, call: &Call, request_body: Body) -> Answer {
        match call.as_it_came(request_body) {
            Ok(request) => self.forward(call, request).await,
            Err(fault) => Answer::fault(&fault),
        }
    }

    /// The same for what is no part of a registry. The gateway's login is for images, and who came with
    /// one for the gateway has none for that.
    pub(super) async fn relay_beside(&self, call: &Call, request_body: Body) -> Answer {
        match call.as_it_came(request_body) {
            Ok(mut request) => {
                if !matches!(call.identity, Identity::Caller(_)) {
                    request.headers_mut().remove(header::AUTHORIZATION);
                }
                self.forward(call, request).await
            }
            Err(fault) => Answer::fault(&fault),
        }
    }

    async fn forward(&self, call: &Call, request: Request<Body>) -> Answer {
        match self.upstream.send(&call.endpoint.name, request).await {
            Ok(response) => relayed(response),
            Err(fault) => Answer::fault(&fault),
        }
    }

    /// Passes on what is neither cached nor pushed (lists of tags, referrers, the catalog) in the name
    /// that fits.
    pub(super) async fn pass_on(
        &self,
        call: &Call,
        request_body: Body,
        repository: &str,
    ) -> Answer {
        let reads = matches!(call.method, Method::GET | Method::HEAD);
        if matches!(call.identity, Identity::Caller(_)) {
            return self.relay(call, request_body).await;
        }
        if !reads {
            let again = request_body.is_end_stream().then(Bytes::new);
            let changing = self.send_push(call, repository, request_body, again);
            // Boxed: what few requests need is not room, and work, in all of them.
            return Box::pin(changing).await;
        }
        let mut headers = call.asking(call.headers.get(header::ACCEPT).cloned());
        if let Some(range) = call.headers.get(header::RANGE) {
            headers.insert(header::RANGE, range.clone());
        }
        let asked = self.upstream.ask(
            &call.endpoint,
            &call.identity,
            call.method.clone(),
            &call.path_and_query,
            headers,
            repository,
        );
        match asked.await {
            Ok(response) => relayed(response),
            Err(fault) => Answer::fault(&fault),
        }
    }

    /// `GET /v2/`: whether credentials are wanted. While upstream is away, or the token service it
    /// names, the answer is 200, so that a client goes on to what is cached and public. It counts as
    /// relayed all the same: nothing of the cache is in it.
    pub(super) async fn ping(&self, call: &Call, asked: &Asked, request_body: Body) -> Answer {
        if call.by_policy_alone() {
            return Answer::new(pong(false), Outcome::Relay);
        }
        let chooses = asked.mirror || call.registry().auth == AuthMode::ClientOrGateway;
        if chooses && call.headers.contains_key(header::AUTHORIZATION) {
            return Answer::new(pong(false), Outcome::Relay);
        }
        let wants_login = || self.wants_login(asked, "to know whether you log in");
        let answer = match call.as_it_came(request_body) {
            Err(fault) => Err(fault),
            Ok(request) => {
                let asking = self.upstream.send(&call.endpoint.name, request);
                tokio::time::timeout(call.rules.revalidate_timeout, asking)
                    .await
                    .unwrap_or_else(|_| {
                        Err(Fault {
                            kind: FaultKind::Timeout,
                            message: format!("{} is slow", call.endpoint.name),
                        })
                    })
            }
        };
        match answer {
            Ok(response) if is_away(response.status()) => Answer::new(pong(true), Outcome::Relay),
            Ok(_) if chooses => wants_login(),
            Ok(response) => {
                let challenge = response.headers().clone();
                if response.status() == StatusCode::UNAUTHORIZED
                    && call.credential().is_none()
                    && self.access.no_token_to_be_had(call, &challenge).await
                {
                    return Answer::new(pong(true), Outcome::Relay);
                }
                relayed(response)
            }
            // Not away, but wrong: whoever mends it must see it.
            Err(fault)
                if matches!(
                    fault.kind,
                    FaultKind::Forbidden | FaultKind::Tls | FaultKind::Nonsense
                ) =>
            {
                if chooses {
                    return wants_login();
                }
                Answer::fault(&fault)
            }
            Err(_) => Answer::new(pong(true), Outcome::Relay),
        }
    }
}

/// The answer of a registry that asks for nothing.
pub(super) fn pong(stale: bool) -> Response<Body> {
    let mut head = Response::builder()
        .status(StatusCode::OK)
        .header(header::CONTENT_TYPE, "application/json")
        .header(API_VERSION, REGISTRY_2);
    if stale {
        head = head.header(header::WARNING, HeaderValue::from_static(STALE));
    }
    finish(head, body::full("{}"))
}

/// An upstream's answer as the client's, hop-by-hop fields aside.
pub(super) fn relayed(mut response: Response<Body>) -> Answer {
    if response.status().is_informational() {
        let status = response.status();
        return Answer::fault(&Fault {
            kind: FaultKind::Nonsense,
            message: format!("upstream answered {status}, which nobody had asked for"),
        });
    }
    headers::strip_hop_by_hop(response.headers_mut());
    Answer::new(response, Outcome::Relay)
}
