//! A body that may not fall silent for ever, nor come in drops.

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
    /// Since when somebody waits.
    waiting: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    what: &'static str,
    floor: Option<Floor>,
}

/// How slow a body may be over all.
struct Floor {
    /// Bytes a second.
    rate: u64,
    received: u64,
    /// How long it was waited for, in all.
    waited: Duration,
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

    /// Waits for `answer` until nothing was taken for `limit` after it `began`, which others see to; the
    /// error is that it was.
    pub async fn within<T>(
        &self,
        limit: Duration,
        began: impl Future<Output = ()>,
        answer: impl Future<Output = T>,
    ) -> Result<T, ()> {
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => return Ok(answer),
            () = began => *self.last() = Instant::now(),
        }
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
            waiting: None,
            timer: Box::pin(tokio::time::sleep(limit)),
            what,
            floor: None,
        }
    }

    /// Fails as well when less than `rate` bytes came for every second that somebody waited, the
    /// limit aside: a byte now and then keeps nobody for ever.
    pub fn at_least(mut self, rate: u64) -> Self {
        self.floor = Some(Floor {
            rate,
            received: 0,
            waited: Duration::ZERO,
        });
        self
    }

    /// How long the next frame may take.
    fn allowed(&self) -> Duration {
        match &self.floor {
            None => self.limit,
            Some(floor) => {
                let earned = Duration::from_secs(floor.received / floor.rate);
                let left = (self.limit + earned).saturating_sub(floor.waited);
                left.min(self.limit)
            }
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
                let (since, limit) = (self.waiting.take(), self.limit);
                if let Some(floor) = &mut self.floor {
                    // Longer than that, nobody was there to take it.
                    let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
                    floor.waited += waited.min(limit);
                    let data = frame
                        .as_ref()
                        .and_then(|frame| frame.as_ref().ok()?.data_ref());
                    floor.received += data.map_or(0, |data| data.len() as u64);
                }
                Poll::Ready(frame.map(|f| f.map_err(io::Error::other)))
            }
            Poll::Pending => {
                if self.waiting.is_none() {
                    let now = Instant::now();
                    self.waiting = Some(now);
                    let deadline = now + self.allowed();
                    self.timer.as_mut().reset(deadline);
                }
                match self.timer.as_mut().poll(cx) {
                    Poll::Ready(()) => {
                        let allowed = self.allowed();
                        let message = match &self.floor {
                            Some(floor) if allowed < self.limit => {
                                format!(
                                    "{} sent less than {} bytes a second",
                                    self.what, floor.rate
                                )
                            }
                            _ => format!("{} sent nothing for {:?}", self.what, self.limit),
                        };
                        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, message))))
                    }
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

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::StreamBody;

    use super::*;

    /// `chunk` bytes every `apart`, for ever.
    fn dripping(chunk: usize, apart: Duration) -> impl HttpBody<Data = Bytes, Error = io::Error> {
        StreamBody::new(Box::pin(stream::unfold((), move |()| async move {
            tokio::time::sleep(apart).await;
            let data = Bytes::from(vec![0; chunk]);
            Some((Ok(Frame::data(data)), ()))
        })))
    }

    /// How many bytes came before it failed, within `most`; and when.
    async fn until_it_fails(
        mut body: impl HttpBody<Data = Bytes, Error = io::Error> + Unpin,
        most: usize,
    ) -> (usize, Duration) {
        let began = Instant::now();
        let mut came = 0;
        while came < most
            && let Some(Ok(frame)) = body.frame().await
        {
            came += frame.data_ref().map_or(0, Bytes::len);
        }
        (came, began.elapsed())
    }

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_keeps_nobody_waiting_for_ever() {
        let drops = dripping(1, Duration::from_secs(1));
        let body = Idle::new(drops, LIMIT, "upstream").at_least(1024);
        let (came, took) = until_it_fails(body, 1 << 20).await;
        assert!(came < 40 && took.as_secs() <= 31, "{came} in {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_slow_and_steady_arrives() {
        let slow = dripping(25 << 10, Duration::from_secs(20));
        let body = Idle::new(slow, LIMIT, "upstream").at_least(1024);
        let (came, _) = until_it_fails(body, 1 << 20).await;
        assert!(came >= 1 << 20, "{came}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_floor_may_drip() {
        let body = Idle::new(dripping(1, Duration::from_secs(20)), LIMIT, "upstream");
        assert_eq!(until_it_fails(body, 500).await.0, 500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_its_time_is_not_the_senders_fault() {
        let quick = dripping(100, Duration::from_millis(10));
        let mut body = Idle::new(quick, LIMIT, "upstream").at_least(1024);
        for _ in 0..10 {
            assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
            tokio::time::sleep(LIMIT * 10).await;
        }
    }
}
