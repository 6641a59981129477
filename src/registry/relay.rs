//! Everything the cache has no part in: passed on as it is, streamed both ways.

use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};

use super::Registries;
use super::access::is_away;
use super::call::{Answer, Call};
use super::reply::{API_VERSION, REGISTRY_2, STALE, finish};
use crate::telemetry::access::Outcome;
use crate::upstream::{Fault, FaultKind};
use crate::wire::body::{self, Body};
use crate::wire::headers;

impl Registries {
    /// Passes a request on and its answer back; redirects are the caller's to follow.
    pub(super) async fn relay(&self, call: &Call, request_body: Body) -> Answer {
        let uri = match call.endpoint.uri(&call.path_and_query) {
            Ok(uri) => uri,
            Err(fault) => return Answer::fault(&fault),
        };
        let mut request = Request::new(request_body);
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = call.headers.clone();
        match self.upstream.send(&call.endpoint.name, request).await {
            Ok(response) => relayed(response),
            Err(fault) => Answer::fault(&fault),
        }
    }

    /// `GET /v2/`: whether credentials are wanted. While upstream is away the answer is 200, so that a
    /// client whose token service is away as well goes on to what is cached and public.
    pub(super) async fn ping(&self, call: &Call, request_body: Body) -> Answer {
        let uri = call.endpoint.uri(&call.path_and_query);
        let asked = match uri {
            Err(fault) => Err(fault),
            Ok(uri) => {
                let mut request = Request::new(request_body);
                *request.method_mut() = call.method.clone();
                *request.uri_mut() = uri;
                *request.headers_mut() = call.headers.clone();
                let asking = self.upstream.send(&call.endpoint.name, request);
                tokio::time::timeout(self.revalidate_timeout, asking)
                    .await
                    .unwrap_or_else(|_| {
                        Err(Fault {
                            kind: FaultKind::Timeout,
                            message: format!("{} is slow", call.endpoint.name),
                        })
                    })
            }
        };
        match asked {
            Ok(response) if !is_away(response.status()) => relayed(response),
            // Not away, but wrong: whoever mends it must see it.
            Err(fault)
                if matches!(
                    fault.kind,
                    FaultKind::Forbidden | FaultKind::Tls | FaultKind::Nonsense
                ) =>
            {
                Answer::fault(&fault)
            }
            Ok(_) | Err(_) => {
                let head = Response::builder()
                    .status(StatusCode::OK)
                    .header(header::CONTENT_TYPE, "application/json")
                    .header(API_VERSION, REGISTRY_2)
                    .header(header::WARNING, HeaderValue::from_static(STALE));
                Answer::new(finish(head, body::full("{}")), Outcome::Stale)
            }
        }
    }
}

/// An upstream's answer as the client's, hop-by-hop fields aside.
pub(super) fn relayed(mut response: Response<Body>) -> Answer {
    headers::strip_hop_by_hop(response.headers_mut());
    Answer::new(response, Outcome::Relay)
}
