//! Manifests: small, asked for often, and therefore in memory once they were read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tracing::warn;

use super::{Cache, index};
use crate::oci::digest::Digest;
use crate::oci::manifest::{self, Children};
use crate::store::Key;

/// A cached manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: Arc<str>,
    pub bytes: Bytes,
}

/// A manifest in memory.
#[derive(Debug)]
pub(super) struct AtHand {
    manifest: Manifest,
    /// When the index last heard of a use, in seconds since the epoch.
    touched: AtomicU64,
}

/// What was read before, as far as there is room for it.
pub(super) type AtHands = moka::sync::Cache<Digest, Arc<AtHand>>;

pub(super) fn none_at_hand() -> AtHands {
    moka::sync::Cache::builder()
        .max_capacity(MANIFEST_MEMORY)
        .weigher(|_, at_hand: &Arc<AtHand>| {
            u32::try_from(at_hand.manifest.bytes.len() + 256).unwrap_or(u32::MAX)
        })
        .build()
}

// === impl Cache ===

impl Cache {
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
            _ => manifest::sniff(&bytes)?,
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
}

/// Bytes of manifests kept in memory.
const MANIFEST_MEMORY: u64 = 64 << 20;
