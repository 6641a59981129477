//! Every object hashed anew.

use std::sync::Arc;
use std::time::Instant;

use tracing::warn;

use crate::cache::Cache;
use crate::oci::digest::Digest;
use crate::store::Key;

/// One object was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Its bytes were not its digest's; it is gone.
    pub damaged: bool,
    /// Objects looked at so far, and all there were when it began.
    pub done: u64,
    pub of: u64,
}

/// What a whole pass found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub objects: u64,
    pub bytes: u64,
    /// Removed: to be fetched anew by whoever asks.
    pub damaged: Vec<Digest>,
    /// The index knew them, and the disk did not.
    pub missing: u64,
    /// They could not be read at this time.
    pub unreadable: u64,
}

// === impl Cache ===

impl Cache {
    /// Hashes every object, resting as long as it works, and removes those that are damaged.
    pub async fn verify(self: &Arc<Self>, progress: impl Fn(&Checked) + Send + Sync) -> Verified {
        let mut found = Verified::default();
        let of = self.index.counts().objects;
        let mut after: Option<Key> = None;
        loop {
            let from = after.clone();
            let listed = self
                .read(move |index| index.objects_after(from.as_ref(), BATCH))
                .await
                .unwrap_or_default();
            let Some((last, _)) = listed.last() else {
                return found;
            };
            after = Some(last.clone());
            for (key, size) in listed {
                let started = Instant::now();
                let damaged = self.check(&key, size, &mut found).await;
                progress(&Checked {
                    digest: key.digest,
                    size,
                    damaged,
                    done: found.objects,
                    of,
                });
                tokio::time::sleep(started.elapsed()).await;
            }
        }
    }

    async fn check(&self, key: &Key, size: u64, found: &mut Verified) -> bool {
        found.objects += 1;
        let (store, hashed) = (self.store.clone(), key.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let right = store.verify(&hashed)?;
            let here = store.open_object(&hashed)?.is_some();
            Ok::<_, std::io::Error>((right, here))
        });
        match looked.await {
            Ok(Ok((Some(bytes), _))) => found.bytes += bytes,
            // Evicted since it was listed, or by somebody else's hand.
            Ok(Ok((None, false))) => {
                if self.index.object(key).is_some() {
                    found.missing += 1;
                    self.take_out(vec![(key.clone(), size)]).await;
                }
            }
            Ok(Ok((None, true))) => {
                warn!(digest = %key.digest, "a cached file was damaged; it is removed");
                found.damaged.push(key.digest.clone());
                self.take_out(vec![(key.clone(), size)]).await;
                return true;
            }
            Ok(Err(e)) => {
                warn!(digest = %key.digest, error = %e, "a cached file cannot be read");
                found.unreadable += 1;
            }
            Err(_) => found.unreadable += 1,
        }
        false
    }
}

const BATCH: usize = 256;
