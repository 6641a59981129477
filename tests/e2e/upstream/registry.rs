//! The registries: access checks and redirects of their own, bytes from the backend.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;

use super::access::Caller;
use super::{Body, Shared, cdn, full, json_answer, oci_error, plain};

pub const HUB: &str = "registry-1.docker.io";
pub const AUTH: &str = "auth.docker.io";
pub const SEARCH: &str = "index.docker.io";
pub const GHCR: &str = "ghcr.io";
pub const PARTNER: &str = "registry.partner.example";
pub const OTHER: &str = "registry.other.example";
pub const CDN: &str = "cdn.example";

const SITES: [Site; 4] = [
    Site {
        host: HUB,
        folder: "hub",
        login: Login::Bearer {
            realm: "https://auth.docker.io/token",
            service: "registry.docker.io",
        },
        redirects: true,
    },
    Site {
        host: GHCR,
        folder: "ghcr",
        login: Login::Bearer {
            realm: "https://ghcr.io/token",
            service: "ghcr.io",
        },
        redirects: true,
    },
    Site {
        host: PARTNER,
        folder: "partner",
        login: Login::Basic,
        redirects: false,
    },
    Site {
        host: OTHER,
        folder: "other",
        login: Login::Open,
        redirects: false,
    },
];

/// One registry.
pub struct Site {
    pub host: &'static str,
    /// Where its repositories are in the backend.
    pub folder: &'static str,
    login: Login,
    /// Whether blobs come from the CDN.
    redirects: bool,
}

enum Login {
    Basic,
    Bearer {
        realm: &'static str,
        service: &'static str,
    },
    Open,
}

/// Every name that exists.
pub fn names() -> impl Iterator<Item = &'static str> {
    let others = [AUTH, SEARCH, CDN];
    SITES.iter().map(|site| site.host).chain(others)
}

// === impl Site ===

impl Site {
    pub fn find(host: &str) -> Option<&'static Self> {
        SITES.iter().find(|site| site.host == host)
    }

    /// Lets a request pass, or says what to answer. No repository: the ping.
    fn admit(
        &self,
        shared: &Shared,
        headers: &HeaderMap,
        repository: Option<&str>,
    ) -> Result<(), Box<Response<Body>>> {
        match self.login {
            Login::Open => Ok(()),
            Login::Basic => {
                let caller = Caller::basic(headers);
                let access = shared.access.lock().expect("no panic holds it");
                let sees = repository.is_none_or(|it| access.allows(self.host, it, &caller));
                match caller {
                    Caller::User(_) if sees => Ok(()),
                    Caller::User(_) => {
                        let denied = oci_error(StatusCode::FORBIDDEN, "DENIED", "not for you");
                        Err(Box::new(denied))
                    }
                    _ => Err(self.challenge("Basic realm=\"the partner\"".into())),
                }
            }
            Login::Bearer { realm, service } => {
                let opened = shared.tokens.opened(headers);
                let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
                match (opened, repository) {
                    (Some(_), None) => return Ok(()),
                    (Some(opened), Some(repository)) => {
                        let wanted = (self.host.to_owned(), repository.to_owned());
                        if opened.contains(&wanted) {
                            return Ok(());
                        }
                        challenge += &format!(
                            ",scope=\"repository:{repository}:pull\",error=\"insufficient_scope\""
                        );
                    }
                    (None, Some(repository)) => {
                        challenge += &format!(",scope=\"repository:{repository}:pull\"");
                    }
                    (None, None) => {}
                }
                Err(self.challenge(challenge))
            }
        }
    }

    fn challenge(&self, challenge: String) -> Box<Response<Body>> {
        let message = "authentication required";
        let mut response = oci_error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
        let headers = response.headers_mut();
        let challenge = HeaderValue::try_from(challenge).expect("a header value");
        headers.insert(header::WWW_AUTHENTICATE, challenge);
        headers.insert(API_VERSION.0, HeaderValue::from_static(API_VERSION.1));
        Box::new(response)
    }
}

const API_VERSION: (HeaderName, &str) = (
    HeaderName::from_static("docker-distribution-api-version"),
    "registry/2.0",
);

/// Docker Hub's search, with one result for every question.
pub fn search<B>(request: &Request<B>) -> Response<Body> {
    if request.uri().path() != "/v1/search" {
        return plain(StatusCode::NOT_FOUND, "only /v1/search");
    }
    json_answer(
        StatusCode::OK,
        &json!({
            "num_pages": 1, "num_results": 1, "page": 1, "page_size": 25, "query": "any",
            "results": [{
                "name": "acme/found", "description": "what was sought", "star_count": 7,
                "is_official": false, "is_automated": false,
            }],
        }),
    )
}

pub async fn answer<B>(shared: &Arc<Shared>, host: &str, request: &Request<B>) -> Response<Body> {
    let Some(site) = Site::find(host) else {
        return plain(StatusCode::NOT_FOUND, "no such host");
    };
    let path = request.uri().path();
    let rest = path.strip_prefix("/v2/").unwrap_or("");
    let found = ["/manifests/", "/blobs/", "/tags/"]
        .into_iter()
        .find_map(|kind| {
            let (repository, reference) = rest.rsplit_once(kind)?;
            Some((repository, kind, reference))
        });
    let repository = found.map(|(repository, ..)| repository);
    if !path.starts_with("/v2/") {
        return plain(StatusCode::NOT_FOUND, "no such page");
    }
    if let Err(response) = site.admit(shared, request.headers(), repository) {
        return *response;
    }
    let Some((repository, kind, reference)) = found else {
        let mut response = json_answer(StatusCode::OK, &json!({}));
        let version = HeaderValue::from_static(API_VERSION.1);
        response.headers_mut().insert(API_VERSION.0, version);
        return response;
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return oci_error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "read only");
    }
    if kind == "/blobs/" && !site.redirects {
        return cdn::blob(shared, site.folder, repository, reference, request).await;
    }
    if kind == "/blobs/" && request.method() == Method::GET {
        return cdn::redirect(shared, site, repository, reference);
    }
    if kind == "/manifests/" && site.host == HUB {
        return hub_manifest(shared, site, request).await;
    }
    forward(shared, site, request).await
}

/// Whether a request pushes, to a registry that takes pushes: those without a CDN.
pub fn writes<B>(host: &str, request: &Request<B>) -> bool {
    let takes = Site::find(host).is_some_and(|site| !site.redirects);
    takes
        && request.uri().path().starts_with("/v2/")
        && !matches!(*request.method(), Method::GET | Method::HEAD)
}

/// A push, to the backend under the host's folder; its `Location` leads back here.
pub async fn write(shared: &Arc<Shared>, host: &str, request: Request<Incoming>) -> Response<Body> {
    let site = Site::find(host).expect("asked before");
    let path = request.uri().path().to_owned();
    let rest = path.trim_start_matches("/v2/");
    let repository = rest
        .rsplit_once("/blobs/")
        .or_else(|| rest.rsplit_once("/manifests/"))
        .map(|(repository, _)| repository);
    if let Err(response) = site.admit(shared, request.headers(), repository) {
        return *response;
    }
    let query = request.uri().query().map_or(String::new(), |it| {
        // A mount names a repository of this host.
        format!(
            "?{}",
            it.replace("from=", &format!("from={}%2F", site.folder))
        )
    });
    let mut headers = HeaderMap::new();
    for name in [header::CONTENT_TYPE, header::CONTENT_RANGE] {
        if let Some(value) = request.headers().get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let method = request.method().clone();
    let Ok(body) = request.into_body().collect().await else {
        return plain(StatusCode::BAD_REQUEST, "the body broke off");
    };
    let to = format!("/v2/{}/{rest}{query}", site.folder);
    let sent = shared
        .store
        .send(method, &to, headers, body.to_bytes().to_vec())
        .await;
    let (mut head, body) = sent.into_parts();
    head.headers.remove(header::CONNECTION);
    let location = head
        .headers
        .get(header::LOCATION)
        .and_then(|value| {
            value
                .to_str()
                .ok()?
                .split_once(&format!("/v2/{}/", site.folder))
        })
        .map(|(_, rest)| format!("https://{host}/v2/{rest}"));
    if let Some(location) = location {
        let location = HeaderValue::try_from(location).expect("a header value");
        head.headers.insert(header::LOCATION, location);
    }
    Response::from_parts(head, full(body))
}

async fn hub_manifest<B>(shared: &Shared, site: &Site, request: &Request<B>) -> Response<Body> {
    let limited = *shared.rate_limited.lock().expect("no panic holds it");
    let mut response = if limited {
        let message = "You have reached your pull rate limit.";
        oci_error(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message)
    } else {
        forward(shared, site, request).await
    };
    let left = if limited { "0;w=21600" } else { "76;w=21600" };
    for (name, value) in [
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", left),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

/// The backend's own answer, under the host's folder.
async fn forward<B>(shared: &Shared, site: &Site, request: &Request<B>) -> Response<Body> {
    let rest = request.uri().path().trim_start_matches("/v2/");
    let path = format!("/v2/{}/{rest}", site.folder);
    let mut headers = HeaderMap::new();
    for name in [header::ACCEPT, header::IF_NONE_MATCH] {
        for value in request.headers().get_all(&name) {
            headers.append(&name, value.clone());
        }
    }
    let store = &shared.store;
    let response = store.send(request.method().clone(), &path, headers, Vec::new());
    let (mut head, body) = response.await.into_parts();
    head.headers.remove(header::CONNECTION);
    Response::from_parts(head, full(body))
}
