//! The bound: what may be written, and what goes to make room.
//!
//! Every byte that is, or is about to be, in the cache directory is counted before it is written:
//! objects, downloads at their full announced size, broken downloads kept for resuming, and the
//! index. `max_size` and `min_free` therefore hold at all times, not after a sweep.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tracing::{debug, warn};

use super::index::{Index, on_disk};
use super::open::{OpenObjects, Removal};
use crate::oci::digest::Digest;
use crate::store::{Key, Store};
use crate::telemetry::metrics::Metrics;

/// The limits of `[cache]`, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub max_size: u64,
    /// Of the file system.
    pub min_free: u64,
}

/// There is no room, even after everything that may go has gone.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no room for {wanted} bytes in the cache: {why}")]
pub struct NoSpace {
    wanted: u64,
    why: String,
}

/// What was taken out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gone {
    pub objects: u64,
    /// On disk.
    pub bytes: u64,
}

/// The ledger of one cache directory.
#[derive(Debug)]
pub struct Space {
    bounds: ArcSwap<Bounds>,
    store: Arc<Store>,
    index: Arc<Index>,
    open: Arc<OpenObjects>,
    metrics: Arc<Metrics>,
    /// Objects and reservations, in bytes on disk.
    used: AtomicU64,
    /// Reserved bytes that are not on disk yet.
    pending: AtomicU64,
    parked: Mutex<HashMap<Digest, Parked>>,
    /// One at a time makes room.
    making_room: tokio::sync::Mutex<()>,
}

/// Room that is set aside; given back when dropped. The ledger keeps none: it would keep itself alive.
#[derive(Debug)]
pub struct Reservation {
    space: Arc<Space>,
    bytes: u64,
    written: u64,
}

#[derive(Debug)]
struct Parked {
    /// On disk, and counted as used.
    bytes: u64,
    since: Instant,
    /// Left by a dead process, and not looked at yet.
    found: bool,
}

// === impl Space ===

impl Space {
    pub fn new(
        bounds: Bounds,
        store: Arc<Store>,
        index: Arc<Index>,
        open: Arc<OpenObjects>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let used = AtomicU64::new(index.used_at_open());
        let space = Arc::new(Self {
            bounds: ArcSwap::from_pointee(bounds),
            store,
            index,
            open,
            metrics,
            used,
            pending: AtomicU64::new(0),
            parked: Mutex::default(),
            making_room: tokio::sync::Mutex::new(()),
        });
        space.report();
        space
    }

    /// The limits it keeps.
    pub fn bounds(&self) -> Bounds {
        **self.bounds.load()
    }

    /// From here on these hold. What is over them goes, and what is being read or downloaded when it no
    /// longer is.
    pub async fn keep_within(&self, bounds: Bounds) {
        self.bounds.store(Arc::new(bounds));
        self.report();
        if let Err(e) = self.make_room(0).await {
            debug!(error = %e, "the cache is over its new bounds for now");
        }
    }

    /// Bytes that objects, downloads and the index take.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed) + self.overhead()
    }

    /// Bytes that are no object's: the index, and the few small files beside it.
    pub(super) fn overhead(&self) -> u64 {
        on_disk(self.index.file_size()) + SMALL_FILES
    }

    /// Sets `bytes` aside, removing the least recently used objects where needed.
    pub async fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, NoSpace> {
        let mut room = Reservation {
            space: self.clone(),
            bytes: 0,
            written: 0,
        };
        room.grow(bytes).await?;
        Ok(room)
    }

    /// Counts an object that was found on disk without having been reserved.
    pub fn adopt(&self, size: u64) {
        self.used.fetch_add(on_disk(size), Ordering::Relaxed);
        self.report();
    }

    /// Takes an object's bytes off the ledger.
    pub fn forget(&self, size: u64) {
        sub(&self.used, on_disk(size));
        self.report();
    }

    /// Keeps a broken download's bytes for a while, in the room it had.
    pub fn park(&self, digest: Digest, mut room: Reservation, size: u64) {
        room.shrink_to(size);
        self.park_as(digest, room.hand_over(), false);
    }

    /// Counts a broken download found at start.
    pub fn park_found(self: &Arc<Self>, digest: Digest, size: u64) {
        let bytes = on_disk(size);
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.park_as(digest, bytes, true);
    }

    /// Whether a dead process left a download of it that nobody has looked at yet.
    pub fn was_found(&self, digest: &Digest) -> bool {
        self.parked().get(digest).is_some_and(|parked| parked.found)
    }

    /// Hands over a broken download that a dead process left, if nobody has looked at it yet.
    pub fn take_found(&self, digest: &Digest) -> bool {
        let mut parked = self.parked();
        let found = parked.get(digest).is_some_and(|parked| parked.found);
        let taken = if found { parked.remove(digest) } else { None };
        drop(parked);
        let was = taken.is_some();
        self.give_back(taken);
        was
    }

    /// Hands a broken download's bytes to the one who resumes it. The room is given back: the one
    /// who resumes reserves the whole.
    pub fn unpark(&self, digest: &Digest) -> bool {
        let parked = self.parked().remove(digest);
        let was = parked.is_some();
        self.give_back(parked);
        was
    }

    /// Removes broken downloads that nobody resumed.
    pub fn sweep_parked(&self, older_than: Duration) {
        let stale: Vec<Digest> = self
            .parked()
            .iter()
            .filter(|(_, parked)| parked.since.elapsed() >= older_than)
            .map(|(digest, _)| digest.clone())
            .collect();
        for digest in stale {
            self.drop_parked(&digest);
        }
    }

    fn park_as(&self, digest: Digest, bytes: u64, found: bool) {
        let parked = Parked {
            bytes,
            since: Instant::now(),
            found,
        };
        let before = self.parked().insert(digest, parked);
        self.give_back(before);
    }

    /// Takes a broken download's bytes off the ledger; answers how many they were.
    fn give_back(&self, parked: Option<Parked>) -> u64 {
        let bytes = parked.map_or(0, |parked| parked.bytes);
        sub(&self.used, bytes);
        self.report();
        bytes
    }

    async fn make_room(&self, bytes: u64) -> Result<(), NoSpace> {
        let _turn = self.making_room.lock().await;
        let no = |why: String| NoSpace { wanted: bytes, why };
        let bounds = **self.bounds.load();
        if bytes > 0 && bytes.saturating_add(self.overhead()) > bounds.max_size {
            return Err(no(format!("cache.max_size is {}", bounds.max_size)));
        }
        let mut freed_for_disk = 0;
        loop {
            let over = self
                .used()
                .saturating_add(bytes)
                .saturating_sub(bounds.max_size);
            let free = self.store.free().map_err(|e| no(e.to_string()))?;
            let spoken_for = self.pending.load(Ordering::Relaxed);
            // Some file systems give space back only a while after a file went.
            let short = bounds
                .min_free
                .saturating_add(bytes)
                .saturating_add(spoken_for)
                .saturating_sub(free.saturating_add(freed_for_disk));
            let needed = over.max(short);
            if needed == 0 {
                self.used.fetch_add(bytes, Ordering::Relaxed);
                self.pending.fetch_add(bytes, Ordering::Relaxed);
                self.report();
                return Ok(());
            }
            let freed = self.evict(needed).await;
            if freed == 0 {
                let bound = if over > 0 { "max_size" } else { "min_free" };
                return Err(no(format!(
                    "{needed} bytes over cache.{bound} and nothing left that may go"
                )));
            }
            let now_free = self.store.free().map_err(|e| no(e.to_string()))?;
            freed_for_disk += freed.saturating_sub(now_free.saturating_sub(free));
        }
    }

    /// Frees at least `needed` bytes where it can; answers how many.
    async fn evict(&self, needed: u64) -> u64 {
        let mut freed = 0;
        let parked: Vec<Digest> = self.parked().keys().cloned().collect();
        for digest in parked {
            if freed >= needed {
                return freed;
            }
            freed += self.drop_parked(&digest);
        }
        // Right after a start it may not be known yet what must stay.
        self.index.pins().ready().await;
        // The order must know the uses that are still in memory.
        let _ = self.index.flush().await;
        while freed < needed {
            let cold = self.index.coldest(EVICT_BATCH, |key| self.may_go(key));
            let mut enough = freed;
            let chosen: Vec<(Key, u64)> = cold
                .into_iter()
                .take_while(|(_, size)| {
                    let wanted = enough < needed;
                    enough += on_disk(*size);
                    wanted
                })
                .collect();
            if chosen.is_empty() {
                break;
            }
            let Some(gone) = self.remove(chosen).await else {
                break;
            };
            self.metrics.evicted(gone.objects, gone.bytes);
            freed += gone.bytes;
        }
        freed
    }

    /// Whether an object may go of itself: nobody reads it, and it is no pinned image's.
    pub fn may_go(&self, key: &Key) -> bool {
        !self.open.is_open(key) && !self.index.pins().protects(key)
    }

    /// Takes objects that nobody reads out of the index and then off the disk, so that whoever
    /// downloads one of them anew meets no late word about the old one. `None` where the index takes no
    /// change.
    pub async fn remove(&self, chosen: Vec<(Key, u64)>) -> Option<Gone> {
        self.take_out(chosen, |key| self.open.remove(&self.store, key))
            .await
    }

    /// The same for objects that may be being read: who does reads on, and nobody else begins to.
    pub async fn remove_at_once(&self, chosen: Vec<(Key, u64)>) -> Option<Gone> {
        self.take_out(chosen, |key| self.open.remove_at_once(&self.store, key))
            .await
    }

    async fn take_out(
        &self,
        chosen: Vec<(Key, u64)>,
        take: impl Fn(&Key) -> std::io::Result<Removal>,
    ) -> Option<Gone> {
        let mut going = Vec::new();
        for (key, size) in chosen {
            if self.store.mark(&key).is_ok() {
                going.push((key, size));
            }
        }
        let keys = going.iter().map(|(key, _)| key.clone()).collect();
        if self.index.remove(keys).await.is_err() {
            // The marks stay: the next start sorts it out.
            return None;
        }
        let mut gone = Gone::default();
        let mut trash = Vec::new();
        for (key, size) in going {
            match take(&key) {
                Ok(Removal::Gone(file)) => {
                    debug!(digest = %key.digest, size, "taken out");
                    gone.objects += 1;
                    gone.bytes += on_disk(size);
                    self.forget(size);
                    trash.push(file);
                }
                Ok(Removal::WasGone) => self.forget(size),
                // Opened since it was listed: it stays, and is known again.
                Ok(Removal::InUse) => self.index.adopt(key.clone(), size).await,
                Err(e) => {
                    warn!(digest = %key.digest, error = %e, "an object cannot be removed");
                    self.index.adopt(key.clone(), size).await;
                }
            }
            let _ = self.store.settle(&key);
        }
        let _ = tokio::task::spawn_blocking(move || drop(trash)).await;
        Some(gone)
    }

    fn drop_parked(&self, digest: &Digest) -> u64 {
        let Some(parked) = self.parked().remove(digest) else {
            return 0;
        };
        if let Err(e) = self.store.remove_partial(&Key::blob(digest)) {
            warn!(%digest, error = %e, "a broken download cannot be removed");
        }
        self.give_back(Some(parked))
    }

    fn parked(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) {
        let used = i64::try_from(self.used()).unwrap_or(i64::MAX);
        self.metrics.cache_bytes.set(used);
        let most = i64::try_from(self.bounds.load().max_size).unwrap_or(i64::MAX);
        self.metrics.cache_max_bytes.set(most);
    }
}

// === impl Reservation ===

impl Reservation {
    /// Sets room aside for `bytes` in all, as far as that is more than there is.
    pub async fn grow(&mut self, bytes: u64) -> Result<(), NoSpace> {
        let more = on_disk(bytes).saturating_sub(self.bytes);
        if more > 0 {
            self.space.make_room(more).await?;
            self.bytes += more;
        }
        Ok(())
    }

    /// Bytes that are set aside.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Notes that `bytes` in all are on disk by now.
    pub fn wrote(&mut self, bytes: u64) {
        let written = bytes.min(self.bytes);
        sub(&self.space.pending, written.saturating_sub(self.written));
        self.written = self.written.max(written);
    }

    /// The bytes are an object now, counted until it is forgotten.
    pub fn become_object(mut self, size: u64) {
        self.shrink_to(size);
        self.hand_over();
    }

    /// Counted by the ledger from here on; nothing is given back. Answers the bytes.
    fn hand_over(mut self) -> u64 {
        self.written = 0;
        std::mem::take(&mut self.bytes)
    }

    fn shrink_to(&mut self, size: u64) {
        self.wrote(self.bytes);
        let spare = self.bytes.saturating_sub(on_disk(size));
        sub(&self.space.used, spare);
        self.bytes -= spare;
        self.written = self.bytes;
        self.space.report();
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        sub(&self.space.pending, self.bytes.saturating_sub(self.written));
        sub(&self.space.used, self.bytes);
        self.space.report();
    }
}

fn sub(counter: &AtomicU64, bytes: u64) {
    // Saturating: a count that drifted low is harmless, one that wrapped is not.
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
        Some(n.saturating_sub(bytes))
    });
}

const SMALL_FILES: u64 = 8 << 10;
const EVICT_BATCH: usize = 32;
