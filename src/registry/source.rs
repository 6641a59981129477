//! A blob's way from a registry, as the cache follows it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

use super::access::Access;
use super::call::Call;
use super::reply::is_nonsense;
use crate::cache::index::now_seconds;
use crate::cache::origin::{FetchError, Fetched, Gone, Origin, Part};
use crate::oci::digest::Digest;
use crate::oci::error::{Code, OciError};
use crate::oci::reference::RepoName;
use crate::upstream::identity::Identity;
use crate::upstream::{self, Endpoint, Fault, FaultKind, Redirected, Upstream};
use crate::wire::shares::Share;

/// One repository at one endpoint, asked in one name.
pub struct BlobSource {
    upstream: Arc<Upstream>,
    endpoint: Arc<Endpoint>,
    identity: Identity,
    repository: String,
    path: String,
    headers: HeaderMap,
    /// Whose grant it proves, and where that is noted.
    proves: Option<(Arc<Access>, Call, RepoName)>,
    /// When upstream last let it read, in seconds since the epoch; zero after a refusal.
    let_in: AtomicU64,
    /// A place among its client's downloads.
    _share: Option<Share>,
}

// === impl BlobSource ===

impl BlobSource {
    /// The caller's own way.
    pub fn of(call: &Call, upstream: Arc<Upstream>, repo: &RepoName, digest: &Digest) -> Self {
        Self::new(call, call.identity.clone(), upstream, repo, digest)
    }

    /// The caller's own way, which proves that the caller may read `repo`, or no longer may.
    pub fn granting(
        call: &Call,
        access: Arc<Access>,
        upstream: Arc<Upstream>,
        repo: &RepoName,
        digest: &Digest,
    ) -> Self {
        Self {
            proves: Some((access, call.clone(), repo.clone())),
            ..Self::of(call, upstream, repo, digest)
        }
    }

    /// The way anybody may go.
    pub fn anonymous(
        call: &Call,
        upstream: Arc<Upstream>,
        repo: &RepoName,
        digest: &Digest,
    ) -> Self {
        Self::new(call, Identity::Gateway(None), upstream, repo, digest)
    }

    fn new(
        call: &Call,
        identity: Identity,
        upstream: Arc<Upstream>,
        repo: &RepoName,
        digest: &Digest,
    ) -> Self {
        Self {
            upstream,
            endpoint: call.endpoint.clone(),
            identity,
            repository: repo.to_string(),
            path: format!("/v2/{repo}/blobs/{digest}"),
            headers: call.asking(Some(HeaderValue::from_static("*/*"))),
            proves: None,
            let_in: AtomicU64::new(0),
            _share: None,
        }
    }

    /// Counted among its client's downloads for as long as it lives.
    pub fn counted(self, share: Share) -> Self {
        Self {
            _share: Some(share),
            ..self
        }
    }

    async fn answer(&self, part: Part) -> Result<Fetched, FetchError> {
        let mut headers = self.headers.clone();
        if part != Part::from(0)
            && let Ok(range) = HeaderValue::try_from(part.to_string())
        {
            headers.insert(header::RANGE, range);
        }
        let response = self
            .upstream
            .fetch(
                &self.endpoint,
                &self.identity,
                Method::GET,
                &self.path,
                headers,
                &self.repository,
            )
            .await
            .map_err(|fault| failed(&fault))?;
        let (start, total) = upstream::extent(&response);
        if response.status() == StatusCode::PARTIAL_CONTENT && !upstream::names_its_part(&response)
        {
            return Err(FetchError::Gone(Gone {
                message: "upstream sent a part without saying which".into(),
                timeout: false,
                retry: true,
            }));
        }
        let redirected = response.extensions().get::<Redirected>().is_some();
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                self.let_in.store(now_seconds(), Ordering::Relaxed);
                Ok(Fetched {
                    start,
                    total,
                    body: response.into_body(),
                })
            }
            StatusCode::RANGE_NOT_SATISFIABLE => Err(FetchError::PastTheEnd {
                total: response
                    .headers()
                    .contains_key(header::CONTENT_RANGE)
                    .then_some(total)
                    .flatten(),
            }),
            // What a redirect led to may have expired on the way, and speaks for no registry.
            status if is_nonsense(status) || (redirected && status.is_client_error()) => {
                let name = &self.endpoint.name;
                let why = format!("{name}, or where it redirects to, answered {status}");
                Err(Gone::broken(why).into())
            }
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
    fn fetch(&self, part: Part) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        async move {
            let answer = self.answer(part).await;
            if let Err(FetchError::Answer(no)) = &answer
                && matches!(no.status().as_u16(), 401 | 403)
            {
                self.let_in.store(0, Ordering::Relaxed);
                // At once: in the middle of a download somebody else may go on with it. That a token has
                // ended says nothing of whose it was.
                if let Some((access, call, repo)) = &self.proves
                    && (no.status() == StatusCode::FORBIDDEN || call.is_lasting())
                {
                    access.refused(call, repo).await;
                }
            }
            answer
        }
        .boxed()
    }

    fn proven(&self) -> BoxFuture<'_, ()> {
        async {
            let let_in = self.let_in.load(Ordering::Relaxed);
            if let (Some((access, call, repo)), 1..) = (&self.proves, let_in) {
                access.was_granted(call, repo, let_in).await;
            }
        }
        .boxed()
    }

    fn registry(&self) -> &str {
        &self.endpoint.name
    }

    fn repository(&self) -> &str {
        &self.repository
    }
}

// Short: a log line names where it leads, and that is all.
impl fmt::Debug for BlobSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobSource")
            .field("endpoint", &self.endpoint.id)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// The gateway's own login refused is an answer, and not an upstream that has gone.
fn failed(fault: &Fault) -> FetchError {
    if fault.kind != FaultKind::Login {
        return FetchError::Gone(gone(fault));
    }
    let error = OciError::new(Code::Denied, &fault.message);
    let mut answer = Response::new(Bytes::from(error.to_json()));
    *answer.status_mut() = StatusCode::FORBIDDEN;
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    FetchError::Answer(Arc::new(answer))
}

fn gone(fault: &Fault) -> Gone {
    Gone {
        message: fault.message.clone(),
        timeout: fault.kind == FaultKind::Timeout,
        retry: fault.may_pass(),
    }
}

const LARGEST_ERROR: u64 = 64 << 10;
