//! `/v2/…` on the proxy port: the gateway as a registry, for clients that take no proxy setting.
//!
//! Which registry is meant is looked up, never dialled as given: `?ns=HOST` (containerd), else what another
//! gateway says whose `url` this one is, else a first name component that can be a host, else Docker Hub. Same cache, same promises, same grants.

use std::sync::Arc;
use std::time::Instant;

use http::header::HeaderValue;
use http::{Request, Response, StatusCode, header};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use super::{Gateway, Live, Peer};
use crate::oci::error::{Code, OciError};
use crate::policy::{Action, Via};
use crate::registry::{Answer, Asked, TOKEN_PATH, endpoint};
use crate::telemetry::access::{Line, Outcome};
use crate::users::Denied;
use crate::wire::body::Body;
use crate::wire::headers;
use crate::wire::pace::Busy;

/// A path of ours in the words of the registry that is meant.
#[derive(Debug, PartialEq, Eq)]
struct Meant {
    /// As the client wrote it.
    registry: String,
    path_and_query: String,
    /// What the registry takes of the name, with its slash.
    name_prefix: String,
    /// It is said of no registry in particular: the ping, and the token service, where nothing names one.
    nobody: bool,
}

/// Whether a path belongs to the mirror endpoint.
pub(super) fn serves(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/") || path == TOKEN_PATH
}

impl Gateway {
    pub(super) async fn mirror(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        live: Arc<Live>,
        peer: &Peer,
        started: Instant,
        busy: Busy,
    ) -> Response<Body> {
        let said = headers::take_meant_host(request.headers_mut());
        let meant = meant(request.uri().path(), request.uri().query(), said);
        let mut line = Line {
            client: peer.client,
            user: None,
            method: request.method().clone(),
            host: match meant.nobody {
                true => Arc::default(),
                false => meant.registry.as_str().into(),
            },
            registry: self.metrics.tally(""),
            repository: Arc::default(),
            reference: request.uri().path().into(),
            status: 0,
            outcome: Outcome::Error,
            rule: String::new(),
            started,
        };
        let reference = line.reference.clone();
        // Proxy users log in here as to a registry. Their login is the gateway's business alone.
        match live
            .users
            .verify(peer.client, request.headers().get(header::AUTHORIZATION))
            .await
        {
            Ok(None) => {}
            Ok(Some(user)) => line.user = Some(user),
            Err(why) => {
                line.rule = "policy.users_file".into();
                return self.logged(ask_who(&why).about("", reference), line, busy);
            }
        }
        let own_name = headers::lines(request.headers(), &header::HOST).next();
        let realm = own_name.map(|host| {
            let scheme = if peer.secure { "https" } else { "http" };
            Arc::from(format!("{scheme}://{host}{TOKEN_PATH}"))
        });
        if meant.nobody {
            let path = request.uri().path();
            let (method, headers) = (request.method(), request.headers());
            let answer = self
                .registries
                .front_door(method, path, headers, realm.as_deref());
            return self.logged(answer.about("", reference), line, busy);
        }
        if line.user.is_some() {
            request.headers_mut().remove(header::AUTHORIZATION);
        }
        let Some(target) = live.policy.target_of(&meant.registry) else {
            let message = format!(
                "{} is no registry that is configured here; [[registry]] host = \"{}\" would make it one",
                meant.registry, meant.registry
            );
            let error = OciError::new(Code::NameUnknown, message);
            let answer = Answer::error(StatusCode::NOT_FOUND, &error).about("", reference);
            return self.logged(answer, line, busy);
        };
        let verdict = live
            .policy
            .decide(peer.client, line.user.as_deref(), Via::Connect, &target);
        let site = match verdict.action {
            Action::Intercept(site) => site,
            Action::Tunnel => {
                let message = format!("{target} is tunnelled ({}), not cached", verdict.rule);
                let answer = Answer::denied(&message, verdict.rule.to_string());
                return self.logged(answer.about("", reference), line, busy);
            }
            Action::Deny { reason, mend } => {
                let answer = Answer::denied(&reason, verdict.rule.to_string());
                let answer = answer.because(&reason, &mend);
                return self.logged(answer.about("", reference), line, busy);
            }
        };
        let Some(endpoint) = endpoint(&site, Via::Connect, &target) else {
            let error = OciError::new(Code::NameInvalid, "that is no host");
            return self.logged(Answer::error(StatusCode::BAD_REQUEST, &error), line, busy);
        };
        line.registry = self.metrics.tally(&site.registry.name);
        let asked = Asked {
            endpoint: Arc::new(endpoint),
            method: request.method().clone(),
            path_and_query: in_namespace(&meant.path_and_query, site.registry.one_namespace),
            headers: std::mem::take(request.headers_mut()),
            client: peer.client,
            mirror: true,
            refresh: false,
            name_prefix: meant.name_prefix.clone(),
            realm,
            site,
            rules: live.rules.clone(),
        };
        let body = live.request_body(request.into_body());
        let answer = self.registries.serve(asked, body).await;
        self.logged(answer, line, busy)
    }
}

/// 401: a proxy user has to log in; 503 while too many passwords are being checked.
fn ask_who(why: &Denied) -> Answer {
    let said = match why {
        Denied::Missing => "this gateway asks for a user and a password (docker login)",
        Denied::Wrong { .. } => "the user or the password is not right",
        Denied::Busy => "too many passwords are being checked at this moment; try again",
    };
    let (status, code, field, value) = match why {
        // A 401 would make its client ask a person for another password.
        Denied::Busy => (
            StatusCode::SERVICE_UNAVAILABLE,
            Code::Unavailable,
            header::RETRY_AFTER,
            "1",
        ),
        _ => (
            StatusCode::UNAUTHORIZED,
            Code::Unauthorized,
            header::WWW_AUTHENTICATE,
            "Basic realm=\"pierhead\"",
        ),
    };
    let mut answer = Answer::error(status, &OciError::new(code, said));
    answer.outcome = Outcome::Denied;
    answer.rule = "policy.users_file".into();
    answer = answer.because(said, "");
    let fields = answer.response.headers_mut();
    fields.insert(field, HeaderValue::from_static(value));
    answer
}

/// Reads `?ns=` and the name's first component; `said` is another gateway's word.
fn meant(path: &str, query: Option<&str>, said: Option<String>) -> Meant {
    // Another gateway has decided which registry is meant, and its client's `ns=` says nothing here.
    let (mut namespace, decided) = (said.clone(), said.is_some());
    let mut rest = Vec::new();
    for pair in query.into_iter().flat_map(|query| query.split('&')) {
        match pair.strip_prefix("ns=") {
            Some(_) if decided => {}
            Some(host) => {
                namespace = Some(percent_decode_str(host).decode_utf8_lossy().into_owned())
            }
            None => rest.push(pair),
        }
    }
    let query = match rest.is_empty() {
        true => String::new(),
        false => format!("?{}", rest.join("&")),
    };
    let (first, name) = match path.strip_prefix("/v2/") {
        Some(name) => name.split_once('/').unwrap_or((name, "")),
        None => ("", ""),
    };
    let first = percent_decode_str(first).decode_utf8_lossy();
    let is_host = first.contains(['.', ':']) || first == "localhost";
    match namespace {
        Some(registry) => Meant {
            registry,
            path_and_query: format!("{path}{query}"),
            name_prefix: String::new(),
            nobody: false,
        },
        None if is_host && !name.is_empty() => Meant {
            name_prefix: format!("{first}/"),
            registry: first.into_owned(),
            path_and_query: format!("/v2/{name}{query}"),
            nobody: false,
        },
        None => Meant {
            registry: "docker.io".into(),
            path_and_query: format!("{path}{query}"),
            name_prefix: String::new(),
            nobody: matches!(path, "/v2" | "/v2/" | TOKEN_PATH),
        },
    }
}

/// Docker Hub's own images have `library/` before their names, which people leave out.
fn in_namespace(path_and_query: &str, one_namespace: bool) -> String {
    let name = path_and_query
        .strip_prefix("/v2/")
        .filter(|_| one_namespace);
    match name.and_then(|name| name.split_once('/')) {
        Some((image, rest))
            if ["manifests/", "blobs/", "tags/", "referrers/"]
                .iter()
                .any(|endpoint| rest.starts_with(endpoint)) =>
        {
            format!("/v2/library/{image}/{rest}")
        }
        _ => path_and_query.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &str, query: Option<&str>) -> (String, String) {
        let meant = meant(path, query, None);
        (meant.registry, meant.path_and_query)
    }

    #[test]
    fn the_namespace_comes_first_then_a_name_that_is_a_host_then_docker_hub() {
        for (path, query, registry, expected) in [
            (
                "/v2/org/app/manifests/1",
                Some("ns=ghcr.io"),
                "ghcr.io",
                "/v2/org/app/manifests/1",
            ),
            (
                "/v2/a/tags/list",
                Some("n=5&ns=r.corp%3A5000"),
                "r.corp:5000",
                "/v2/a/tags/list?n=5",
            ),
            (
                "/v2/ghcr.io/org/app/manifests/1",
                None,
                "ghcr.io",
                "/v2/org/app/manifests/1",
            ),
            (
                "/v2/r.corp:5000/app/blobs/x",
                None,
                "r.corp:5000",
                "/v2/app/blobs/x",
            ),
            (
                "/v2/localhost/app/blobs/x",
                None,
                "localhost",
                "/v2/app/blobs/x",
            ),
            (
                "/v2/library/alpine/manifests/1",
                None,
                "docker.io",
                "/v2/library/alpine/manifests/1",
            ),
            ("/v2/", None, "docker.io", "/v2/"),
        ] {
            assert_eq!(
                read(path, query),
                (registry.into(), expected.into()),
                "{path}"
            );
        }
    }

    #[test]
    fn docker_hubs_own_images_get_their_library() {
        assert_eq!(
            in_namespace("/v2/alpine/manifests/3", true),
            "/v2/library/alpine/manifests/3"
        );
        assert_eq!(
            in_namespace("/v2/alpine/manifests/3", false),
            "/v2/alpine/manifests/3"
        );
        assert_eq!(
            in_namespace("/v2/org/app/manifests/3", true),
            "/v2/org/app/manifests/3"
        );
        assert_eq!(in_namespace("/v2/", true), "/v2/");
    }
}
