//! Request to bytes, once: the only door to the store.

pub mod capture;
pub mod catalog;
mod download;
pub mod flight;
mod fresh;
pub mod index;
pub mod ledger;
mod open;
pub mod origin;
pub mod passthrough;
pub mod put;
pub mod reader;
pub mod space;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{Instrument, info, info_span, warn};

use self::flight::{DownloadView, Flight};
use self::index::Index;
use self::ledger::Ledger;
pub use self::open::Object;
use self::open::OpenObjects;
use self::origin::Origin;
use self::space::{Bounds, Reservation, Space};
use crate::oci::digest::Digest;
use crate::oci::manifest::Children;
pub use crate::store::StoreError;
use crate::store::{Key, Kind, Left, Partial, Spool, Store};
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
    flights: Mutex<HashMap<Digest, Arc<Flight>>>,
    turns: Turns,
    /// Connections for one large blob, at least one.
    parallel: AtomicUsize,
    /// What all downloads together may have beyond one connection each.
    connections: Arc<Semaphore>,
    /// Manifests are small and asked for often.
    manifests: moka::sync::Cache<Digest, Arc<AtHand>>,
    metrics: Arc<Metrics>,
}

/// A cached manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: Arc<str>,
    pub bytes: Bytes,
}

/// A manifest in memory.
#[derive(Debug)]
struct AtHand {
    manifest: Manifest,
    /// When the index last heard of a use, in seconds since the epoch.
    touched: AtomicU64,
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
            flights: Mutex::default(),
            turns: Turns::default(),
            parallel: AtomicUsize::new(config.parallel.max(1)),
            connections: Arc::new(Semaphore::new(MORE_CONNECTIONS)),
            manifests: moka::sync::Cache::builder()
                .max_capacity(MANIFEST_MEMORY)
                .weigher(|_, at_hand: &Arc<AtHand>| {
                    u32::try_from(at_hand.manifest.bytes.len() + 256).unwrap_or(u32::MAX)
                })
                .build(),
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

    /// Finds every object anew where the index was lost.
    pub async fn find_again(&self) {
        if self.index.wants_rebuild() {
            self.rebuild().await;
            self.protect().await;
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
            let _ = tokio::spawn(async move { cache.revive(&digest, room).await }).await;
        }
        self.lookup(&Key::blob(digest)).await
    }

    /// A cached manifest that was read before.
    pub fn manifest_at_hand(&self, digest: &Digest) -> Option<Manifest> {
        let at_hand = self.manifests.get(digest)?;
        let now = index::now_seconds();
        // Once a second is often enough.
        if at_hand.touched.load(Ordering::Relaxed) != now {
            at_hand.touched.store(now, Ordering::Relaxed);
            self.index.touch(&Key::manifest(digest));
        }
        Some(at_hand.manifest.clone())
    }

    fn hold(&self, manifest: &Manifest) {
        let at_hand = AtHand {
            manifest: manifest.clone(),
            touched: AtomicU64::new(0),
        };
        self.manifests
            .insert(manifest.digest.clone(), Arc::new(at_hand));
    }

    /// A cached manifest. The first read comes from disk.
    pub async fn manifest(&self, digest: &Digest) -> Option<Manifest> {
        if let Some(manifest) = self.manifest_at_hand(digest) {
            return Some(manifest);
        }
        let key = Key::manifest(digest);
        let object = self.lookup(&key).await?;
        let file = object.file();
        let bytes = tokio::task::spawn_blocking(move || {
            use std::os::unix::fs::FileExt;
            let mut bytes = vec![0; usize::try_from(object.size()).unwrap_or(0)];
            file.read_exact_at(&mut bytes, 0).map(|()| bytes)
        })
        .await
        .ok()?
        .inspect_err(|e| warn!(%digest, error = %e, "a cached manifest cannot be read"))
        .ok()?;
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            warn!(%digest, "a cached manifest was damaged; it is fetched anew");
            self.space.remove_at_once(vec![key]).await;
            return None;
        }
        if self.index.children(&key).is_none() {
            let children = Children::parse(&bytes);
            self.index.set_children(digest, &children).await;
        }
        let media_type = match self.index.object(&key) {
            Some(info) if !info.media_type.is_empty() => info.media_type,
            _ => crate::oci::manifest::sniff(&bytes)?,
        };
        let manifest = Manifest {
            digest: digest.clone(),
            media_type: media_type.into(),
            bytes: bytes.into(),
        };
        self.hold(&manifest);
        Some(manifest)
    }

    /// Keeps a manifest whose bytes were verified to be `manifest.digest`. A full disk only means
    /// that it is asked for again.
    pub async fn keep_manifest(self: &Arc<Self>, manifest: &Manifest) {
        let (cache, manifest) = (self.clone(), manifest.clone());
        // In a task of its own: a caller that is cut off must not leave it half kept.
        let _ = tokio::spawn(async move { cache.keep_manifest_now(&manifest).await }).await;
    }

    async fn keep_manifest_now(&self, manifest: &Manifest) {
        let _turn = self.turns.take(manifest.digest.to_string()).await;
        if self.manifests.contains_key(&manifest.digest)
            && self
                .lookup(&Key::manifest(&manifest.digest))
                .await
                .is_some()
        {
            // What was said of it until now is to outlive a crash as if it had come now.
            let _ = self.index.flush().await;
            return;
        }
        let kept = async {
            let size = manifest.bytes.len() as u64;
            let room = self
                .space
                .reserve(size)
                .await
                .map_err(|e| io::Error::other(e.to_string()))?;
            let store = self.store.clone();
            let (key, bytes) = (Key::manifest(&manifest.digest), manifest.bytes.clone());
            let spool = tokio::task::spawn_blocking(move || {
                let mut spool = store.spool(&key)?;
                spool.restart()?;
                match spool.append(&[bytes]) {
                    Ok(()) => Ok(spool),
                    Err(e) => {
                        spool.discard();
                        Err(e)
                    }
                }
            })
            .await
            .map_err(io::Error::other)??;
            let media_type = manifest.media_type.to_string();
            self.keep(spool, &Key::manifest(&manifest.digest), room, media_type)
                .await
        };
        match kept.await {
            Ok(()) => {
                let children = Children::parse(&manifest.bytes);
                self.index.set_children(&manifest.digest, &children).await;
                self.hold(manifest);
            }
            Err(e) => warn!(digest = %manifest.digest, error = %e, "a manifest could not be kept"),
        }
    }

    /// The download of `digest` that is under way, if any.
    pub fn flight(&self, digest: &Digest) -> Option<Arc<Flight>> {
        self.flights().get(digest).cloned()
    }

    /// Whether the blob is here, or on its way. Nothing is looked at, nor counted as a use.
    pub fn has_or_fetches(&self, digest: &Digest) -> bool {
        self.index.object(&Key::blob(digest)).is_some() || self.flight(digest).is_some()
    }

    /// Counts a download that nobody had asked for yet.
    pub fn looked_ahead(&self) {
        self.metrics.lookaheads.inc();
    }

    /// Joins the download of `digest`, or begins it with `source`; the answer's second half says
    /// whether this call began it. `member` is remembered once upstream has answered `source` with
    /// bytes: that the blob is in the repository that was asked.
    pub fn download(
        self: &Arc<Self>,
        digest: &Digest,
        member: Vec<u8>,
        source: Arc<dyn Origin>,
    ) -> (Arc<Flight>, bool) {
        let mut flights = self.flights();
        if let Some(flight) = flights.get(digest) {
            return (flight.clone(), false);
        }
        let flight = Flight::new(digest.clone(), member, source, self.metrics.clone());
        flights.insert(digest.clone(), flight.clone());
        drop(flights);
        let span = info_span!(target: spans::TARGET, "download", pierhead.digest = %digest);
        tokio::spawn(self.clone().run_download(flight.clone()).instrument(span));
        (flight, true)
    }

    /// Downloads under way, the oldest first.
    pub fn downloads(&self) -> Vec<DownloadView> {
        let mut views: Vec<DownloadView> = self.flights().values().map(|f| f.view()).collect();
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
        let waits = || self.flights().values().any(|flight| flight.is_verified());
        let until = Instant::now() + limit;
        while waits() && Instant::now() < until {
            tokio::time::sleep(A_MOMENT).await;
        }
    }

    /// How many downloads are under way.
    pub fn flights_under_way(&self) -> usize {
        self.flights().len()
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

    /// A process may have died with a download complete and not yet in place; `room` is what its bytes
    /// have.
    async fn revive(&self, digest: &Digest, room: Reservation) {
        let (store, key) = (self.store.clone(), Key::blob(digest));
        let opened = tokio::task::spawn_blocking(move || store.spool(&key)).await;
        let Ok(Ok(spool)) = opened else {
            self.remove_partial(digest).await;
            return;
        };
        let size = spool.written();
        if spool.verify().is_err() {
            self.space.park(digest.clone(), room, size);
            return;
        }
        info!(%digest, size, "a download that was complete when the process died is put in place");
        if let Err(e) = self
            .keep(spool, &Key::blob(digest), room, String::new())
            .await
        {
            warn!(%digest, error = %e, "a verified blob could not be kept");
        }
    }

    async fn remove_partial(&self, digest: &Digest) {
        let (store, key) = (self.store.clone(), Key::blob(digest));
        let removed = tokio::task::spawn_blocking(move || store.remove_partial(&key)).await;
        if let Ok(Err(e)) = removed {
            warn!(%digest, error = %e, "what is left of a download cannot be removed");
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
        if self.flights().remove(digest).is_some() {
            self.metrics.downloads_active.dec();
            self.metrics.live.ring();
        }
    }

    fn flights(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Flight>>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles what the last process left; to be done before the first request. As long as that
    /// process had downloads under way, not as long as the cache is large; what takes longer goes on in
    /// the background.
    pub async fn settle(self: &Arc<Self>) {
        self.settle_partials().await;
        let cache = self.clone();
        tokio::spawn(async move {
            if cache.index.wants_rebuild() {
                cache.count().await;
            }
            if cache.index.wants_to_learn() {
                cache.learn_children().await;
            }
            cache.protect().await;
        });
    }

    /// Finds out what the objects take, where no index says so.
    async fn count(&self) {
        let store = self.store.clone();
        let counted = tokio::task::spawn_blocking(move || {
            let mut bytes = 0u64;
            store.walk(|_, size, _| {
                bytes = bytes.saturating_add(index::on_disk(size));
                true
            })?;
            Ok::<_, io::Error>(bytes)
        });
        match counted.await {
            Ok(Ok(bytes)) => self.space.count(bytes),
            Ok(Err(e)) => {
                warn!(error = %e, "the cache directory cannot be walked; until the next start nothing is kept");
            }
            Err(_) => {}
        }
    }

    /// Finds out what the pinned images protect.
    async fn protect(&self) {
        self.index.begin_to_protect().await;
        let index = self.index.clone();
        let _ = tokio::task::spawn_blocking(move || index.protect()).await;
    }

    /// Reads from every manifest that an older version kept what it refers to.
    async fn learn_children(&self) {
        let index = self.index.clone();
        let listed = tokio::task::spawn_blocking(move || index.unlearnt()).await;
        for key in listed.unwrap_or_default() {
            self.learn(&key).await;
        }
        let _ = self.index.learnt().await;
    }

    async fn learn(&self, key: &Key) {
        let (store, at) = (self.store.clone(), key.clone());
        let read = tokio::task::spawn_blocking(move || {
            use std::io::Read;
            let mut bytes = Vec::new();
            match store.open_object(&at) {
                Ok(Some((mut file, _))) => file.read_to_end(&mut bytes).map(|_| bytes),
                Ok(None) => Ok(bytes),
                Err(e) => Err(e),
            }
        });
        match read.await {
            Ok(Ok(bytes)) => {
                let children = Children::parse(&bytes);
                self.index.set_children(&key.digest, &children).await;
            }
            Ok(Err(e)) => warn!(digest = %key.digest, error = %e, "a manifest cannot be read"),
            Err(_) => {}
        }
    }

    async fn settle_partials(&self) {
        let store = self.store.clone();
        let partials = match tokio::task::spawn_blocking(move || store.partials()).await {
            Ok(Ok(partials)) => partials,
            Ok(Err(e)) => return warn!(error = %e, "broken downloads cannot be listed"),
            Err(_) => return,
        };
        for Partial { key, left } in partials {
            match left {
                Left::Broken(size) if key.kind == Kind::Blob && size > 0 => {
                    self.space.park_found(key.digest, size);
                }
                Left::Broken(_) => drop(self.store.remove_partial(&key)),
                Left::Placed => {
                    if self.index.object(&key).is_none() {
                        self.judge(&key).await;
                    }
                    let _ = self.store.settle(&key);
                }
                Left::TakenOut => {
                    if self.index.object(&key).is_some()
                        && self.index.remove(vec![key.clone()]).await.is_err()
                    {
                        continue;
                    }
                    let _ = self.store.settle(&key);
                }
            }
        }
    }

    /// Finds every object again, while requests are served already. Answers whether all were.
    async fn rebuild(&self) -> bool {
        let mut lost_again = self.index.lost_again();
        let (found, mut objects) = tokio::sync::mpsc::channel(1024);
        let store = self.store.clone();
        let walk = tokio::task::spawn_blocking(move || {
            store.walk(|key, size, used| found.blocking_send((key, size, used)).is_ok())
        });
        let mut count = 0u64;
        while let Some((key, size, used)) = objects.recv().await {
            if self.index.object(&key).is_none() {
                self.adopt(key, size, micros(used)).await;
                count += 1;
            }
        }
        match walk.await {
            Ok(Ok(())) if !lost_again() => {
                let written = self.index.walked().await;
                let _ = self.index.learnt().await;
                if count > 0 {
                    info!(count, "the cache index was rebuilt from the files");
                }
                written.is_ok()
            }
            Ok(Ok(())) | Err(_) => false,
            Ok(Err(e)) => {
                warn!(error = %e, "the cache directory cannot be walked");
                false
            }
        }
    }

    /// Hashes a file about which the index says nothing, or something else: it is made known, or it
    /// goes.
    async fn judge(&self, key: &Key) {
        // One hashes it; the others wait for the verdict.
        let _turn = self.turns.take(format!("judge {}", key.digest)).await;
        let (store, hashed) = (self.store.clone(), key.clone());
        let judged = tokio::task::spawn_blocking(move || {
            let right = store.verify(&hashed)?;
            let here = store.open_object(&hashed)?.is_some();
            Ok::<_, io::Error>((right, here))
        });
        match judged.await {
            Ok(Ok((Some(size), _))) => {
                self.adopt(key.clone(), size, index::now_micros()).await;
                // Whoever waits finds it known.
                let _ = self.index.flush().await;
            }
            Ok(Ok((None, true))) => {
                warn!(digest = %key.digest, "a cached file was damaged; it is fetched anew");
                self.space.remove_at_once(vec![key.clone()]).await;
            }
            Ok(Ok((None, false))) => {}
            Ok(Err(e)) if e.raw_os_error() == Some(EIO) => {
                warn!(digest = %key.digest, error = %e, "a cached file cannot be read; it is fetched anew");
                self.space.remove_at_once(vec![key.clone()]).await;
            }
            Ok(Err(e)) => warn!(digest = %key.digest, error = %e, "a cached file cannot be read"),
            Err(_) => {}
        }
    }

    async fn adopt(&self, key: Key, size: u64, last_use: u64) {
        self.index.adopt(key.clone(), size, last_use).await;
        if key.kind == Kind::Manifest {
            self.learn(&key).await;
        }
    }
}

/// Since the epoch, and never later than now.
fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    micros.min(index::now_micros())
}

const A_MOMENT: Duration = Duration::from_millis(5);
/// Connections that all downloads together may have beyond one each.
const MORE_CONNECTIONS: usize = 32;
/// Bytes of manifests kept in memory.
const MANIFEST_MEMORY: u64 = 64 << 20;
const PRUNE_EVERY: Duration = Duration::from_secs(3600);
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// A broken download waits this long for somebody to resume it.
const PARKED_FOR: Duration = Duration::from_secs(3600);
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();
/// By how much a clock may be corrected without having jumped.
const CLOCK_SLACK: Duration = Duration::from_secs(300);
