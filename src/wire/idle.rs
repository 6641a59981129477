//! A body that may not fall silent for ever.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// Fails with [`io::ErrorKind::TimedOut`] when the inner body is asked for a frame and sends none
/// for `limit`. The clock runs only while somebody waits, so a slow reader is not its fault.
pub struct Idle<B> {
    inner: Pin<Box<B>>,
    limit: Duration,
    waiting: bool,
    timer: Pin<Box<Sleep>>,
    what: &'static str,
}

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
