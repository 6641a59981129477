//! A body that may not fall silent for ever.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep};

use super::body::Body;

/// Measures the silence between the parts of a body that is being sent.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Mutex<Instant>>);

/// Fails with [`io::ErrorKind::TimedOut`] when the inner body is asked for a frame and sends none
/// for `limit`. The clock runs only while somebody waits, so a slow reader is not its fault.
pub struct Idle<B> {
    inner: Pin<Box<B>>,
    limit: Duration,
    waiting: bool,
    timer: Pin<Box<Sleep>>,
    what: &'static str,
}

// === impl Progress ===

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Progress {
    /// Notes every part of `body` that is taken.
    pub fn watch(&self, body: Body) -> Body {
        if body.is_end_stream() {
            return body;
        }
        let progress = self.clone();
        body.map_frame(move |frame| {
            *progress.last() = Instant::now();
            frame
        })
        .boxed_unsync()
    }

    /// Waits for `answer` until nothing was taken for `limit`; the error is that it was.
    pub async fn within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = T>,
    ) -> Result<T, ()> {
        tokio::pin!(answer);
        loop {
            let deadline = *self.last() + limit;
            tokio::select! {
                answer = &mut answer => return Ok(answer),
                () = tokio::time::sleep_until(deadline) => {
                    if *self.last() + limit <= Instant::now() {
                        return Err(());
                    }
                }
            }
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Idle ===

impl<B> Idle<B> {
    /// Wraps `inner`; `what` names the silent party in the error.
    pub fn new(inner: B, limit: Duration, what: &'static str) -> Self {
        Self {
            inner: Box::pin(inner),
            limit,
            waiting: false,
            timer: Box::pin(tokio::time::sleep(limit)),
            what,
        }
    }
}

impl<B> HttpBody for Idle<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.inner.as_mut().poll_frame(cx) {
            Poll::Ready(frame) => {
                self.waiting = false;
                Poll::Ready(frame.map(|f| f.map_err(io::Error::other)))
            }
            Poll::Pending => {
                if !self.waiting {
                    self.waiting = true;
                    let deadline = Instant::now() + self.limit;
                    self.timer.as_mut().reset(deadline);
                }
                match self.timer.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Some(Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("{} sent nothing for {:?}", self.what, self.limit),
                    )))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
