//! Answers in plain text, for a person or a proxy client: registry clients get OCI errors instead.

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Instant;

use super::{Gateway, Peer};
use crate::telemetry::access::{self, Line, Outcome};
use crate::users::Denied;
use crate::wire::body::{self, Body};

// === impl Gateway ===

impl Gateway {
    /// 407: who is it, and how does it say so.
    pub(super) fn ask_who(
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
}

// === helpers ===

/// An answer in plain text, for a person or a proxy client.
pub(super) fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(body::full(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

pub(super) fn denied(reason: &str, mend: &str) -> Response<Body> {
    closing(plain(
        StatusCode::FORBIDDEN,
        format!("pierhead: {reason}\n\n{mend}\n"),
    ))
}

/// After a refused CONNECT a client has no use for the connection, and may already have sent what was
/// meant for the tunnel.
pub(super) fn closing(mut response: Response<Body>) -> Response<Body> {
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
