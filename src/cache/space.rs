//! The bound: what may be written, and what goes to make room.
//!
//! Every byte that is, or is about to be, in the cache directory is counted before it is written:
//! objects, downloads at their full announced size, broken downloads kept for resuming, and the
//! index. `max_size` and `min_free` therefore hold at all times, not after a sweep.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::index::{Index, IndexError, on_disk};
use super::ledger::Ledger;
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

/// The room of one cache directory.
#[derive(Debug)]
pub struct Space {
    bounds: ArcSwap<Bounds>,
    store: Arc<Store>,
    index: Arc<Index>,
    open: Arc<OpenObjects>,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    parked: Mutex<HashMap<Digest, Parked>>,
    /// Whether it is known what is on disk; only without an index it is not.
    counted: watch::Sender<bool>,
    /// One at a time makes room.
    making_room: tokio::sync::Mutex<()>,
    /// Held from the first file that is taken out until the index has forgotten them all.
    taking_out: tokio::sync::Mutex<()>,
}

/// Room that is set aside; given back when dropped. [`Space`] keeps none: it would keep itself alive.
#[derive(Debug)]
pub struct Reservation {
    space: Arc<Space>,
    bytes: u64,
    written: u64,
}

#[derive(Debug)]
struct Parked {
    /// On disk, and held in the ledger.
    bytes: u64,
    since: Instant,
    /// Left by a dead process, and not judged yet.
    found: bool,
    /// Somebody is just finding out whether it is complete, and has its room.
    looked_at: bool,
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
        let space = Arc::new(Self {
            bounds: ArcSwap::from_pointee(bounds),
            ledger: index.ledger().clone(),
            counted: watch::Sender::new(!index.wants_rebuild()),
            store,
            index,
            open,
            metrics,
            parked: Mutex::default(),
            making_room: tokio::sync::Mutex::new(()),
            taking_out: tokio::sync::Mutex::new(()),
        });
        space.report_bounds();
        space
    }

    /// Without an index: what all objects take, found out from the files. Until then nothing is kept.
    pub fn count(&self, bytes: u64) {
        // Where every file is known by now there is nothing left to guess.
        if self.index.wants_rebuild() {
            self.ledger.counted(bytes);
        }
        self.counted.send_replace(true);
    }

    /// The limits it keeps.
    pub fn bounds(&self) -> Bounds {
        **self.bounds.load()
    }

    /// From here on these hold. What is over them goes, and what is being read or downloaded when it no
    /// longer is.
    pub async fn keep_within(self: &Arc<Self>, bounds: Bounds) {
        self.bounds.store(Arc::new(bounds));
        self.report_bounds();
        self.tidy().await;
    }

    /// Removes what is over the bounds by now: what was being read when they were lowered, what others
    /// took of the disk, and how the index has grown.
    pub async fn tidy(self: &Arc<Self>) {
        if let Err(e) = self.make_room(0).await {
            debug!(error = %e, "the cache is over its bounds for now");
        }
    }

    /// Bytes that objects, downloads and the index take.
    pub fn used(&self) -> u64 {
        self.ledger.used()
    }

    /// Bytes that are no object's: the index, and the few small files beside it.
    pub(super) fn overhead(&self) -> u64 {
        self.ledger.overhead()
    }

    /// Sets `bytes` aside, removing the least recently used objects where needed.
    pub async fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, NoSpace> {
        let mut room = self.reservation();
        room.grow(bytes).await?;
        Ok(room)
    }

    /// An empty one, to grow.
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        self.taken_over(0)
    }

    /// Bytes that are on disk and held already.
    fn taken_over(self: &Arc<Self>, bytes: u64) -> Reservation {
        Reservation {
            space: self.clone(),
            bytes,
            written: bytes,
        }
    }

    /// Keeps a broken download's bytes for a while, in the room it had.
    pub fn park(&self, digest: Digest, room: Reservation, size: u64) {
        self.park_as(digest, room.settle_at(size), false);
    }

    /// Counts a broken download found at start.
    pub fn park_found(&self, digest: Digest, size: u64) {
        let bytes = on_disk(size);
        self.ledger.hold(bytes);
        self.park_as(digest, bytes, true);
    }

    /// Whether a dead process left a download of it that nobody has judged yet.
    pub fn was_found(&self, digest: &Digest) -> bool {
        self.parked().get(digest).is_some_and(|parked| parked.found)
    }

    /// Hands over a broken download that a dead process left, in its room, if nobody looks at it yet.
    /// It stays where it is, out of everybody's reach, until it is [judged](Space::judged).
    pub fn take_found(self: &Arc<Self>, digest: &Digest) -> Option<Reservation> {
        let mut all = self.parked();
        let free = |parked: &&mut Parked| parked.found && !parked.looked_at;
        let parked = all.get_mut(digest).filter(free)?;
        parked.looked_at = true;
        Some(self.taken_over(std::mem::take(&mut parked.bytes)))
    }

    /// What was found is put in place by now, or parked again, or gone.
    pub fn judged(&self, digest: &Digest) {
        let mut all = self.parked();
        if all.get(digest).is_some_and(|parked| parked.looked_at) {
            all.remove(digest);
        }
    }

    /// Hands a broken download's bytes to the one who resumes it, in the room they have.
    pub fn unpark(self: &Arc<Self>, digest: &Digest) -> Option<Reservation> {
        let mut all = self.parked();
        all.get(digest).filter(|parked| !parked.looked_at)?;
        let taken = all.remove(digest)?;
        Some(self.taken_over(taken.bytes))
    }

    /// Removes broken downloads that nobody resumed.
    pub fn sweep_parked(&self, older_than: Duration) {
        let stale: Vec<Digest> = self
            .parked()
            .iter()
            .filter(|(_, parked)| parked.since.elapsed() >= older_than && !parked.looked_at)
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
            looked_at: false,
        };
        let before = self.parked().insert(digest, parked);
        // The same file, which was counted for whoever kept it before.
        self.ledger
            .give_back(before.map_or(0, |before| before.bytes), 0);
    }

    async fn make_room(self: &Arc<Self>, bytes: u64) -> Result<(), NoSpace> {
        let no = |why: String| NoSpace { wanted: bytes, why };
        let mut counted = self.counted.subscribe();
        let counted = counted.wait_for(|counted| *counted);
        if tokio::time::timeout(COUNTED_WITHIN, counted).await.is_err() {
            return Err(no(
                "its index was lost and its files are being counted".into()
            ));
        }
        let _turn = self.making_room.lock().await;
        let bounds = **self.bounds.load();
        let most = bounds.max_size.saturating_sub(self.ledger.margin());
        if bytes > 0 && bytes.saturating_add(self.overhead()) > most {
            return Err(no(format!("cache.max_size is {}", bounds.max_size)));
        }
        let mut freed_for_disk = 0;
        loop {
            let over = self.used().saturating_add(bytes).saturating_sub(most);
            let free = self.store.free().map_err(|e| no(e.to_string()))?;
            let spoken_for = self.ledger.pending();
            // Some file systems give space back only a while after a file went.
            let short = bounds
                .min_free
                .saturating_add(bytes)
                .saturating_add(spoken_for)
                .saturating_sub(free.saturating_add(freed_for_disk));
            let needed = over.max(short);
            if needed == 0 {
                self.ledger.set_aside(bytes);
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
    async fn evict(self: &Arc<Self>, needed: u64) -> u64 {
        let mut freed = 0;
        let mut parked: Vec<(Instant, Digest)> = self
            .parked()
            .iter()
            .map(|(digest, parked)| (parked.since, digest.clone()))
            .collect();
        parked.sort_by_key(|(since, _)| *since);
        for (_, digest) in parked {
            if freed >= needed {
                return freed;
            }
            freed += self.drop_parked(&digest);
        }
        // Right after a start it may not be known yet what must stay.
        self.index.pins().ready().await;
        // The order must know the uses that are still in memory.
        let _ = self.index.flush().await;
        // Larger and larger: each batch is a change of the index that waits for the disk, and looks again
        // at what is cold and must stay.
        let mut batch = EVICT_BATCH;
        while freed < needed {
            let cold = self.index.coldest(batch, |key| self.may_go(key));
            batch = (batch * 2).min(LARGEST_BATCH);
            let mut enough = freed;
            let chosen: Vec<Key> = cold
                .into_iter()
                .take_while(|(_, size)| {
                    let wanted = enough < needed;
                    enough = enough.saturating_add(on_disk(*size));
                    wanted
                })
                .map(|(key, _)| key)
                .collect();
            if chosen.is_empty() {
                break;
            }
            let Some(gone) = self.remove(chosen).await else {
                break;
            };
            self.metrics.evicted(gone.objects, gone.bytes);
            freed += gone.bytes;
            if gone.bytes == 0 {
                // All were opened since they were listed.
                break;
            }
        }
        freed
    }

    /// Whether an object may go of itself: nobody reads it, and it is no pinned image's.
    pub fn may_go(&self, key: &Key) -> bool {
        !self.open.is_open(key) && !self.index.pins().protects(key)
    }

    /// Takes objects that nobody reads off the disk and out of the index. `None` where the index takes no
    /// change: it does so as soon as it can.
    pub async fn remove(self: &Arc<Self>, chosen: Vec<Key>) -> Option<Gone> {
        self.take_out(chosen, OpenObjects::remove).await
    }

    /// The same for objects that may be being read: who does reads on, and nobody else begins to.
    pub async fn remove_at_once(self: &Arc<Self>, chosen: Vec<Key>) -> Option<Gone> {
        self.take_out(chosen, OpenObjects::remove_at_once).await
    }

    async fn take_out(
        self: &Arc<Self>,
        chosen: Vec<Key>,
        take: fn(&OpenObjects, &Store, &Key) -> io::Result<Removal>,
    ) -> Option<Gone> {
        let space = self.clone();
        // In a task of its own: a caller that is cut off must not leave it half done.
        tokio::spawn(async move { space.take_out_now(chosen, take).await })
            .await
            .ok()?
    }

    /// Waits until the index has forgotten what is no more. Whoever makes something known comes after
    /// that: it may be one of those, fetched anew, and would be forgotten with them.
    pub(super) async fn taken_out_is_forgotten(&self) {
        drop(self.taking_out.lock().await);
    }

    /// Makes the index forget an object whose file is gone; answers whether it is.
    pub(super) async fn forget_if_gone(&self, key: &Key) -> Result<bool, IndexError> {
        let _taking_out = self.taking_out.lock().await;
        let gone = matches!(self.store.since(key), Ok(None));
        if gone {
            self.index.remove(vec![key.clone()]).await?;
        }
        Ok(gone)
    }

    /// First the files, out of everybody's way, then the index: see [`Space::taken_out_is_forgotten`].
    async fn take_out_now(
        &self,
        chosen: Vec<Key>,
        take: fn(&OpenObjects, &Store, &Key) -> io::Result<Removal>,
    ) -> Option<Gone> {
        let taking_out = self.taking_out.lock().await;
        let mut going = Vec::new();
        let mut trash = Vec::new();
        for key in chosen {
            // Should the process die in between, the next start knows by this. On a full disk there may
            // be no room for it, and making some matters more.
            let _ = self.store.mark(&key);
            match take(&self.open, &self.store, &key) {
                Ok(Removal::Gone(file)) => {
                    debug!(digest = %key.digest, "taken out");
                    trash.push(file);
                    going.push(key);
                }
                Ok(Removal::WasGone) => going.push(key),
                Ok(Removal::InUse) => drop(self.store.settle(&key)),
                Err(e) => {
                    warn!(digest = %key.digest, error = %e, "an object cannot be removed");
                    drop(self.store.settle(&key));
                }
            }
        }
        let objects = trash.len() as u64;
        let removed = self.index.remove(going.clone()).await;
        if removed.is_ok() {
            // Where the index does not know, the marks stay for the next start.
            for key in &going {
                let _ = self.store.settle(key);
            }
        }
        drop(taking_out);
        let _ = tokio::task::spawn_blocking(move || drop(trash)).await;
        let held = removed.ok()?;
        Some(Gone {
            objects,
            bytes: held.bytes(),
        })
    }

    /// Removes a broken download; answers how many bytes went.
    pub fn drop_parked(&self, digest: &Digest) -> u64 {
        let mut all = self.parked();
        if all.get(digest).is_some_and(|parked| parked.looked_at) {
            return 0;
        }
        let Some(parked) = all.remove(digest) else {
            return 0;
        };
        // As long as nobody can begin to resume it.
        let trash = self.store.take_partial(&Key::blob(digest));
        drop(all);
        match trash {
            Ok(trash) => drop(trash),
            Err(e) => warn!(%digest, error = %e, "a broken download cannot be removed"),
        }
        self.ledger.give_back(parked.bytes, 0);
        parked.bytes
    }

    fn parked(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Parked>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report_bounds(&self) {
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
        self.space
            .ledger
            .wrote(written.saturating_sub(self.written));
        self.written = self.written.max(written);
    }

    /// A file of `size` bytes has taken its room; the rest is given back. Its bytes, which are answered,
    /// stay held in the ledger for whoever is told.
    pub fn settle_at(mut self, size: u64) -> u64 {
        let bytes = on_disk(size).min(self.bytes);
        let spare = self.bytes - bytes;
        let unwritten = self.bytes - self.written;
        self.space.ledger.give_back(spare, unwritten);
        self.bytes = 0;
        self.written = 0;
        bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let unwritten = self.bytes.saturating_sub(self.written);
        self.space.ledger.give_back(self.bytes, unwritten);
    }
}

const EVICT_BATCH: usize = 32;
/// How long a download waits for the files to be counted before it passes through.
const COUNTED_WITHIN: Duration = Duration::from_secs(2);
const LARGEST_BATCH: usize = 512;
