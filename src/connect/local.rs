//! What the proxy port itself answers.

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::Gateway;
use super::text::plain;
use crate::setup::{self, Client, Kit, Place, Scheme};
use crate::telemetry::build;
use crate::wire::body::{self, Body};
use crate::wire::headers;

/// Answers an origin-form request. `secure`: it came in TLS.
pub(super) fn answer(
    gateway: &Gateway,
    request: &Request<Incoming>,
    secure: bool,
    draining: bool,
) -> Response<Body> {
    let path = request.uri().path();
    let client = path
        .strip_prefix("/setup/")
        .and_then(|name| name.parse().ok());
    let known = client.is_some() || matches!(path, "/ca.crt" | "/healthz" | "/readyz");
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "pierhead: GET or HEAD\n");
        response
            .headers_mut()
            .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    if let Some(client) = client {
        return script(gateway, request, client, secure);
    }
    match path {
        "/ca.crt" => typed(
            gateway.leaves.authority().certificate_pem().to_owned(),
            "application/x-pem-file",
        ),
        "/healthz" => health(),
        "/readyz" => readiness(draining),
        _ => plain(
            StatusCode::NOT_FOUND,
            "pierhead: this is a proxy. Point HTTPS_PROXY (and HTTP_PROXY) here and trust the CA at /ca.crt; /setup/docker (containerd, podman, buildkit, kubernetes) is a script that does both; /healthz and /readyz tell how it is.\n",
        ),
    }
}

/// The script for a client machine, with the address that it was asked for at.
fn script(
    gateway: &Gateway,
    request: &Request<Incoming>,
    client: Client,
    secure: bool,
) -> Response<Body> {
    let scheme = match secure {
        true => Scheme::Https,
        false => Scheme::Http,
    };
    let host = headers::lines(request.headers(), &header::HOST).next();
    let place = match Place::asked(scheme, host.unwrap_or_default()) {
        Ok(place) => place,
        Err(e) => return plain(StatusCode::BAD_REQUEST, format!("pierhead: {e}\n")),
    };
    let authority = gateway.leaves.authority();
    let live = gateway.live.load();
    let kit = Kit::new(
        &live.policy,
        authority.certificate_pem(),
        authority.fingerprint(),
    );
    let options = setup::options(request.uri().query());
    typed(kit.script(client, &place, &options), client.media_type())
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
