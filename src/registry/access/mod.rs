//! The door to the cache: may *this* caller see *this* content of *this* repository?
//!
//! Nobody is shown what upstream would not show them. Two facts open the door, and upstream must have
//! stated both: that the content is in the repository (membership, which stays true until it is deleted through the gateway), and that the
//! caller may read the repository (a grant, which is good for minutes). A grant belongs to a
//! credential, remembered as a keyed hash and never as itself, or to everybody, where the gateway was
//! served without one. While upstream is away both last for `offline_for`, and for what is pinned as
//! long as it is. An import stands in for both, by the word of who runs the gateway, while no upstream
//! can be asked.

mod everybody;
mod memory;
mod proof;

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit};
use http::StatusCode;
use http::header::HeaderMap;
use sha2::Sha256;

use self::memory::{GRANT_LIFE, REVOKED, secret};
pub use self::proof::Proof;
use super::call::Call;
use crate::cache::index::{Index, now_seconds};
use crate::oci::reference::RepoName;
use crate::store::Key;
use crate::telemetry::metrics::Metrics;
use crate::upstream::{Endpoint, Fault, FaultKind, Upstream};

/// Grants and memberships.
pub struct Access {
    index: Arc<Index>,
    upstream: Arc<Upstream>,
    /// Keyed with the secret; cloned for each hash.
    mac: Hmac<Sha256>,
    /// When a grant was last proven, in seconds since the epoch; the index has them all. Or that it
    /// was revoked, or that the index does not know it.
    recent: moka::sync::Cache<[u8; 32], u64>,
    /// When upstream last refused a caller, in seconds since the epoch, by the caller's grant.
    refusals: moka::sync::Cache<[u8; 32], u64>,
    /// Repositories that anonymous callers were lately refused, or are being asked about.
    asked: moka::sync::Cache<[u8; 32], ()>,
    metrics: Arc<Metrics>,
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
            refusals: moka::sync::Cache::builder().max_capacity(100_000).build(),
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
        let (now, lasting) = (Some(now_seconds()), call.is_lasting());
        self.set(&call.endpoint, repo, own, now, lasting).await;
    }

    /// Notes that upstream accepted the caller in `repo` at some time, in seconds since the epoch. A no
    /// that came then or later stands, and so does a later yes.
    pub async fn was_granted(&self, call: &Call, repo: &RepoName, at: u64) {
        self.metrics.grants.inc();
        if call.by_policy_alone() {
            return;
        }
        let own = self.grant_key(&call.endpoint, repo, call.credential().as_deref());
        if self.refusals.get(&own).is_some_and(|refused| refused >= at) {
            return;
        }
        // One from the future is of a clock that was set back since.
        let later = at..=now_seconds();
        if self
            .proven(&own)
            .is_some_and(|proven| later.contains(&proven))
        {
            return;
        }
        let lasting = call.is_lasting();
        self.set(&call.endpoint, repo, own, Some(at), lasting).await;
    }

    /// Notes that upstream refused the caller in `repo` just now. One without a credential was only
    /// told to get a token: what anybody may see is [`Access::ask_for_everybody`]'s to find out.
    pub async fn refused(&self, call: &Call, repo: &RepoName) {
        self.metrics.refusals.inc();
        if call.by_policy_alone() || call.credential().is_none() {
            return;
        }
        let own = self.grant_key(&call.endpoint, repo, call.credential().as_deref());
        self.refusals.insert(own, now_seconds());
        let (origin, repository) = (&call.endpoint.id, repo.as_str());
        // What a pinned image stands on may be older than any grant.
        if self.proven(&own).is_some() || self.index.has_standing(origin, repository, &own) {
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

    /// Notes that `key` is in `repo` no more: upstream has deleted it there. What is pinned is wanted all
    /// the same.
    pub async fn deleted(&self, endpoint: &Endpoint, repo: &RepoName, key: &Key) {
        if self.index.pins().protects(key) {
            return;
        }
        let member = self.member_key(endpoint, repo, key);
        self.index.forget_member(member).await;
    }

    /// Waits until all that was noted is on disk, so that a crash does not take it. Should the index take
    /// nothing now, or the disk hang, upstream is asked again after one.
    pub async fn is_on_disk(&self) {
        let _ = tokio::time::timeout(ON_DISK_WITHIN, self.index.flush()).await;
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
}

/// Whether a status means that upstream is not well, rather than that the answer is no.
pub fn is_away(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// What a client that was let in waits for the disk to take note of it.
const ON_DISK_WITHIN: Duration = Duration::from_secs(3);
