//! A blob's way from a registry, as the cache follows it.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

use super::call::Call;
use crate::cache::origin::{FetchError, Fetched, Gone, Origin};
use crate::oci::digest::Digest;
use crate::oci::reference::RepoName;
use crate::upstream::{self, Endpoint, Fault, FaultKind, Upstream};

/// One repository at one endpoint, asked with one credential.
pub struct BlobSource {
    upstream: Arc<Upstream>,
    endpoint: Endpoint,
    repository: String,
    path: String,
    identity: HeaderMap,
    /// Fetch anonymous tokens where upstream asks for one: the gateway's own way.
    anonymous: bool,
}

// === impl BlobSource ===

impl BlobSource {
    /// The caller's own way.
    pub fn of(call: &Call, upstream: Arc<Upstream>, repo: &RepoName, digest: &Digest) -> Arc<Self> {
        Arc::new(Self {
            upstream,
            endpoint: call.endpoint.clone(),
            repository: repo.to_string(),
            path: format!("/v2/{repo}/blobs/{digest}"),
            identity: call.identity(),
            anonymous: false,
        })
    }

    /// The way anybody may go.
    pub fn anonymous(
        call: &Call,
        upstream: Arc<Upstream>,
        repo: &RepoName,
        digest: &Digest,
    ) -> Arc<Self> {
        let mut identity = call.identity();
        identity.remove(header::AUTHORIZATION);
        Arc::new(Self {
            upstream,
            endpoint: call.endpoint.clone(),
            repository: repo.to_string(),
            path: format!("/v2/{repo}/blobs/{digest}"),
            identity,
            anonymous: true,
        })
    }

    async fn answer(&self, offset: u64) -> Result<Fetched, FetchError> {
        let mut headers = self.identity.clone();
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        if offset > 0
            && let Ok(range) = HeaderValue::try_from(format!("bytes={offset}-"))
        {
            headers.insert(header::RANGE, range);
        }
        let asked = if self.anonymous {
            self.upstream
                .ask_anonymously(
                    &self.endpoint,
                    Method::GET,
                    &self.path,
                    headers,
                    &self.repository,
                )
                .await
        } else {
            self.upstream
                .fetch(&self.endpoint, Method::GET, &self.path, headers)
                .await
        };
        let response = asked.map_err(|fault| FetchError::Gone(gone(&fault)))?;
        let (start, total) = upstream::extent(&response);
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(Fetched {
                start,
                total,
                body: response.into_body(),
            }),
            StatusCode::RANGE_NOT_SATISFIABLE => Err(FetchError::PastTheEnd {
                total: response
                    .headers()
                    .contains_key(header::CONTENT_RANGE)
                    .then_some(total)
                    .flatten(),
            }),
            _ => {
                let (parts, body) = response.into_parts();
                let body = upstream::collect(body, LARGEST_ERROR)
                    .await
                    .unwrap_or_default();
                Err(FetchError::Answer(Arc::new(Response::from_parts(
                    parts, body,
                ))))
            }
        }
    }
}

impl Origin for BlobSource {
    fn fetch(&self, offset: u64) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        self.answer(offset).boxed()
    }
}

// The identity is a secret.
impl fmt::Debug for BlobSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobSource")
            .field("endpoint", &self.endpoint.id)
            .field("path", &self.path)
            .field("anonymous", &self.anonymous)
            .finish_non_exhaustive()
    }
}

fn gone(fault: &Fault) -> Gone {
    Gone {
        message: fault.message.clone(),
        timeout: fault.kind == FaultKind::Timeout,
        retry: fault.may_pass(),
    }
}

const LARGEST_ERROR: u64 = 64 << 10;
