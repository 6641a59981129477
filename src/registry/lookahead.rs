//! A manifest that passes starts its layers' download, before its client asks for them.
//!
//! In the name of whoever was shown the manifest, and for nobody else: what is fetched is cached, and the
//! door opens as ever. A bounded number at a time, so that there is always room on the line for what
//! clients themselves ask for, which waits for none of this.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{Instrument, debug};

use super::access::Access;
use super::call::Call;
use super::source::BlobSource;
use crate::cache::flight::Failure;
use crate::cache::{Cache, Download, Manifest};
use crate::oci::manifest::{Children, Descriptor};
use crate::oci::reference::RepoName;
use crate::store::Key;
use crate::upstream::Upstream;
use crate::wire::shares::who;

/// Downloads that nobody has asked for yet.
#[derive(Debug)]
pub(super) struct Lookahead {
    cache: Arc<Cache>,
    upstream: Arc<Upstream>,
    access: Arc<Access>,
    /// Of all clients at a time.
    all: Arc<Semaphore>,
    clients: Mutex<HashMap<IpAddr, Weak<Budget>>>,
}

/// What one client's manifests may start.
#[derive(Debug)]
struct Budget {
    turns: Arc<Semaphore>,
    /// Bytes that wait or are under way.
    bytes: AtomicU64,
}

/// Bytes of a budget, given back when dropped.
#[derive(Debug)]
struct Spent {
    budget: Arc<Budget>,
    bytes: u64,
}

// === impl Lookahead ===

impl Lookahead {
    pub fn new(cache: Arc<Cache>, upstream: Arc<Upstream>, access: Arc<Access>) -> Arc<Self> {
        Arc::new(Self {
            cache,
            upstream,
            access,
            all: Arc::new(Semaphore::new(AT_ONCE)),
            clients: Mutex::default(),
        })
    }

    /// Starts what `manifest` refers to, for a caller who was just shown it. Of an index nothing: its
    /// client chooses an image of it first.
    pub fn begin(self: &Arc<Self>, call: &Call, repo: &RepoName, manifest: &Manifest) {
        if call.is_head() || !call.rules.lookahead || !call.endpoint.enabled {
            return;
        }
        let (lookahead, call, repo) = (self.clone(), call.clone(), repo.clone());
        let bytes = manifest.bytes.clone();
        let ahead = async move { lookahead.run(&call, &repo, bytes).await };
        tokio::spawn(ahead.in_current_span());
    }

    async fn run(self: Arc<Self>, call: &Call, repo: &RepoName, manifest: Bytes) {
        let children = Children::parse(&manifest);
        let budget = self.budget(call.client);
        let (_, most) = self.cache.used_of();
        let wanted = children.config.iter().chain(&children.layers);
        let wanted: Vec<(Descriptor, Spent)> = wanted
            .filter(|blob| !blob.is_foreign() && !self.cache.has_or_fetches(&blob.digest))
            .map_while(|blob| {
                Some((
                    blob.clone(),
                    budget.spend(blob.size.max(LEAST), most / SHARE)?,
                ))
            })
            .take(MOST_BLOBS)
            .collect();
        // Upstream has said no, or is not well: the client asks by itself, and hears why.
        let refused = Arc::new(AtomicBool::new(false));
        for (blob, spent) in wanted {
            let turns = (turn(&budget.turns).await, turn(&self.all).await);
            if refused.load(Ordering::Relaxed) {
                return;
            }
            // What its client was quicker to ask for is under way, or here.
            if self.cache.has_or_fetches(&blob.digest) {
                continue;
            }
            let (lookahead, call, repo) = (self.clone(), call.clone(), repo.clone());
            let refused = refused.clone();
            let ahead = async move {
                let _held = (turns, spent);
                if let Err(why) = lookahead.fetch(&call, &repo, &blob).await {
                    debug!(digest = %blob.digest, error = %why, "looked ahead in vain");
                    refused.store(true, Ordering::Relaxed);
                }
            };
            tokio::spawn(ahead.in_current_span());
        }
    }

    async fn fetch(&self, call: &Call, repo: &RepoName, blob: &Descriptor) -> Result<(), Failure> {
        let digest = &blob.digest;
        let own = Arc::new(BlobSource::of(call, self.upstream.clone(), repo, digest));
        let key = Key::blob(digest);
        let member = self.access.member_key(&call.endpoint, repo, &key);
        let Download::Begun(flight) = self.cache.download(digest, member, own) else {
            return Ok(());
        };
        self.cache.looked_ahead();
        flight.head().await?;
        // Where anybody may, the gateway finishes by itself what a token that ended began.
        let anybody = BlobSource::anonymous(call, self.upstream.clone(), repo, digest);
        flight.offer(Arc::new(anybody));
        flight.finished().await
    }

    fn budget(&self, client: IpAddr) -> Arc<Budget> {
        let client = who(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = clients.get(&client).and_then(Weak::upgrade) {
            return budget;
        }
        if clients.len() >= SWEEP_AT && clients.len().is_power_of_two() {
            clients.retain(|_, budget| budget.strong_count() > 0);
        }
        let budget = Arc::new(Budget {
            turns: Arc::new(Semaphore::new(AT_ONCE_PER_CLIENT)),
            bytes: AtomicU64::new(0),
        });
        clients.insert(client, Arc::downgrade(&budget));
        budget
    }
}

// === impl Budget ===

impl Budget {
    /// Sets `bytes` aside, where that stays within `most`.
    fn spend(self: &Arc<Self>, bytes: u64, most: u64) -> Option<Spent> {
        let add = |spent: u64| spent.checked_add(bytes).filter(|sum| *sum <= most);
        let added = self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        added.is_ok().then(|| Spent {
            budget: self.clone(),
            bytes,
        })
    }
}

impl Drop for Spent {
    fn drop(&mut self) {
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Waits for one of a bounded number. They are never closed, so there is always one in the end.
async fn turn(of: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    of.clone().acquire_owned().await.ok()
}

/// Of all clients together.
const AT_ONCE: usize = 32;
const AT_ONCE_PER_CLIENT: usize = 8;
/// One client's manifests may start a fourth of what the cache holds.
const SHARE: u64 = 4;
/// Bytes that a blob counts for, however small it says it is.
const LEAST: u64 = 64 << 10;
/// Blobs of one manifest that are started: the largest images have some hundred layers.
const MOST_BLOBS: usize = 500;
const SWEEP_AT: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_given_back() {
        let budget = Arc::new(Budget {
            turns: Arc::new(Semaphore::new(1)),
            bytes: AtomicU64::new(0),
        });
        let first = budget.spend(60, 100).unwrap();
        assert!(budget.spend(41, 100).is_none());
        assert!(budget.spend(u64::MAX, 100).is_none());
        let second = budget.spend(40, 100).unwrap();
        drop(first);
        assert!(budget.spend(60, 100).is_some());
        drop(second);
        assert_eq!(budget.bytes.load(Ordering::Relaxed), 0);
    }
}
