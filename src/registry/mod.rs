//! Plaintext request to response: the registry rules.

mod accepts;
pub mod access;
mod back;
mod blob;
pub mod call;
mod lookahead;
mod manifest;
mod passes;
mod push;
mod referrers;
mod relay;
mod reply;
mod source;
mod tag;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use tracing::field::Empty;
use tracing::{Instrument, info_span};

use self::accepts::Accepts;
use self::access::Access;
use self::call::Call;
pub use self::call::{Answer, Asked, endpoint};
use self::lookahead::Lookahead;
pub use self::passes::TOKEN_PATH;
use self::passes::{Pass, Passes};
use self::push::Session;
use crate::cache::Cache;
use crate::oci::error::{Code, OciError};
use crate::oci::reference::{Reference, RepoName};
use crate::oci::route::Route;
use crate::policy::{AuthMode, Push, Role};
use crate::telemetry::access::Outcome;
use crate::telemetry::spans;
use crate::upstream::Upstream;
use crate::upstream::credentials::{Credentials, Login};
use crate::upstream::identity::Identity;
use crate::wire::body::Body;
use crate::wire::shares::{Share, Shares};
use crate::wire::turns::Turns;

/// The parts of the configuration that decide about answers. Each request brings those it is answered
/// by, so that a reload in the middle of it changes nothing for it.
#[derive(Clone, Debug, Default)]
pub struct RegistryRules {
    pub tag_ttl: Duration,
    pub offline_for: Duration,
    pub revalidate_timeout: Duration,
    /// Bytes.
    pub manifest_size: u64,
    /// A manifest that passes starts its layers' download.
    pub lookahead: bool,
    /// The gateway's own logins, by the registry's name.
    pub robots: HashMap<String, Arc<Credentials>>,
}

/// Answers requests to intercepted hosts.
#[derive(Debug)]
pub struct Registries {
    cache: Arc<Cache>,
    upstream: Arc<Upstream>,
    access: Arc<Access>,
    accepts: Accepts,
    lookahead: Arc<Lookahead>,
    turns: Turns,
    /// Of one client, what goes on also when it goes away: manifests being looked up, and blobs.
    lookups: Shares,
    downloads: Shares,
    passes: Passes,
    /// Copies of uploads under way, by where their next request goes.
    uploads: moka::sync::Cache<String, Session>,
    /// 404s of seconds ago.
    missing: moka::sync::Cache<([u8; 32], String), Arc<Response<Bytes>>>,
}

// === impl Registries ===

impl Registries {
    pub fn new(cache: Arc<Cache>, upstream: Arc<Upstream>, access: Arc<Access>) -> Arc<Self> {
        let lookahead = Lookahead::new(cache.clone(), upstream.clone(), access.clone());
        Arc::new(Self {
            cache,
            upstream,
            access,
            accepts: Accepts::default(),
            lookahead,
            turns: Turns::default(),
            lookups: Shares::new(OF_ONE_CLIENT),
            downloads: Shares::new(OF_ONE_CLIENT),
            passes: Passes::default(),
            uploads: moka::sync::Cache::builder()
                .max_capacity(1_000)
                .time_to_live(UPLOADS_FOR)
                .build(),
            missing: moka::sync::Cache::builder()
                .max_capacity(10_000)
                .time_to_live(MISSING_FOR)
                .build(),
        })
    }

    /// In whose name upstream is asked; `None` where a token of ours has ended.
    fn identify(&self, asked: &Asked) -> Option<Identity> {
        let registry = &asked.site.registry;
        let robot = || Identity::Gateway(asked.rules.robots.get(&registry.name).cloned());
        let credential = asked.headers.get(header::AUTHORIZATION);
        let nobody = match (registry.auth, asked.mirror) {
            (AuthMode::Gateway, _) => return Some(robot()),
            (AuthMode::Client, false) => return Some(Identity::Caller(credential.cloned())),
            (AuthMode::Client, true) => Identity::Anonymous,
            (AuthMode::ClientOrGateway, _) => robot(),
        };
        let Some(credential) = credential else {
            return Some(nobody);
        };
        match self.passes.read(credential) {
            Pass::Anonymous => Some(nobody),
            Pass::Login(login) => Some(Identity::Login(login)),
            Pass::Ended => None,
            Pass::Foreign => Some(match Login::from_basic(credential) {
                Some(login) => Identity::Login(Arc::new(login)),
                None => Identity::Caller(Some(credential.clone())),
            }),
        }
    }

    /// Answers one request. `body` is the request's own, for what is relayed.
    pub async fn serve(self: &Arc<Self>, asked: Asked, body: Body) -> Answer {
        let span = info_span!(
            target: spans::TARGET,
            "request",
            otel.kind = "server",
            http.request.method = asked.method.as_str(),
            url.path = asked.path(),
            client.address = %asked.client,
            pierhead.registry = asked.endpoint.name.as_str(),
            pierhead.outcome = Empty,
            http.response.status_code = Empty,
            error = Empty,
        );
        let answer = self.answer(asked, body).instrument(span.clone()).await;
        if !span.is_disabled() {
            let status = answer.response.status();
            span.record("pierhead.outcome", answer.outcome.as_str());
            span.record("http.response.status_code", status.as_u16());
            if status.is_server_error() {
                span.record("error", status.as_str());
            }
        }
        answer
    }

    async fn answer(self: &Arc<Self>, asked: Asked, body: Body) -> Answer {
        let asked = Arc::new(asked);
        let path = asked.path();
        let chooses = asked.mirror || asked.site.registry.auth == AuthMode::ClientOrGateway;
        if chooses && path == TOKEN_PATH {
            return Box::pin(self.token(&asked)).await.about("", path);
        }
        let Some(identity) = self.identify(&asked) else {
            return self.wants_login(&asked, "a fresh token").about("", path);
        };
        let call = Call {
            asked: asked.clone(),
            identity,
        };
        let policy_alone = call.by_policy_alone();
        let as_nobody = matches!(call.identity, Identity::Anonymous | Identity::Gateway(_));
        let mut answer = self.route(call, path, body).await;
        back::lead_back(answer.response.headers_mut(), &asked);
        if path.starts_with("/v2/") {
            answer = answer.in_words(&asked);
        }
        // Who came without a login may have one: only a 401 makes a client send it.
        if answer.response.status() == StatusCode::FORBIDDEN
            && chooses
            && as_nobody
            && !policy_alone
            && answer.outcome != Outcome::Denied
        {
            *answer.response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        if answer.response.status() == StatusCode::UNAUTHORIZED && is_v2(path) {
            if policy_alone {
                let name = &asked.endpoint.name;
                let message = format!(
                    "{name} wants credentials, and the gateway has none for it: username and password_file of [[registry]] {name} are missing"
                );
                return Answer::denied(&message, format!("registry {name}"))
                    .about(answer.repository, answer.reference);
            }
            if chooses {
                answer = passes::challenged(answer, asked.realm.as_deref());
            }
        }
        answer
    }

    async fn route(self: &Arc<Self>, call: Call, path: &str, body: Body) -> Answer {
        if let Some(why) = ambiguous(path) {
            let error = OciError::new(Code::NameInvalid, why);
            return Answer::error(StatusCode::BAD_REQUEST, &error).about("", path);
        }
        match &call.site.role {
            // A search host answers `/v1/` by relay and `/v2/` like any other.
            Role::Registry | Role::Search => {}
            Role::Auth {
                path_prefix: Some(prefix),
            } if !begins_with(path, prefix) => {
                return Answer::denied(
                    &format!(
                        "of {} only {prefix}, the token service of {}, is open",
                        call.endpoint.authority, call.endpoint.name
                    ),
                    format!("registry {}", call.endpoint.name),
                );
            }
            Role::Auth { .. } => {
                let answer = Box::pin(self.relay(&call, body)).await;
                self.note_token_service(&answer);
                return answer.about("", path);
            }
        }
        let route = match Route::parse(path) {
            Ok(route) => route,
            Err(error) => {
                let error = OciError::new(error.code(), error.to_string());
                return Answer::error(StatusCode::BAD_REQUEST, &error).about("", path);
            }
        };
        if let Some(repo) = route.repo()
            && let Err(rule) = call.registry().allows_repository(repo.as_str())
        {
            let message = format!("the repository {repo} is not open here: {rule}");
            return Answer::denied(&message, rule).about(repo, path);
        }
        if matches!(route, Route::Other)
            && names_content(path)
            && let Err(rule) = call.registry().allows_catalog()
        {
            let message =
                "not all repositories are open here, and this path may lead to any of them";
            return Answer::denied(message, rule).about("", path);
        }
        if matches!(route, Route::Catalog)
            && let Err(rule) = call.registry().allows_catalog()
        {
            let message = "not all repositories are open here, so the list of all is not shown";
            return Answer::denied(message, rule).about("", path);
        }
        let reads = matches!(call.method, Method::GET | Method::HEAD);
        let in_v2 = is_v2(path);
        if in_v2 && !reads && call.method != Method::OPTIONS && call.registry().push == Push::Deny {
            let repository = route.repo().map_or("", RepoName::as_str).to_owned();
            let name = &call.endpoint.name;
            return Answer::denied(
                &format!(
                    "pushing to {name} is not allowed; [[registry]] host = \"{name}\" with push = \"allow\" would allow it"
                ),
                format!("registry {name}, push = \"deny\""),
            )
            .about(repository, path);
        }
        // Boxed, but for what is answered at once: what few requests need is not room, and work, in all of
        // them.
        match route {
            Route::Ping => {
                let answer = Box::pin(self.ping(&call, &call.asked, body)).await;
                answer.about("", path)
            }
            Route::Manifest { repo, reference } if reads => {
                let (name, wanted) = (Arc::<str>::from(&repo), Arc::<str>::from(&reference));
                let answer = match self.at_once(&call, &repo, &reference) {
                    Some(answer) => answer,
                    None => Box::pin(self.in_a_task(call, repo, reference)).await,
                };
                answer.about(name, wanted)
            }
            Route::Blob { repo, digest } if reads => {
                let answer = Box::pin(self.blob(&call, &repo, &digest)).await;
                answer.about(&repo, &digest)
            }
            Route::Manifest { repo, reference } if call.method == Method::PUT => {
                let pushing = self.push_manifest(&call, &repo, &reference, body);
                Box::pin(pushing).await.about(&repo, &reference)
            }
            Route::Manifest { repo, reference } if call.method == Method::DELETE => {
                let deleting = self.delete_manifest(&call, &repo, &reference, body);
                Box::pin(deleting).await.about(&repo, &reference)
            }
            Route::Blob { repo, digest } if call.method == Method::DELETE => {
                let deleting = self.delete_blob(&call, &repo, &digest, body);
                Box::pin(deleting).await.about(&repo, &digest)
            }
            Route::Upload { repo } if !reads => {
                let pushing = self.push_blob(&call, &repo, body);
                Box::pin(pushing).await.about(&repo, path)
            }
            Route::Referrers { repo, digest } if reads => {
                let answer = Box::pin(self.referrers(&call, &repo, &digest, body)).await;
                answer.about(&repo, path)
            }
            _ if !in_v2 => {
                let answer = Box::pin(self.relay_beside(&call, body)).await;
                // Some hand tokens out there.
                self.note_token_service(&answer);
                answer.about("", path)
            }
            other => {
                let repository = other.repo().map_or("", RepoName::as_str).to_owned();
                let answer = Box::pin(self.pass_on(&call, body, &repository)).await;
                answer.about(repository, path)
            }
        }
    }

    /// Whoever asks next must hear that no token is to be had.
    fn note_token_service(&self, answer: &Answer) {
        let status = answer.response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            self.upstream.token_service_failed();
        }
    }

    /// Remembers for seconds that upstream had no `what`. A 404 may mean "not for you", so it is this
    /// caller's alone.
    fn remember_missing(&self, call: &Call, repo: &RepoName, name: &str, code: Code, what: &str) {
        let message = format!(
            "{} has no {what}; it said so a moment ago",
            call.endpoint.name
        );
        let mut answer = Response::new(Bytes::from(OciError::new(code, message).to_json()));
        *answer.status_mut() = StatusCode::NOT_FOUND;
        answer.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let caller = self
            .access
            .grant_key(&call.endpoint, repo, call.credential().as_deref());
        self.missing
            .insert((caller, name.to_owned()), Arc::new(answer));
    }

    /// What [`Registries::remember_missing`] noted seconds ago.
    fn remembered_missing(&self, call: &Call, repo: &RepoName, name: &str) -> Option<Answer> {
        let caller = self
            .access
            .grant_key(&call.endpoint, repo, call.credential().as_deref());
        let answer = self.missing.get(&(caller, name.to_owned()))?;
        Some(Answer::relayed(&answer))
    }

    /// Manifests that are not at hand are answered in a task of their own: a client that goes away must
    /// not leave others waiting for an answer that was half fetched.
    async fn in_a_task(
        self: &Arc<Self>,
        call: Call,
        repo: RepoName,
        reference: Reference,
    ) -> Answer {
        let Some(share) = wait(&self.lookups, &call).await else {
            return Answer::too_many(&call);
        };
        let registries = self.clone();
        let asking = async move {
            let _share = share;
            registries.manifest(&call, &repo, &reference).await
        };
        let task = tokio::spawn(asking.in_current_span());
        match task.await {
            Ok(answer) => answer,
            Err(e) => {
                let error = OciError::new(Code::Unknown, e.to_string());
                Answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error)
            }
        }
    }
}

/// Waits for one of the places that a call's client has at its registry: one that hangs is no other's
/// trouble. `None` where that takes too long.
async fn wait(places: &Shares, call: &Call) -> Option<Share> {
    let place = places.wait(call.client, &call.endpoint.name);
    let place = tokio::time::timeout(LONGEST_WAIT, place);
    place.await.ok().flatten()
}

/// Why a path may mean one thing here and another upstream; `None` for a plain one. Servers differ in
/// how they read dots, doubled slashes and backslashes, and what is decided here must hold there.
fn ambiguous(path: &str) -> Option<String> {
    let plain = !path.contains(['%', '\\']) && !path.contains("/.");
    if plain && path.starts_with("/v2/") {
        return None;
    }
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let shown: String = path.chars().take(128).collect();
    if decoded.contains('\\') || decoded.split('/').any(|part| matches!(part, "." | "..")) {
        return Some(format!("the path {shown} has dots or backslashes in it"));
    }
    let mut parts = decoded.split('/').filter(|part| !part.is_empty());
    if !is_v2(path)
        && parts
            .next()
            .is_some_and(|first| first.eq_ignore_ascii_case("v2"))
    {
        return Some(format!("the path {shown} is /v2/ in another spelling"));
    }
    None
}

/// Whether a path is the registry's, and not of something else on its host.
fn is_v2(path: &str) -> bool {
    path == "/v2" || path.starts_with("/v2/")
}

/// Whether a path that is no endpoint of the specification may be one of another tree, as
/// `/artifactory/api/docker/x/v2/…` is.
fn names_content(path: &str) -> bool {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let mut parts = decoded.split('/');
    parts.any(|part| {
        [
            "_catalog",
            "blobs",
            "manifests",
            "referrers",
            "repositories",
            "tags",
        ]
        .contains(&part)
    })
}

/// Whether `path` is `prefix` or below it.
fn begins_with(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// Manifests, and blobs, that are on their way from a registry at a time for one client.
const OF_ONE_CLIENT: usize = 256;
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// An upload that is not gone on with is not copied any more.
const UPLOADS_FOR: Duration = Duration::from_secs(3600);
const MISSING_FOR: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_servers_read_differently_is_refused() {
        for path in [
            "//v2/a/tags/list",
            "/x/../v2/a",
            "/./v2/",
            "/%2e%2e/v2/",
            "/v2\\a",
            "/V2/a",
            "/%762/a",
        ] {
            assert!(ambiguous(path).is_some(), "{path}");
        }
        for path in [
            "/",
            "/v2",
            "/v2/",
            "/v2/a/b/tags/list",
            "/v1/search",
            "/token",
            "/a//b",
        ] {
            assert!(ambiguous(path).is_none(), "{path}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_slash() {
        assert!(begins_with("/jwt/auth", "/jwt/auth"));
        assert!(begins_with("/oauth/token", "/oauth/"));
        assert!(!begins_with("/jwt/authority", "/jwt/auth"));
    }
}
