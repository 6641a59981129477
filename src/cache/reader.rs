//! The bytes of a blob, read at a client's own pace from a finished or a growing file.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use rustix::io::ReadWriteFlags;
use tokio::sync::watch;

use super::flight::{End, Failure, Follower, State};
use super::open::Object;
use super::origin::Origin;
use super::passthrough::Passthrough;
use crate::oci::digest::Digest;
use crate::wire::body::Body;
use crate::wire::buffer::Buffer;

/// A part of a blob on its way to one client.
pub struct Reader {
    /// `None` once the bytes come from upstream.
    file: Option<Arc<File>>,
    at: u64,
    /// Exclusive; `None` until a blob of unknown size has ended.
    end: Option<u64>,
    source: Source,
}

enum Source {
    /// Complete; held open so that it is not evicted.
    Complete {
        object: Object,
    },
    Growing {
        digest: Digest,
        state: watch::Receiver<State>,
        own: Arc<dyn Origin>,
        /// Counted among the download's followers as long as this lives.
        _counted: Follower,
    },
    Passing(Box<Passthrough>),
}

// === impl Reader ===

impl Reader {
    /// Reads `start..end` (exclusive) of a complete object.
    pub fn complete(object: Object, start: u64, end: u64) -> Self {
        Self {
            file: Some(object.file()),
            at: start,
            end: Some(end.min(object.size())),
            source: Source::Complete { object },
        }
    }

    pub(super) fn following(
        digest: Digest,
        file: Arc<File>,
        state: watch::Receiver<State>,
        start: u64,
        end: Option<u64>,
        own: Arc<dyn Origin>,
        counted: Follower,
    ) -> Self {
        Self {
            file: Some(file),
            at: start,
            end,
            source: Source::Growing {
                digest,
                state,
                own,
                _counted: counted,
            },
        }
    }

    /// The body that streams it. An error cuts the transfer short.
    pub fn into_body(self) -> Body {
        let chunks = stream::unfold(Some(self), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(None) => None,
                Ok(Some(chunk)) => Some((Ok(Frame::data(chunk)), Some(reader))),
                Err(e) => Some((Err(e), None)),
            }
        });
        StreamBody::new(chunks).boxed_unsync()
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let ready = match &mut self.source {
            Source::Complete { .. } => self.end.unwrap_or(self.at),
            Source::Passing(passing) => return passing.next().await,
            Source::Growing { state, .. } => match readable(state, self.at, self.end).await {
                Ready::Until(ready) => ready,
                Ready::Ended(total) => {
                    self.end = Some(self.end.map_or(total, |end| end.min(total)));
                    self.end.unwrap_or(total)
                }
                Ready::Failed(Failure::NoRoom(_)) => return self.go_on_alone().await,
                Ready::Failed(failure) => return Err(io::Error::other(failure)),
            },
        };
        if self.at >= ready {
            return Ok(None);
        }
        let Some(file) = &self.file else {
            return Ok(None);
        };
        let chunk = read(file, self.at, ready).await;
        if let (Err(_), Source::Complete { object }) = (&chunk, &self.source) {
            // This client has to ask again, and must not get the same.
            object.suspect();
        }
        let chunk = chunk?;
        self.at += chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// The disk gave up: the rest comes from upstream, still verified where the whole is read.
    async fn go_on_alone(&mut self) -> io::Result<Option<Bytes>> {
        let (
            Source::Growing {
                digest, own, state, ..
            },
            Some(file),
        ) = (&self.source, self.file.clone())
        else {
            return Ok(None);
        };
        let total = state.borrow().total;
        let end = self.end.or(total);
        let mut passing = Passthrough::resume(
            own.clone(),
            digest.clone(),
            file,
            self.at,
            end,
            end == total,
        )
        .await?;
        let first = passing.next().await;
        // The disk is full: the space of the file must not wait for this client.
        self.file = None;
        self.source = Source::Passing(Box::new(passing));
        first
    }
}

enum Ready {
    /// Bytes up to here may go out now.
    Until(u64),
    /// Verified: all of it may, and the blob has this many bytes.
    Ended(u64),
    Failed(Failure),
}

/// Waits until something beyond `at` may go out. The last [`HELD_BACK`] bytes of what was asked for
/// stay until the digest verified, so that nobody takes wrong bytes for complete.
async fn readable(state: &mut watch::Receiver<State>, at: u64, end: Option<u64>) -> Ready {
    loop {
        {
            let now = state.borrow_and_update();
            match &now.end {
                Some(End::Verified) => return Ready::Ended(now.written),
                Some(End::Failed(failure)) => return Ready::Failed(failure.clone()),
                None => {}
            }
            let ready = match end.or(now.total) {
                Some(end) => now.written.min(end.saturating_sub(HELD_BACK)),
                None => now.written.saturating_sub(HELD_BACK),
            };
            if ready > at {
                return Ready::Until(ready);
            }
        }
        if state.changed().await.is_err() {
            return Ready::Failed(Failure::Gone(super::origin::Gone {
                message: "the download was given up".into(),
                timeout: false,
                retry: true,
            }));
        }
    }
}

/// Reads up to [`Buffer::SIZE`] bytes at `at`: from the page cache without leaving the thread, else on
/// a thread that may wait for the disk.
async fn read(file: &Arc<File>, at: u64, end: u64) -> io::Result<Bytes> {
    let len = usize::try_from(end - at).map_or(Buffer::SIZE, |left| left.min(Buffer::SIZE));
    let mut buffer = Buffer::take();
    match rustix::io::preadv2(
        file,
        &mut [IoSliceMut::new(&mut buffer.bytes()[..len])],
        at,
        ReadWriteFlags::NOWAIT,
    ) {
        Ok(n) if n > 0 => return Ok(buffer.filled(n)),
        // Not in memory, or a file system that knows no NOWAIT.
        _ => {}
    }
    let file = file.clone();
    let (buffer, n) = tokio::task::spawn_blocking(move || {
        let n = file.read_at(&mut buffer.bytes()[..len], at)?;
        Ok::<_, io::Error>((buffer, n))
    })
    .await
    .map_err(io::Error::other)??;
    if n == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "a cached file is shorter than it was",
        ));
    }
    Ok(buffer.filled(n))
}

/// Bytes.
pub(super) const HELD_BACK: u64 = 16 << 10;
