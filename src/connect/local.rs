//! What the proxy port itself answers.

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{Gateway, plain};
use crate::telemetry::build;
use crate::wire::body::{self, Body};

/// Answers an origin-form request.
pub(super) fn answer(
    gateway: &Gateway,
    request: &Request<Incoming>,
    draining: bool,
) -> Response<Body> {
    let known = matches!(request.uri().path(), "/ca.crt" | "/healthz" | "/readyz");
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "pierhead: GET or HEAD\n");
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/ca.crt" => typed(
            gateway.leaves.authority().certificate_pem().to_owned(),
            "application/x-pem-file",
        ),
        "/healthz" => health(),
        "/readyz" => readiness(draining),
        _ => plain(
            StatusCode::NOT_FOUND,
            "pierhead: this is a proxy. Point HTTPS_PROXY (and HTTP_PROXY) here and trust the CA at /ca.crt; /healthz and /readyz tell how it is.\n",
        ),
    }
}

/// The process is there.
pub fn health() -> Response<Body> {
    typed(build::health(), "application/json")
}

/// New requests are welcome.
pub fn readiness(draining: bool) -> Response<Body> {
    if draining {
        let mut response = typed("{\"status\":\"draining\"}\n".to_owned(), "application/json");
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return response;
    }
    typed("{\"status\":\"ready\"}\n".to_owned(), "application/json")
}

fn typed(text: String, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
