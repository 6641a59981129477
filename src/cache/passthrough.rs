//! A blob that the disk cannot hold goes from upstream to its client, verified on the way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use super::origin::{Backoff, FetchError, Fetched, Origin, Part, WORTHWHILE, retry_after};
use super::sync::{sleep, spawn_blocking};
use crate::oci::digest::{Digest, Hasher};
use crate::wire::body::Body;

/// One client's own way upstream. Breaks are resumed; the last chunk is held back until the digest
/// verified, wherever the client reads from the first byte to the last. A part of a blob cannot be
/// verified by itself and passes as upstream sent it.
pub struct Passthrough {
    origin: Arc<dyn Origin>,
    digest: Digest,
    at: u64,
    end: Option<u64>,
    hasher: Option<Hasher>,
    body: Option<Body>,
    skip: u64,
    held: Option<Bytes>,
    done: bool,
    patience: Backoff,
    /// Where it last broke.
    broke_at: u64,
}

/// What a client has read of a blob so far: `file` up to `until`, and the bytes behind that.
pub(super) struct Had {
    pub file: Arc<File>,
    pub until: u64,
    pub fresh: Vec<Bytes>,
}

// === impl Passthrough ===

impl Passthrough {
    /// From `start` up to `end` (exclusive); `whole` says that this is all of the blob.
    pub fn begin(
        origin: Arc<dyn Origin>,
        digest: Digest,
        start: u64,
        end: Option<u64>,
        whole: bool,
    ) -> Self {
        let hasher = (start == 0 && whole).then(|| Hasher::new(digest.algorithm()));
        Self {
            origin,
            digest,
            at: start,
            end,
            hasher,
            body: None,
            skip: 0,
            held: None,
            done: false,
            patience: Backoff::new(TRIES),
            broke_at: start,
        }
    }

    /// Takes an answer that is here already, from the first byte on.
    pub fn with(mut self, fetched: Fetched) -> Self {
        self.skip = self.at.saturating_sub(fetched.start);
        self.body = Some(fetched.body);
        self
    }

    /// Goes on at `at` for a client that has `had` what is before that.
    pub(super) async fn resume(
        origin: Arc<dyn Origin>,
        digest: Digest,
        had: Had,
        at: u64,
        end: Option<u64>,
        whole: bool,
    ) -> io::Result<Self> {
        let algorithm = digest.algorithm();
        let hasher = spawn_blocking(move || {
            let mut hasher = Hasher::new(algorithm);
            let mut chunk = vec![0; 1 << 20];
            let mut done = 0;
            while done < had.until {
                let left = had.until - done;
                let want = usize::try_from(left).map_or(chunk.len(), |n| n.min(chunk.len()));
                let n = had.file.read_at(&mut chunk[..want], done)?;
                if n == 0 {
                    break;
                }
                hasher.update(&chunk[..n]);
                done += n as u64;
            }
            for bytes in &had.fresh {
                hasher.update(bytes);
                done += bytes.len() as u64;
            }
            // Of a range ahead of what came there is nothing to verify it by.
            Ok::<_, io::Error>((done == at).then_some(hasher))
        })
        .await
        .map_err(io::Error::other)??;
        let mut passing = Self::begin(origin, digest, at, end, false);
        // A part that ends before the blob does has nothing to be verified by.
        passing.hasher = hasher.filter(|_| whole);
        Ok(passing)
    }

    pub fn into_body(self) -> Body {
        let chunks = stream::unfold(Some(self), |passing| async {
            let mut passing = passing?;
            match passing.next().await {
                Ok(None) => None,
                Ok(Some(chunk)) => Some((Ok(Frame::data(chunk)), Some(passing))),
                Err(e) => Some((Err(e), None)),
            }
        });
        StreamBody::new(chunks).boxed_unsync()
    }

    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        while !self.done {
            if self.end.is_some_and(|end| self.at >= end) {
                return self.finish();
            }
            let Some(chunk) = self.receive().await? else {
                return self.finish();
            };
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&chunk);
            }
            self.at += chunk.len() as u64;
            if let Some(before) = self.held.replace(chunk) {
                return Ok(Some(before));
            }
        }
        Ok(None)
    }

    fn finish(&mut self) -> io::Result<Option<Bytes>> {
        self.done = true;
        if let Some(hasher) = self.hasher.take() {
            let actual = hasher.finish();
            if actual != self.digest {
                tracing::warn!(digest = %self.digest, received = %actual, "upstream sent other bytes than the digest says; cut short");
                return Err(io::Error::other(format!(
                    "asked for {}, received {actual}",
                    self.digest
                )));
            }
        }
        Ok(self.held.take())
    }

    /// The next bytes in order, over as many connections as it takes; `None` at upstream's end.
    async fn receive(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let Some(body) = &mut self.body else {
                match self.origin.fetch(Part::from(self.at)).await {
                    Ok(fetched) if fetched.start <= self.at => {
                        self.skip = self.at - fetched.start;
                        self.end = self.end.or(fetched.total);
                        self.body = Some(fetched.body);
                    }
                    Ok(_) => self.pause(None, "upstream left bytes out".into()).await?,
                    Err(FetchError::PastTheEnd { .. }) => return Ok(None),
                    Err(error) => {
                        let message = error.to_string();
                        self.pause(Some(&error), message).await?;
                    }
                }
                continue;
            };
            match body.frame().await {
                Some(Ok(frame)) => {
                    let Ok(mut data) = frame.into_data() else {
                        continue;
                    };
                    let drop = usize::try_from(self.skip).map_or(data.len(), |n| n.min(data.len()));
                    self.skip -= drop as u64;
                    let mut data = data.split_off(drop);
                    if let Some(end) = self.end {
                        let left =
                            usize::try_from(end.saturating_sub(self.at)).unwrap_or(usize::MAX);
                        data.truncate(left);
                    }
                    if data.is_empty() {
                        continue;
                    }
                    if self.at + data.len() as u64 >= self.broke_at + WORTHWHILE {
                        self.patience.progress();
                    }
                    return Ok(Some(data));
                }
                Some(Err(e)) => {
                    self.body = None;
                    self.pause(None, e.to_string()).await?;
                }
                None => {
                    self.body = None;
                    match self.end {
                        Some(end) if self.at < end => {
                            self.pause(None, "upstream closed before the end".into())
                                .await?;
                        }
                        _ => return Ok(None),
                    }
                }
            }
        }
    }

    async fn pause(&mut self, error: Option<&FetchError>, message: String) -> io::Result<()> {
        if error.is_some_and(|error| !error.may_pass()) {
            return Err(io::Error::other(message));
        }
        let Some(wait) = self.patience.wait() else {
            return Err(io::Error::other(message));
        };
        self.broke_at = self.at;
        let asked = error.map_or(std::time::Duration::ZERO, retry_after);
        sleep(wait.max(asked)).await;
        Ok(())
    }
}

const TRIES: u32 = 8;
