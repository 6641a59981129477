//! Plaintext request to response: the registry rules.

pub mod access;
mod blob;
pub mod call;
mod manifest;
mod relay;
mod reply;
mod source;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};

use self::access::Access;
pub use self::call::{Answer, Call, endpoint};
use self::turns::Turns;
use crate::cache::Cache;
use crate::oci::error::{Code, OciError};
use crate::oci::reference::{Reference, RepoName};
use crate::oci::route::Route;
use crate::policy::{Push, Role};
use crate::upstream::Upstream;
use crate::wire::body::Body;

/// The parts of `[cache]` and `[limits]` that decide about answers.
#[derive(Clone, Debug)]
pub struct RegistryRules {
    pub tag_ttl: Duration,
    pub offline_for: Duration,
    /// Bytes.
    pub manifest_size: u64,
}

/// Answers requests to intercepted hosts.
#[derive(Debug)]
pub struct Registries {
    cache: Arc<Cache>,
    upstream: Arc<Upstream>,
    access: Arc<Access>,
    tag_ttl: Duration,
    offline_for: Duration,
    manifest_size: u64,
    turns: Turns,
    /// 404s of seconds ago.
    missing: moka::sync::Cache<([u8; 32], String), Arc<Response<Bytes>>>,
}

// === impl Registries ===

impl Registries {
    pub fn new(
        cache: Arc<Cache>,
        upstream: Arc<Upstream>,
        access: Arc<Access>,
        rules: RegistryRules,
    ) -> Arc<Self> {
        Arc::new(Self {
            cache,
            upstream,
            access,
            tag_ttl: rules.tag_ttl,
            offline_for: rules.offline_for,
            manifest_size: rules.manifest_size,
            turns: Turns::default(),
            missing: moka::sync::Cache::builder()
                .max_capacity(10_000)
                .time_to_live(MISSING_FOR)
                .build(),
        })
    }

    /// Answers one request. `body` is the request's own, for what is relayed.
    pub async fn serve(self: &Arc<Self>, call: Call, body: Body) -> Answer {
        let path = call
            .path_and_query
            .split('?')
            .next()
            .unwrap_or("/")
            .to_owned();
        match call.site.role {
            // A search host answers `/v1/` by relay and `/v2/` like any other.
            Role::Registry | Role::Search => {}
            Role::Auth {
                path_prefix: Some(prefix),
            } if !path.starts_with(prefix) => {
                return Answer::denied(
                    &format!(
                        "of {} only {prefix}, the token service of {}, is open",
                        call.endpoint.authority, call.endpoint.name
                    ),
                    format!("registry {}", call.endpoint.name),
                );
            }
            Role::Auth { .. } => {
                return self.relay(&call, body).await.about("", &path);
            }
        }
        let route = match Route::parse(&path) {
            Ok(route) => route,
            Err(error) => {
                let error = OciError::new(error.code(), error.to_string());
                return Answer::error(StatusCode::BAD_REQUEST, &error).about("", &path);
            }
        };
        if let Some(repo) = route.repo()
            && let Err(rule) = call.registry().allows_repository(repo.as_str())
        {
            let message = format!("the repository {repo} is not open here: {rule}");
            return Answer::denied(&message, rule).about(repo.as_str(), &path);
        }
        let reads = matches!(call.method, Method::GET | Method::HEAD);
        let in_v2 = path == "/v2" || path.starts_with("/v2/");
        if in_v2 && !reads && call.method != Method::OPTIONS && call.registry().push == Push::Deny {
            let repository = route.repo().map_or("", RepoName::as_str).to_owned();
            let name = &call.endpoint.name;
            return Answer::denied(
                &format!(
                    "pushing to {name} is not allowed; [[registry]] host = \"{name}\" with push = \"allow\" would allow it"
                ),
                format!("registry {name}, push = \"deny\""),
            )
            .about(&repository, &path);
        }
        match route {
            Route::Ping => self.ping(&call, body).await.about("", &path),
            Route::Manifest { repo, reference } if reads => {
                self.in_a_task(call, repo, reference).await
            }
            Route::Blob { repo, digest } if reads => self
                .blob(&call, &repo, &digest)
                .await
                .about(repo.as_str(), digest.as_str()),
            other => {
                let repository = other.repo().map_or("", RepoName::as_str).to_owned();
                self.relay(&call, body).await.about(&repository, &path)
            }
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
            .grant_key(&call.endpoint, repo, call.credential());
        self.missing
            .insert((caller, name.to_owned()), Arc::new(answer));
    }

    /// What [`Registries::remember_missing`] noted seconds ago.
    fn remembered_missing(&self, call: &Call, repo: &RepoName, name: &str) -> Option<Answer> {
        let caller = self
            .access
            .grant_key(&call.endpoint, repo, call.credential());
        let answer = self.missing.get(&(caller, name.to_owned()))?;
        Some(Answer::relayed(&answer))
    }

    /// Manifests are answered in a task of their own: a client that goes away must not leave others
    /// waiting for an answer that was half fetched.
    async fn in_a_task(
        self: &Arc<Self>,
        call: Call,
        repo: RepoName,
        reference: Reference,
    ) -> Answer {
        let registries = self.clone();
        let (name, tag) = (repo.to_string(), reference.to_string());
        let task = tokio::spawn(async move { registries.manifest(&call, &repo, &reference).await });
        match task.await {
            Ok(answer) => answer,
            Err(e) => {
                let error = OciError::new(Code::Unknown, e.to_string());
                Answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error)
            }
        }
        .about(&name, &tag)
    }
}

const MISSING_FOR: Duration = Duration::from_secs(5);
