//! The door to the cache: may *this* caller see *this* content of *this* repository?
//!
//! Nobody is shown what upstream would not show them. Two facts open the door, and upstream must have
//! stated both: that the content is in the repository (membership, which stays true), and that the
//! caller may read the repository (a grant, which is good for minutes). A grant belongs to a
//! credential, remembered as a keyed hash and never as itself, or to everybody, where the gateway was
//! served without one. While upstream is away both last for `offline_for`, and for what is pinned as
//! long as it is. An import stands in for both, by the word of who runs the gateway, while no upstream
//! can be asked.

use std::fs::{self, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use sha2::Sha256;
use tokio::task::JoinHandle;
use tracing::{Instrument, debug};

use super::call::{Answer, Call};
use super::manifest::manifest_type;
use super::reply::DOCKER_CONTENT_DIGEST;
use crate::cache::index::{Index, now_seconds};
use crate::oci::digest::Digest;
use crate::oci::reference::RepoName;
use crate::store::Key;
use crate::telemetry::metrics::Metrics;
use crate::upstream::identity::Identity;
use crate::upstream::{self, Endpoint, Fault, FaultKind, Redirected, Upstream};
use crate::wire::body::Body;

/// Grants and memberships.
pub struct Access {
    index: Arc<Index>,
    upstream: Arc<Upstream>,
    /// Keyed with the secret; cloned for each hash.
    mac: Hmac<Sha256>,
    /// When a grant was last proven, in seconds since the epoch; the index has them all. Or that it
    /// was revoked, or that the index does not know it.
    recent: moka::sync::Cache<[u8; 32], u64>,
    /// Repositories that anonymous callers were lately refused, or are being asked about.
    asked: moka::sync::Cache<[u8; 32], ()>,
    metrics: Arc<Metrics>,
}

/// A question under way about everybody's access.
#[must_use]
#[derive(Debug)]
pub struct Asking(Option<JoinHandle<()>>);

/// The door's answer.
pub enum Proof {
    Granted,
    /// Upstream is away, and what it once said still counts.
    Offline,
    /// What the caller is told instead.
    Refused(Box<Answer>),
}

// === impl Access ===

// The secret stays one.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    /// Reads or makes the secret that keys the hashes, in the cache directory. Blocking.
    pub fn open(
        dir: &Path,
        index: Arc<Index>,
        upstream: Arc<Upstream>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let secret = secret(&dir.join("grants.key"))?;
        Ok(Self {
            index,
            upstream,
            // HMAC takes keys of any length.
            mac: Hmac::new_from_slice(&secret).unwrap_or_else(|e| panic!("an HMAC key: {e}")),
            recent: moka::sync::Cache::builder().max_capacity(100_000).build(),
            asked: moka::sync::Cache::builder()
                .max_capacity(100_000)
                .time_to_live(GRANT_LIFE)
                .build(),
            metrics,
        })
    }

    /// Whether upstream accepted the caller, or everybody, in `repo` minutes ago.
    pub fn is_fresh(&self, call: &Call, repo: &RepoName) -> bool {
        if call.by_policy_alone() {
            return true;
        }
        let credential = call.credential();
        let fresh = |credential| self.fresh(&self.grant_key(&call.endpoint, repo, credential));
        fresh(credential.as_deref()) || (credential.is_some() && fresh(None))
    }

    /// Whether the caller may see `key` of `repo` without upstream being asked.
    pub fn is_open(&self, call: &Call, repo: &RepoName, key: &Key) -> bool {
        self.is_fresh(call, repo) && self.is_member(call, repo, key)
    }

    /// Whether what upstream once said still counts for the caller while upstream is away.
    pub fn holds_offline(&self, call: &Call, repo: &RepoName) -> bool {
        if call.by_policy_alone() {
            return true;
        }
        let own = self.grant_key(&call.endpoint, repo, call.credential().as_deref());
        let everybodys = self.grant_key(&call.endpoint, repo, None);
        let limit = call.rules.offline_for.as_secs();
        [own, everybodys]
            .iter()
            .filter_map(|key| self.proven(key))
            .any(|proven| now_seconds().saturating_sub(proven) < limit)
    }

    /// Whether `key` may be shown to the caller while upstream is away because it is pinned, and
    /// upstream let the caller in at some time, or because it was imported.
    pub fn holds_pinned(&self, call: &Call, repo: &RepoName, key: &Key) -> bool {
        let (origin, repository) = (&call.endpoint.id, repo.as_str());
        if !self.index.pins().in_repository(origin, repository) {
            return false;
        }
        if self.index.is_released(origin, repository, key) {
            return true;
        }
        if !self.index.pins().protects(key) || !self.is_member(call, repo, key) {
            return false;
        }
        let stands = |credential: Option<&[u8]>| {
            let grant = self.grant_key(&call.endpoint, repo, credential);
            self.recent.get(&grant) != Some(REVOKED)
                && self.index.has_standing(origin, repository, &grant)
        };
        call.by_policy_alone() || stands(call.credential().as_deref()) || stands(None)
    }

    /// Whether `key` may be shown to the caller while upstream is away, for whatever reason.
    pub fn shows_offline(&self, call: &Call, repo: &RepoName, key: &Key) -> bool {
        (self.is_member(call, repo, key) && self.holds_offline(call, repo))
            || self.holds_pinned(call, repo, key)
    }

    /// Notes that upstream accepted the caller in `repo` just now.
    pub async fn granted(&self, call: &Call, repo: &RepoName) {
        self.metrics.grants.inc();
        if call.by_policy_alone() {
            return;
        }
        let own = self.grant_key(&call.endpoint, repo, call.credential().as_deref());
        self.set(
            &call.endpoint,
            repo,
            own,
            Some(now_seconds()),
            call.is_lasting(),
        )
        .await;
    }

    /// Notes that upstream refused the caller in `repo` just now. One without a credential was only
    /// told to get a token: what anybody may see is [`Access::ask_for_everybody`]'s to find out.
    pub async fn refused(&self, call: &Call, repo: &RepoName) {
        self.metrics.refusals.inc();
        if call.by_policy_alone() || call.credential().is_none() {
            return;
        }
        let own = self.grant_key(&call.endpoint, repo, call.credential().as_deref());
        if self.proven(&own).is_some() {
            self.set(&call.endpoint, repo, own, None, call.is_lasting())
                .await;
        }
    }

    /// Notes that upstream has shown `key` in `repo`.
    pub async fn shown(&self, endpoint: &Endpoint, repo: &RepoName, key: &Key) {
        let member = self.member_key(endpoint, repo, key);
        if !self.index.member(&member) {
            self.index.set_member(member).await;
        }
    }

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

    /// Asks upstream something that confirms what is cached: no longer than `revalidate_timeout`, and
    /// not at all right after it was silent.
    pub async fn confirm<T>(
        &self,
        call: &Call,
        ask: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let (endpoint, limit) = (&call.endpoint, call.rules.revalidate_timeout);
        let silent = || Fault {
            kind: FaultKind::Timeout,
            message: format!("{} did not answer within {limit:?}", endpoint.authority),
        };
        if self.upstream.health().is_silent(&endpoint.id) {
            return Err(silent());
        }
        match tokio::time::timeout(limit, ask).await {
            Ok(answer) => {
                self.upstream.health().answered(&endpoint.id);
                answer
            }
            Err(_) => {
                let silent = silent();
                let health = self.upstream.health();
                health.was_silent(&endpoint.id);
                health.failed(&endpoint.name, silent.message.clone());
                Err(silent)
            }
        }
    }

    /// Whether a caller who was told to get a token could not get one now: the service that the
    /// challenge names is away. Found out at most every few seconds.
    pub async fn no_token_to_be_had(&self, call: &Call, challenge: &HeaderMap) -> bool {
        let asking = self
            .upstream
            .token_service_answers(&call.endpoint, challenge);
        match tokio::time::timeout(call.rules.revalidate_timeout, asking).await {
            Ok(answers) => !answers,
            Err(_) => true,
        }
    }

    /// A key for what is remembered of one caller in one repository.
    pub fn grant_key(
        &self,
        endpoint: &Endpoint,
        repo: &RepoName,
        credential: Option<&[u8]>,
    ) -> [u8; 32] {
        let mut mac = self.mac.clone();
        for part in [endpoint.id.as_bytes(), repo.as_str().as_bytes()] {
            mac.update(part);
            mac.update(b"\n");
        }
        match credential {
            Some(value) => {
                mac.update(b"credential\n");
                mac.update(value);
            }
            None => mac.update(b"anonymous"),
        }
        mac.finalize().into_bytes().into()
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
        if member && self.is_fresh(call, repo) {
            return Proof::Granted;
        }
        let ask = self.ask(call, repo, path, accept);
        let offline =
            (member && self.holds_offline(call, repo)) || self.holds_pinned(call, repo, key);
        let answer = if offline {
            self.confirm(call, ask).await
        } else {
            ask.await
        };
        match answer {
            Ok(answer) if answer.status().is_success() && is_about(&answer, key, size) => {
                self.granted(call, repo).await;
                self.shown(&call.endpoint, repo, key).await;
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

    /// Finds out, once in a while, whether anybody may read `repo`: so that one caller's pull makes what
    /// is public available to all, and to all while upstream is away. `path` is what the caller asks for.
    pub fn ask_for_everybody(self: &Arc<Self>, call: &Call, repo: &RepoName, path: &str) -> Asking {
        let key = self.grant_key(&call.endpoint, repo, None);
        if call.by_policy_alone()
            || call.credential().is_none()
            || self.fresh(&key)
            || self.asked.contains_key(&key)
        {
            return Asking(None);
        }
        self.asked.insert(key, ());
        let (access, path, repo) = (self.clone(), path.to_owned(), repo.clone());
        let endpoint = call.endpoint.clone();
        let mut headers = call.asking(None);
        for accept in call.headers.get_all(header::ACCEPT) {
            headers.append(header::ACCEPT, accept.clone());
        }
        let asking = async move {
            let answer = access
                .upstream
                .fetch(
                    &endpoint,
                    &Identity::Anonymous,
                    Method::HEAD,
                    &path,
                    headers,
                    repo.as_str(),
                )
                .await;
            // A registry that cannot be asked has not refused: ask again with the next request.
            let answer = match answer {
                Ok(answer) => answer,
                Err(fault) => {
                    debug!(%path, error = %fault, "everybody's access could not be asked for");
                    access.asked.invalidate(&key);
                    return;
                }
            };
            let status = answer.status();
            debug!(%path, %status, "everybody's access was asked for");
            if status.is_success() && manifest_type(answer.headers()).is_some() {
                let now = Some(now_seconds());
                access.set(&endpoint, &repo, key, now, true).await;
            } else if matches!(status.as_u16(), 401 | 403) {
                access.set(&endpoint, &repo, key, None, true).await;
            }
        };
        Asking(Some(tokio::spawn(asking.in_current_span())))
    }

    /// `lasting`: it counts for what is pinned beyond `offline_for`.
    async fn set(
        &self,
        endpoint: &Endpoint,
        repo: &RepoName,
        key: [u8; 32],
        at: Option<u64>,
        lasting: bool,
    ) {
        match at {
            Some(at) => {
                let before = self.recent.get(&key);
                self.recent.insert(key, at);
                // One from the future is of a clock that was set back since.
                let age = before.and_then(|before| at.checked_sub(before));
                if age.is_some_and(|age| age < WRITE_AGAIN) {
                    return;
                }
            }
            // Until the index has written it, its old word must not count.
            None => self.recent.insert(key, REVOKED),
        }
        if lasting {
            let (origin, repository) = (&endpoint.id, repo.as_str());
            self.index.set_standing(origin, repository, &key, at).await;
        }
        self.index.set_grant(key, at).await;
    }

    fn proven(&self, key: &[u8; 32]) -> Option<u64> {
        let at = match self.recent.get(key) {
            Some(at) => at,
            None => {
                // What cannot be read now is not unknown for good.
                let at = self.index.grant(key).ok()?.unwrap_or(UNKNOWN);
                self.recent.entry(*key).or_insert(at).into_value()
            }
        };
        (at > UNKNOWN).then_some(at)
    }

    fn is_member(&self, call: &Call, repo: &RepoName, key: &Key) -> bool {
        self.index
            .member(&self.member_key(&call.endpoint, repo, key))
    }

    fn fresh(&self, key: &[u8; 32]) -> bool {
        // Proven in the future: the clock was set back, and upstream decides again.
        self.proven(key)
            .and_then(|proven| now_seconds().checked_sub(proven))
            .is_some_and(|age| age < GRANT_LIFE.as_secs())
    }

    /// The name of one content in one repository, for [`Index::member`]. Keyed, so that the index does
    /// not name private repositories twice.
    pub fn member_key(&self, endpoint: &Endpoint, repo: &RepoName, key: &Key) -> Vec<u8> {
        let mut mac = self.mac.clone();
        mac.update(endpoint.id.as_bytes());
        mac.update(b"\n");
        mac.update(repo.as_str().as_bytes());
        let mut member = key.to_bytes();
        member.extend_from_slice(&mac.finalize().into_bytes()[..16]);
        member
    }
}

// === impl Asking ===

impl Asking {
    /// Waits for the answer, though not for long: it decides about others, not about this caller.
    pub async fn settled(self) {
        if let Some(asking) = self.0 {
            let _ = tokio::time::timeout(ASKING_FOR, asking).await;
        }
    }
}

/// Whether a status means that upstream is not well, rather than that the answer is no.
pub fn is_away(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

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

fn secret(path: &Path) -> io::Result<[u8; 32]> {
    if let Ok(bytes) = fs::read(path)
        && let Ok(secret) = <[u8; 32]>::try_from(bytes)
    {
        return Ok(secret);
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    let fresh = path.with_extension("new");
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(&secret)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    })();
    if let Err(e) = written {
        // Good for this run; the next one asks upstream again.
        tracing::warn!(error = %e, "grants will not outlive this process");
    }
    Ok(secret)
}

/// "Minutes": how long an upstream's yes holds while it could be asked again.
const GRANT_LIFE: Duration = Duration::from_secs(300);
/// Seconds between two writes of the same grant.
const WRITE_AGAIN: u64 = 30;
const REVOKED: u64 = 0;
const UNKNOWN: u64 = 1;
const ASKING_FOR: Duration = Duration::from_secs(1);
const LARGEST_ERROR: u64 = 64 << 10;
