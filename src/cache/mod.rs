//! Request to bytes, once: the only door to the store.

pub mod capture;
pub mod catalog;
mod download;
pub mod flight;
mod flights;
mod fresh;
pub mod index;
pub mod ledger;
mod manifests;
mod open;
pub mod origin;
pub mod passthrough;
pub mod put;
pub mod reader;
mod recovery;
pub mod space;
mod sync;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{Instrument, info_span, warn};

use self::flight::{DownloadView, Flight};
pub use self::flights::Download;
use self::flights::Flights;
use self::index::Index;
use self::ledger::Ledger;
pub use self::manifests::Manifest;
use self::manifests::{AtHands, none_at_hand};
pub use self::open::Object;
use self::open::OpenObjects;
use self::origin::Origin;
use self::space::{Bounds, Reservation, Space};
use crate::oci::digest::Digest;
use crate::store::{Key, Kind, Spool, Store};
pub use crate::store::{StoreError, is_full};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans;
use crate::wire::turns::Turns;

/// `[cache]`, as far as the bytes are concerned.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    pub dir: PathBuf,
    pub bounds: Bounds,
    /// Connections for one large blob.
    pub parallel: usize,
}

/// Verified bytes, and downloads on their way to be.
#[derive(Debug)]
pub struct Cache {
    store: Arc<Store>,
    index: Arc<Index>,
    space: Arc<Space>,
    open: Arc<OpenObjects>,
    flights: Flights,
    turns: Turns,
    /// Connections for one large blob, at least one.
    parallel: AtomicUsize,
    /// What all downloads together may have beyond one connection each.
    connections: Arc<Semaphore>,
    manifests: AtHands,
    metrics: Arc<Metrics>,
}

// === impl Cache ===

impl Cache {
    /// Opens the directory. Blocking. [`Cache::settle`] comes next.
    pub fn open(config: &CacheConfig, metrics: Arc<Metrics>) -> Result<Arc<Self>, StoreError> {
        let store = Arc::new(Store::open(&config.dir)?);
        let index = Arc::new(Index::open(&config.dir, Ledger::new(metrics.clone())));
        let open = Arc::new(OpenObjects::default());
        let space = Space::new(
            config.bounds,
            store.clone(),
            index.clone(),
            open.clone(),
            metrics.clone(),
        );
        if index.wants_rebuild() {
            let mut empty = true;
            let walked = store.walk(|_, _, _| {
                empty = false;
                false
            });
            if empty && walked.is_ok() {
                space.count(0);
            }
        }
        Ok(Arc::new(Self {
            store,
            index,
            space,
            open,
            flights: Flights::default(),
            turns: Turns::default(),
            parallel: AtomicUsize::new(config.parallel.max(1)),
            connections: Arc::new(Semaphore::new(MORE_CONNECTIONS)),
            manifests: none_at_hand(),
            metrics,
        }))
    }

    /// Sweeps now and then; tags and grants are kept for `offline_for`. Never ends.
    pub async fn keep_house(self: Arc<Self>, offline_for: impl Fn() -> Duration) {
        let mut every = tokio::time::interval(SWEEP_EVERY);
        let mut pruned = (Instant::now(), index::now_seconds());
        loop {
            tokio::select! {
                _ = every.tick() => {}
                () = self.index.rebuild_wanted() => {
                    if !self.rebuild().await {
                        // The disk does not let it now.
                        every.tick().await;
                    }
                    self.protect().await;
                }
            }
            self.space.sweep_parked(PARKED_FOR);
            let _ = self.index.flush().await;
            self.space.tidy().await;
            let (at, then) = pruned;
            if at.elapsed() >= PRUNE_EVERY {
                let now = index::now_seconds();
                pruned = (Instant::now(), now);
                // A clock that has jumped says nothing about how old anything is.
                if now.abs_diff(then.saturating_add(at.elapsed().as_secs())) > CLOCK_SLACK.as_secs()
                {
                    warn!("the clock was set; nothing is forgotten for its age this time");
                    continue;
                }
                // What counts for nothing any more, not even while upstream is away.
                let age = offline_for().max(PRUNE_EVERY).as_secs();
                self.index.prune(now.saturating_sub(age)).await;
                // Tags that moved on let go of what they stood for.
                self.protect().await;
            }
        }
    }

    /// Holds the directory to other bounds from here on; ends when what may go has gone.
    pub async fn keep_within(&self, bounds: Bounds) {
        self.space.keep_within(bounds).await;
    }

    /// Downloads that begin from here on have this many connections each, where that helps.
    pub fn download_over(&self, parallel: usize) {
        self.parallel.store(parallel.max(1), Ordering::Relaxed);
    }

    fn connections_per_blob(&self) -> usize {
        self.parallel.load(Ordering::Relaxed)
    }

    /// A connection beside a download's first one, unless there are too many of them already.
    fn one_more_connection(&self) -> Option<OwnedSemaphorePermit> {
        self.connections.clone().try_acquire_owned().ok()
    }

    /// The directory's index: tags, members and grants live there too.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// A complete blob.
    pub async fn blob(self: &Arc<Self>, digest: &Digest) -> Option<Object> {
        if let Some(object) = self.lookup(&Key::blob(digest)).await {
            return Some(object);
        }
        if !self.space.was_found(digest) {
            return None;
        }
        // One looks at what a dead process left, in a task of its own; the others wait for it.
        let _turn = self.turns.take(digest.to_string()).await;
        if let Some(room) = self.space.take_found(digest) {
            let (cache, digest) = (self.clone(), digest.clone());
            let looking = async move {
                cache.revive(&digest, room).await;
                cache.space.judged(&digest);
            };
            let _ = tokio::spawn(looking).await;
        }
        self.lookup(&Key::blob(digest)).await
    }

    /// The download of `digest` that is under way, if any.
    pub fn flight(&self, digest: &Digest) -> Option<Arc<Flight>> {
        self.flights.get(digest)
    }

    /// Whether the blob is here, or on its way. Nothing is looked at, nor counted as a use.
    pub fn has_or_fetches(&self, digest: &Digest) -> bool {
        self.index.object(&Key::blob(digest)).is_some()
            || self.flight(digest).is_some()
            || self.space.was_found(digest)
    }

    /// Counts a download that nobody had asked for yet.
    pub fn looked_ahead(&self) {
        self.metrics.lookaheads.inc();
    }

    /// Joins the download of `digest`, or begins it with `source`. `member` is remembered once upstream has answered `source` with
    /// bytes: that the blob is in the repository that was asked.
    pub fn download(
        self: &Arc<Self>,
        digest: &Digest,
        member: Vec<u8>,
        source: Arc<dyn Origin>,
    ) -> Download {
        let key = Key::blob(digest);
        // A download ends after the index knows its blob.
        let is_here = || {
            self.index.object(&key).is_some()
                && matches!(self.open.open(&self.store, &key), Ok(Some(_)))
        };
        let begin = || Flight::new(digest.clone(), member, source, self.metrics.clone());
        let download = self.flights.join(digest, is_here, begin);
        if let Download::Begun(flight) = &download {
            let span = info_span!(target: spans::TARGET, "download", pierhead.digest = %digest);
            tokio::spawn(self.clone().run_download(flight.clone()).instrument(span));
        }
        download
    }

    /// Downloads under way, the oldest first.
    pub fn downloads(&self) -> Vec<DownloadView> {
        let mut views: Vec<DownloadView> = self.flights.all().iter().map(|f| f.view()).collect();
        views.sort_by_key(|view| view.since);
        views
    }

    /// Bytes on disk, and the bound that holds for them.
    pub fn used_of(&self) -> (u64, u64) {
        (self.space.used(), self.space.bounds().max_size)
    }

    /// Waits until what has verified is in place, at most `limit`: its clients may have the last byte
    /// before the disk has.
    pub async fn put_in_place(&self, limit: Duration) {
        let waits = || self.flights.all().iter().any(|flight| flight.is_verified());
        let until = Instant::now() + limit;
        while waits() && Instant::now() < until {
            tokio::time::sleep(A_MOMENT).await;
        }
    }

    /// How many downloads are under way.
    pub fn flights_under_way(&self) -> usize {
        self.flights.count()
    }

    /// Opens a complete object. One whose size is not what it was is damaged, and goes.
    async fn lookup(&self, key: &Key) -> Option<Object> {
        if self.open.was_suspect(key) {
            self.judge(key).await;
        }
        let opened = match self.open.open(&self.store, key) {
            Ok(opened) => opened,
            Err(e) => {
                warn!(digest = %key.digest, error = %e, "a cached object cannot be opened");
                return None;
            }
        };
        let known = self.index.look(key);
        let Some(object) = opened else {
            if let Ok(Some(_)) = known {
                self.missed(key).await;
            }
            return None;
        };
        let size = match known {
            Ok(Some(known)) => Some(known.size),
            Ok(None) => None,
            // Whatever is under its digest verified once.
            Err(_) => Some(object.size()),
        };
        if size != Some(object.size()) {
            // One that a download is about to make known is right.
            if size.is_none() && self.flight(&key.digest).is_some() {
                return Some(object);
            }
            drop(object);
            self.judge(key).await;
            return self.open.open(&self.store, key).ok()?;
        }
        self.index.touch(key);
        Some(object)
    }

    /// The index knows an object whose file somebody else took away.
    async fn missed(&self, key: &Key) {
        if self.flight(&key.digest).is_none()
            && let Ok(true) = self.space.forget_if_gone(key).await
        {
            warn!(digest = %key.digest, "a cached file is gone");
        }
    }

    /// Notes that upstream has shown an object in a repository, durably: to be done before anybody relies
    /// on it, and before the object is known, so that a crash takes both or none.
    async fn note_member(&self, member: Vec<u8>) {
        self.space.taken_out_is_forgotten().await;
        self.index.set_member(member).await;
        let _ = self.index.flush().await;
    }

    /// Puts a verified spool in place and makes the index know it.
    async fn keep(
        &self,
        spool: Spool,
        key: &Key,
        room: Reservation,
        media_type: String,
    ) -> io::Result<()> {
        self.space.taken_out_is_forgotten().await;
        let size = spool.written();
        // Who follows reads on from this file: it is not thrown out under them.
        let file = spool.file();
        let store = self.store.clone();
        let committed = tokio::task::spawn_blocking(move || spool.commit(&store))
            .await
            .map_err(io::Error::other)?;
        let committed = match committed {
            Ok(committed) => committed,
            Err(e) => {
                drop(room);
                // One that was fetched anew, because it could not be opened, was there until now.
                if self.space.forget_if_gone(key).await.is_ok() {
                    let _ = self.store.settle(key);
                }
                return Err(e);
            }
        };
        self.open.adopt(key, &file);
        drop(file);
        let held = room.settle_at(size);
        let key = key.clone();
        if key.kind == Kind::Manifest {
            // Before the object, so that a crash takes both or none.
            self.index.believe(&key.digest).await;
        }
        if let Err(e) = self.index.insert(key.clone(), size, media_type, held).await {
            // The file is there and right; should it stay unwritten, the next start adopts it by its mark.
            warn!(digest = %key.digest, error = %e, "the index does not know a cached object yet");
            return Ok(());
        }
        committed.settle();
        Ok(())
    }

    fn end_flight(&self, digest: &Digest) {
        if self.flights.end(digest) {
            self.metrics.downloads_active.dec();
            self.metrics.live.ring();
        }
    }
}

const A_MOMENT: Duration = Duration::from_millis(5);
/// Connections that all downloads together may have beyond one each.
const MORE_CONNECTIONS: usize = 32;
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// A broken download waits this long for somebody to resume it.
const PARKED_FOR: Duration = Duration::from_secs(3600);
/// By how much a clock may be corrected without having jumped.
const CLOCK_SLACK: Duration = Duration::from_secs(300);
