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

use super::flight::{End, Failure, Follower, State};
use super::fresh::Fresh;
use super::open::Object;
use super::origin::Origin;
use super::passthrough::{Had, Passthrough};
use super::sync::{spawn_blocking, watch};
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
        fresh: Arc<Fresh>,
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

    #[expect(clippy::too_many_arguments, reason = "the flight's own, one by one")]
    pub(super) fn following(
        digest: Digest,
        file: Arc<File>,
        fresh: Arc<Fresh>,
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
                fresh,
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
                Err(e) => {
                    // The connection ends with it, at once: what was written before, were it the head
                    // alone, leaves first. A short answer says more than none.
                    tokio::task::yield_now().await;
                    Some((Err(e), None))
                }
            }
        });
        StreamBody::new(chunks).boxed_unsync()
    }

    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut ready = match &mut self.source {
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
        if let Source::Growing { fresh, state, .. } = &self.source {
            if let Some(chunk) = fresh.get(self.at, ready) {
                self.at += chunk.len() as u64;
                return Ok(Some(chunk));
            }
            // It has gone from there because the file has it.
            ready = ready.min(state.borrow().written);
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
                digest,
                fresh,
                own,
                state,
                ..
            },
            Some(file),
        ) = (&self.source, self.file.clone())
        else {
            return Ok(None);
        };
        let (total, written) = {
            let state = state.borrow();
            (state.total, state.written)
        };
        let end = self.end.or(total);
        // What this client has had, as it had it.
        let mut behind = written.min(self.at);
        let mut had = Had {
            file,
            until: behind,
            fresh: Vec::new(),
        };
        while let Some(chunk) = fresh.get(behind, self.at) {
            behind += chunk.len() as u64;
            had.fresh.push(chunk);
        }
        let mut passing =
            Passthrough::resume(own.clone(), digest.clone(), had, self.at, end, end == total)
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
                Some(end) => now.shown.min(end.saturating_sub(HELD_BACK)),
                None => now.shown.saturating_sub(HELD_BACK),
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
    let left = end.saturating_sub(at);
    let mut buffer = Buffer::take();
    let most = buffer.bytes().len();
    let len = usize::try_from(left).map_or(most, |left| left.min(most));
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
    let (buffer, n) = spawn_blocking(move || {
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::super::sync::AtomicUsize;
    use super::*;
    use crate::cache::origin::{FetchError, Fetched, Part};
    use crate::oci::digest::Algorithm;
    use crate::telemetry::metrics::Metrics;
    use crate::wire::body;

    /// Has all of a blob.
    #[derive(Debug)]
    struct Has(Bytes);

    impl Origin for Has {
        fn fetch(&self, part: Part) -> BoxFuture<'_, Result<Fetched, FetchError>> {
            let bytes = self.0.slice(part.start as usize..);
            let fetched = Fetched {
                start: part.start,
                total: Some(self.0.len() as u64),
                body: body::full(bytes),
            };
            async move { Ok(fetched) }.boxed()
        }

        fn registry(&self) -> &str {
            "r.test"
        }

        fn repository(&self) -> &str {
            "app"
        }
    }

    struct World {
        blob: Bytes,
        fresh: Arc<Fresh>,
        state: watch::Sender<State>,
        file: Arc<File>,
    }

    impl World {
        /// A download of which nothing is in the file.
        fn new() -> Self {
            let blob: Bytes = (0..100_000u32).map(|n| (n % 251) as u8).collect();
            let state = State {
                headed: true,
                total: Some(blob.len() as u64),
                ..State::default()
            };
            Self {
                blob,
                fresh: Arc::default(),
                state: watch::Sender::new(state),
                file: Arc::new(tempfile::tempfile().unwrap()),
            }
        }

        fn came(&self, bytes: Bytes) {
            let end = bytes.len() as u64;
            self.fresh.push(0, bytes);
            self.state.send_modify(|state| state.shown = end);
        }

        fn reader(&self) -> Reader {
            Reader::following(
                Digest::of(Algorithm::Sha256, &self.blob),
                self.file.clone(),
                self.fresh.clone(),
                self.state.subscribe(),
                0,
                Some(self.blob.len() as u64),
                Arc::new(Has(self.blob.clone())),
                Follower::new(&Arc::new(AtomicUsize::new(0)), &Arc::new(Metrics::new())),
            )
        }
    }

    async fn rest(reader: &mut Reader) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(chunk) = reader.next().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    #[tokio::test]
    async fn the_first_bytes_do_not_wait_for_the_disk_and_the_last_for_the_digest() {
        let world = World::new();
        let mut reader = world.reader();
        world.came(world.blob.slice(..10_000));
        assert_eq!(reader.next().await.unwrap().unwrap(), world.blob[..10_000]);
        assert!(reader.next().now_or_never().is_none());
        world.came(world.blob.clone());
        let held = world.blob.len() - HELD_BACK as usize;
        let more = reader.next().await.unwrap().unwrap();
        assert_eq!(more, world.blob[10_000..held]);
        assert!(reader.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_a_client_had_before_the_disk_gave_up_is_verified_with_the_rest() {
        for wrong in [false, true] {
            let world = World::new();
            let mut reader = world.reader();
            let mut begun = world.blob[..50_000].to_vec();
            begun[7] ^= u8::from(wrong);
            world.came(begun.into());
            assert_eq!(reader.next().await.unwrap().unwrap().len(), 50_000);
            let end = Some(End::Failed(Failure::NoRoom("the disk is full".into())));
            world.state.send_modify(|state| state.end = end);
            match rest(&mut reader).await {
                Ok(rest) => assert!(!wrong && rest == world.blob[50_000..]),
                Err(_) => assert!(wrong),
            }
        }
    }

    #[tokio::test]
    async fn what_was_written_before_a_body_breaks_off_leaves_first() {
        let world = World::new();
        let gone = Failure::Gone(crate::cache::origin::Gone {
            message: "upstream is gone".into(),
            timeout: false,
            retry: true,
        });
        let end = Some(End::Failed(gone));
        world.state.send_modify(|state| state.end = end);
        let mut body = world.reader().into_body();
        assert!(body.frame().now_or_never().is_none(), "it breaks at once");
        assert!(body.frame().await.unwrap().is_err());
    }
}
