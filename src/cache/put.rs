//! A blob that comes from elsewhere than a registry: an import.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::Cache;
use super::space::NoSpace;
use crate::oci::digest::Digest;
use crate::store::Key;

/// Why a blob could not be put.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    #[error(transparent)]
    NoRoom(#[from] NoSpace),
    #[error("{digest} cannot be read: {source}")]
    Read { digest: Digest, source: io::Error },
    #[error("{digest} is said to have {expected} bytes and has {more_or_less}")]
    Size {
        digest: Digest,
        expected: u64,
        more_or_less: String,
    },
    #[error("the bytes that came for {expected} are {actual}")]
    Mismatch { expected: Digest, actual: Digest },
    #[error("{digest} cannot be written: {source}")]
    Write { digest: Digest, source: io::Error },
}

// === impl Cache ===

impl Cache {
    /// Keeps a blob of `size` bytes, verified. `Ok(false)`: it is here already, and nothing was read.
    pub async fn put_blob(
        self: &Arc<Self>,
        digest: &Digest,
        size: u64,
        mut from: impl AsyncRead + Unpin,
    ) -> Result<bool, PutError> {
        if self.blob(digest).await.is_some() {
            return Ok(false);
        }
        let write = |source| PutError::Write {
            digest: digest.clone(),
            source,
        };
        let wrong_size = |more_or_less: String| PutError::Size {
            digest: digest.clone(),
            expected: size,
            more_or_less,
        };
        let mut room = self.space.reserve(size).await?;
        let (store, algorithm) = (self.store.clone(), digest.algorithm());
        let mut upload = blocking(move || store.upload(algorithm))
            .await
            .map_err(write)?;
        loop {
            let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
            while chunk.len() < CHUNK {
                let read = from.read_buf(&mut chunk).await;
                match read.map_err(|source| PutError::Read {
                    digest: digest.clone(),
                    source,
                })? {
                    0 => break,
                    _ => continue,
                }
            }
            let (chunk, last) = (chunk.split().freeze(), upload.written());
            if chunk.is_empty() {
                break;
            }
            if last + chunk.len() as u64 > size {
                return Err(wrong_size("more".to_owned()));
            }
            upload = blocking(move || upload.append(&chunk).map(|()| upload))
                .await
                .map_err(write)?;
            room.wrote(upload.written());
        }
        if upload.written() != size {
            return Err(wrong_size(upload.written().to_string()));
        }
        // Whoever downloads the same writes to the file that this one takes the name of.
        while let Some(flight) = self.flight(digest) {
            let _ = flight.finished().await;
            // It is right by now, and only being put in place.
            tokio::time::sleep(MOMENT).await;
        }
        let _turn = self.turns.take(digest.to_string()).await;
        if self.blob(digest).await.is_some() {
            return Ok(false);
        }
        self.space.drop_parked(digest);
        let key = Key::blob(digest);
        let spool = blocking(move || upload.named(&key)).await.map_err(write)?;
        if let Err(mismatch) = spool.verify() {
            spool.discard();
            return Err(PutError::Mismatch {
                expected: digest.clone(),
                actual: mismatch.actual,
            });
        }
        self.keep(spool, &Key::blob(digest), room, String::new())
            .await
            .map_err(write)?;
        Ok(true)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

const CHUNK: usize = 1 << 20;
const MOMENT: Duration = Duration::from_millis(10);
