//! What is pushed through the gateway is copied as it passes, to be in the cache at once.

use std::sync::Arc;

use bytes::Bytes;
use tracing::{debug, warn};

use super::Cache;
use super::space::Reservation;
use crate::oci::digest::{Algorithm, Digest};
use crate::store::{Key, Upload};

/// An upload's bytes so far. Where the disk does not take them the push goes on without.
#[derive(Debug)]
pub struct Capture {
    upload: Option<Upload>,
    room: Reservation,
}

// === impl Capture ===

impl Capture {
    /// Copies the next bytes.
    pub async fn append(&mut self, chunk: Bytes) {
        let Some(mut upload) = self.upload.take() else {
            return;
        };
        let wanted = upload.written() + chunk.len() as u64;
        if wanted > self.room.bytes()
            && let Err(e) = self.room.grow(wanted + STEP).await
        {
            debug!(error = %e, "a push is not copied into the cache");
            return;
        }
        let written = tokio::task::spawn_blocking(move || {
            let result = upload.append(&chunk);
            (upload, result)
        })
        .await;
        match written {
            Ok((upload, Ok(()))) => {
                self.room.wrote(upload.written());
                self.upload = Some(upload);
            }
            Ok((_, Err(e))) => warn!(error = %e, "a push is not copied into the cache"),
            Err(_) => {}
        }
    }

    /// Forgets what was copied: it is not what upstream has.
    pub fn give_up(&mut self) {
        self.upload = None;
    }
}

// === impl Cache ===

impl Cache {
    /// Begins to copy an upload; `None` where the disk does not take it.
    pub async fn capture(self: &Arc<Self>) -> Option<Capture> {
        let room = self.space.reserve(0).await.ok()?;
        let store = self.store.clone();
        let upload = tokio::task::spawn_blocking(move || store.upload(Algorithm::Sha256)).await;
        match upload {
            Ok(Ok(upload)) => Some(Capture {
                upload: Some(upload),
                room,
            }),
            _ => None,
        }
    }

    /// Upstream has accepted the upload as `digest`: keeps it, if the copy is that too. `member` is the
    /// repository it was pushed to.
    pub async fn keep_pushed(
        self: &Arc<Self>,
        capture: Capture,
        digest: &Digest,
        member: Vec<u8>,
    ) -> bool {
        let (cache, digest) = (self.clone(), digest.clone());
        // In a task of its own: a client that leaves after its last byte has still pushed.
        let kept = tokio::spawn(async move {
            let Capture { upload, room } = capture;
            // Who has not shown the bytes is in the cache's debt: upstream decides at the next request.
            let Some(upload) = upload else { return false };
            let (size, key) = (upload.written(), Key::blob(&digest));
            let named = tokio::task::spawn_blocking(move || upload.named(&key));
            let spool = match named.await {
                Ok(Ok(spool)) => spool,
                Ok(Err(e)) => {
                    warn!(%digest, error = %e, "the copy of a push cannot be read");
                    return false;
                }
                Err(_) => return false,
            };
            if let Err(mismatch) = spool.verify() {
                warn!(%digest, received = %mismatch.actual, "upstream accepted a push whose copy is something else; the copy is dropped");
                spool.discard();
                return false;
            }
            // What a dead process left of it is looked at in a turn of its own.
            let here = cache.blob(&digest).await.is_some();
            let _turn = cache.turns.take(digest.to_string()).await;
            let here = here || cache.lookup(&Key::blob(&digest)).await.is_some();
            cache.note_member(member).await;
            if here || cache.flight(&digest).is_some() {
                spool.discard();
                return here;
            }
            cache.space.drop_parked(&digest);
            match cache
                .keep(spool, &Key::blob(&digest), room, String::new())
                .await
            {
                Ok(()) => {
                    debug!(%digest, size, "pushed, and in the cache");
                    true
                }
                Err(e) => {
                    warn!(%digest, error = %e, "a pushed blob could not be kept");
                    false
                }
            }
        });
        kept.await.unwrap_or(false)
    }
}

/// Room that is reserved at a time.
const STEP: u64 = 16 << 20;
