//! What a process left when it died, and what was found damaged: settled from the files.

use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::{info, warn};

use super::space::Reservation;
use super::{Cache, index};
use crate::oci::digest::Digest;
use crate::oci::manifest::Children;
use crate::store::{Key, Kind, Left, Partial};

// === impl Cache ===

impl Cache {
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

    /// A process may have died with a download complete and not yet in place; `room` is what its bytes
    /// have.
    pub(super) async fn revive(&self, digest: &Digest, room: Reservation) {
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

    pub(super) async fn remove_partial(&self, digest: &Digest) {
        let (store, key) = (self.store.clone(), Key::blob(digest));
        let removed = tokio::task::spawn_blocking(move || store.remove_partial(&key)).await;
        if let Ok(Err(e)) = removed {
            warn!(%digest, error = %e, "what is left of a download cannot be removed");
        }
    }

    /// Finds every object anew where the index was lost.
    pub async fn find_again(&self) {
        if self.index.wants_rebuild() {
            self.rebuild().await;
            self.protect().await;
        }
    }

    /// Finds every object again, while requests are served already. Answers whether all were.
    pub(super) async fn rebuild(&self) -> bool {
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
    pub(super) async fn protect(&self) {
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

    /// Hashes a file about which the index says nothing, or something else: it is made known, or it
    /// goes.
    pub(super) async fn judge(&self, key: &Key) {
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

    pub(super) async fn adopt(&self, key: Key, size: u64, last_use: u64) {
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

const EIO: i32 = rustix::io::Errno::IO.raw_os_error();
