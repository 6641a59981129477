//! The answers of one HTTP/2 connection that wait for their client.
//!
//! HTTP/2 has its own windows: a client that opens none keeps what was read for it, and the socket shows
//! nothing of it, because a PING now and then moves bytes.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::body::Body;

/// Since when each answer of a connection has waited for its client.
#[derive(Clone, Debug)]
pub struct Streams {
    born: Instant,
    /// Milliseconds after birth; [`NOT_WAITING`] while the answer waits for its source.
    since: Arc<Mutex<Vec<Arc<AtomicU64>>>>,
}

/// An answer on its way.
struct Watched {
    inner: Body,
    streams: Streams,
    since: Arc<AtomicU64>,
}

// === impl Streams ===

impl Streams {
    /// Of a connection that begins now.
    pub fn begin() -> Self {
        Self {
            born: Instant::now(),
            since: Arc::default(),
        }
    }

    /// Since when the answer has waited that waits longest for its client to take what was read for it;
    /// `None` while none does.
    pub fn waiting_since(&self) -> Option<Instant> {
        let since = self
            .all()
            .iter()
            .map(|since| since.load(Ordering::Relaxed))
            .min()?;
        (since != NOT_WAITING).then(|| self.born + Duration::from_millis(since))
    }

    /// Notes when parts of `body` are taken.
    pub fn watch(&self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let since = Arc::new(AtomicU64::new(self.now()));
        self.all().push(since.clone());
        Watched {
            inner: body,
            streams: self.clone(),
            since,
        }
        .boxed_unsync()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(NOT_WAITING)
    }

    fn all(&self) -> std::sync::MutexGuard<'_, Vec<Arc<AtomicU64>>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Watched ===

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        let since = match polled {
            Poll::Ready(_) => self.streams.now(),
            Poll::Pending => NOT_WAITING,
        };
        self.since.store(since, Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let mut all = self.streams.all();
        if let Some(at) = all.iter().position(|since| Arc::ptr_eq(since, &self.since)) {
            all.swap_remove(at);
        }
    }
}

const NOT_WAITING: u64 = u64::MAX;
