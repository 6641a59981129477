//! One caller's question about one content, asked upstream where nothing fresher is known.

use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};
use tracing::debug;

use super::super::call::{Answer, Call};
use super::super::reply::DOCKER_CONTENT_DIGEST;
use super::{Access, is_away};
use crate::oci::digest::Digest;
use crate::oci::reference::RepoName;
use crate::policy::Push;
use crate::store::{Key, Kind};
use crate::upstream::identity::Identity;
use crate::upstream::{self, Fault, FaultKind, Redirected};
use crate::wire::body::Body;

/// The door's answer.
pub enum Proof {
    Granted,
    /// Upstream is away, and what it once said still counts.
    Offline,
    /// What the caller is told instead.
    Refused(Box<Answer>),
}

// === impl Access ===

impl Access {
    /// May the caller see this cached blob of `repo`?
    pub async fn blob(&self, call: &Call, repo: &RepoName, digest: &Digest, size: u64) -> Proof {
        let path = format!("/v2/{repo}/blobs/{digest}");
        let key = Key::blob(digest);
        let member = self.is_member(call, repo, &key);
        self.prove(call, repo, &key, &path, None, member, Some(size))
            .await
    }

    /// May the caller follow a download of this blob? `shown`: it began in this very repository, so
    /// what it ends with is in it.
    pub async fn download(
        &self,
        call: &Call,
        repo: &RepoName,
        digest: &Digest,
        shown: bool,
        size: Option<u64>,
    ) -> Proof {
        let path = format!("/v2/{repo}/blobs/{digest}");
        let key = Key::blob(digest);
        let member = shown || self.is_member(call, repo, &key);
        self.prove(call, repo, &key, &path, None, member, size)
            .await
    }

    /// May the caller see this cached manifest of `repo`?
    pub async fn manifest(
        &self,
        call: &Call,
        repo: &RepoName,
        digest: &Digest,
        media_type: &str,
        size: u64,
    ) -> Proof {
        let path = format!("/v2/{repo}/manifests/{digest}");
        let accept = HeaderValue::try_from(media_type).ok();
        let key = Key::manifest(digest);
        let member = self.is_member(call, repo, &key);
        self.prove(call, repo, &key, &path, accept, member, Some(size))
            .await
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one question, asked in three ways above"
    )]
    async fn prove(
        &self,
        call: &Call,
        repo: &RepoName,
        key: &Key,
        path: &str,
        accept: Option<HeaderValue>,
        member: bool,
        size: Option<u64>,
    ) -> Proof {
        // Who pushes wants to know whether upstream has the blob now, or has to be sent it.
        let may_push = call.registry().push == Push::Allow;
        let pushes = may_push && call.is_head() && key.kind == Kind::Blob;
        if member && !pushes && self.is_fresh(call, repo) {
            return Proof::Granted;
        }
        let wanted = accept.clone();
        let ask = self.ask(call, repo, path, accept);
        let offline =
            (member && self.holds_offline(call, repo)) || self.holds_pinned(call, repo, key);
        let answer = if offline {
            self.confirm(call, ask).await
        } else {
            ask.await
        };
        // A token that has ended since the manifest, which skopeo and dockerd do not renew for a blob: whoever
        // comes without one gets what is public, and so does it.
        if let Ok(no) = &answer
            && no.status() == StatusCode::UNAUTHORIZED
            && !call.is_lasting()
        {
            let anybody = Call {
                asked: call.asked.clone(),
                identity: Identity::Anonymous,
            };
            if let Ok(yes) = self.ask(&anybody, repo, path, wanted).await
                && yes.status().is_success()
                && is_about(&yes, key, size)
            {
                self.granted(&anybody, repo).await;
                self.shown(&call.endpoint, repo, key).await;
                self.is_on_disk().await;
                return Proof::Granted;
            }
        }
        match answer {
            Ok(answer) if answer.status().is_success() && is_about(&answer, key, size) => {
                self.granted(call, repo).await;
                self.shown(&call.endpoint, repo, key).await;
                if !offline {
                    // It would not be shown without upstream until now, and shall be after a crash.
                    self.is_on_disk().await;
                }
                Proof::Granted
            }
            Ok(answer) if answer.status().is_success() => {
                let fault = Fault::nonsense(format!(
                    "{} answered for {} with something else",
                    call.endpoint.name, key.digest
                ));
                Proof::Refused(Box::new(Answer::fault(&fault)))
            }
            Ok(answer) if is_away(answer.status()) && offline => Proof::Offline,
            // Where a redirect led to speaks for no registry.
            Ok(answer) if answer.extensions().get::<Redirected>().is_some() => match offline {
                true => Proof::Offline,
                false => {
                    let (name, status) = (&call.endpoint.name, answer.status());
                    let why = format!("where {name} redirects to answered {status}");
                    Proof::Refused(Box::new(Answer::fault(&Fault::nonsense(why))))
                }
            },
            Ok(answer) => {
                if offline
                    && answer.status() == StatusCode::UNAUTHORIZED
                    && call.credential().is_none()
                {
                    let challenge = answer.headers().clone();
                    if self.no_token_to_be_had(call, &challenge).await {
                        return Proof::Offline;
                    }
                }
                if matches!(
                    answer.status(),
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
                ) {
                    self.refused(call, repo).await;
                }
                Proof::Refused(Box::new(self.relay(call, answer).await))
            }
            Err(fault) if call.is_refusal(&fault) => {
                self.refused(call, repo).await;
                Proof::Refused(Box::new(Answer::fault(&fault)))
            }
            Err(fault) if offline && fault.kind != FaultKind::Forbidden => {
                debug!(path, error = %fault, "upstream is away; what it said before still counts");
                Proof::Offline
            }
            Err(fault) => Proof::Refused(Box::new(Answer::fault(&fault))),
        }
    }

    /// One HEAD, followed to its end: a redirect alone says nothing. A refusal of it is no proof where
    /// a credential came along, or where a redirect did (a registry may refuse a blob's HEAD and allow
    /// its GET, and an address may be signed for one method), so then one byte is asked for.
    async fn ask(
        &self,
        call: &Call,
        repo: &RepoName,
        path: &str,
        accept: Option<HeaderValue>,
    ) -> Result<Response<Body>, Fault> {
        let accept = accept.unwrap_or_else(|| HeaderValue::from_static("*/*"));
        let mut headers = call.asking(Some(accept));
        let fetch = |method, headers| {
            self.upstream.fetch(
                &call.endpoint,
                &call.identity,
                method,
                path,
                headers,
                repo.as_str(),
            )
        };
        let answer = fetch(Method::HEAD, headers.clone()).await?;
        let refused = matches!(answer.status().as_u16(), 401 | 403 | 405 | 501);
        let redirected = answer.extensions().get::<Redirected>().is_some();
        let unclear = answer.status().is_success() && !says_enough(&answer);
        if !unclear && (!refused || (call.credential().is_none() && !redirected)) {
            return Ok(answer);
        }
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        fetch(Method::GET, headers).await
    }

    async fn relay(&self, call: &Call, answer: Response<Body>) -> Answer {
        let (parts, body) = answer.into_parts();
        let bytes = match call.is_head() {
            true => bytes::Bytes::new(),
            false => upstream::collect(body, LARGEST_ERROR)
                .await
                .unwrap_or_default(),
        };
        Answer::relayed(&Response::from_parts(parts, bytes)).with_words(call)
    }
}

// === helpers ===

/// Whether an answer of success speaks of the content that is cached, and not of a login page: it names
/// its digest, or at least has its size.
fn is_about(answer: &Response<Body>, key: &Key, size: Option<u64>) -> bool {
    let html = answer
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"text/"));
    match answer.headers().get(DOCKER_CONTENT_DIGEST) {
        Some(named) => !html && named.as_bytes() == key.digest.as_str().as_bytes(),
        None => {
            let (_, announced) = upstream::extent(answer);
            !html && announced.is_some() && announced == size
        }
    }
}

/// Whether an answer of success could be judged by [`is_about`] at all.
fn says_enough(answer: &Response<Body>) -> bool {
    answer.headers().contains_key(DOCKER_CONTENT_DIGEST) || upstream::extent(answer).1.is_some()
}

const LARGEST_ERROR: u64 = 64 << 10;
