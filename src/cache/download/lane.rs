//! One connection of a download: it asks for its part, and again for the rest where it broke off.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::Body as _;
use tokio::sync::OwnedSemaphorePermit;

use crate::cache::origin::{Backoff, FetchError, Fetched, Gone, Origin, Part, WORTHWHILE};
use crate::cache::sync::{Sleep, sleep};
use crate::wire::body::Body;

/// A part of the blob, and how far it has come.
pub(super) struct Lane {
    /// Offset of the next byte.
    pub at: u64,
    /// Exclusive; `None`: wherever upstream ends.
    pub end: Option<u64>,
    /// What it reads was asked for up to the blob's own end, whatever `end` says by now.
    pub open: bool,
    pub patience: Backoff,
    /// Whose turn it is to be asked in whose name.
    pub turn: usize,
    /// How many of them have refused in a row.
    pub refused: usize,
    /// Where the request under way began.
    asked_at: u64,
    /// Bytes to pass over, of an upstream that begins earlier than it was asked to.
    skip: u64,
    step: Step,
    /// What makes it one of a bounded number.
    _permit: Option<OwnedSemaphorePermit>,
}

enum Step {
    Asking(BoxFuture<'static, Result<Fetched, FetchError>>),
    /// The answer came while nobody could take it; `None` once somebody has.
    Answered(Option<Result<Fetched, FetchError>>),
    Reading(Body),
    Resting(Pin<Box<Sleep>>),
}

/// What happened on a lane.
pub(super) enum Came {
    Answer(Result<Fetched, FetchError>),
    Bytes(Bytes),
    /// The body is over, in good order.
    End,
    Broke(Gone),
    /// It has waited long enough to be asked again.
    Rested,
}

// === impl Lane ===

impl Lane {
    /// Everything from `at` on.
    pub fn open(at: u64, patience: Backoff, source: Arc<dyn Origin>) -> Self {
        Self::begin(at, None, patience, source, None)
    }

    /// One part among others.
    pub fn part(
        at: u64,
        end: u64,
        patience: Backoff,
        source: Arc<dyn Origin>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self::begin(at, Some(end), patience, source, Some(permit))
    }

    fn begin(
        at: u64,
        end: Option<u64>,
        patience: Backoff,
        source: Arc<dyn Origin>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            at,
            end,
            open: end.is_none(),
            patience,
            turn: 0,
            refused: 0,
            asked_at: at,
            skip: 0,
            step: asking(source, Part { start: at, end }),
            _permit: permit,
        }
    }

    /// Goes on with another part; what it was reading is cut.
    pub fn aim(&mut self, at: u64, end: u64, source: Arc<dyn Origin>) {
        (self.at, self.end, self.open) = (at, Some(end), false);
        self.ask(source);
    }

    /// Asks for what is left.
    pub fn ask(&mut self, source: Arc<dyn Origin>) {
        self.asked_at = self.at;
        self.skip = 0;
        let end = self.end.filter(|_| !self.open);
        let start = self.at;
        self.step = asking(source, Part { start, end });
    }

    /// Waits for `other`, and asks meanwhile.
    pub async fn meanwhile<T>(&mut self, other: impl Future<Output = T>) -> T {
        tokio::pin!(other);
        std::future::poll_fn(|cx| {
            let done = other.as_mut().poll(cx);
            if done.is_pending()
                && let Step::Asking(answer) = &mut self.step
                && let Poll::Ready(answer) = answer.as_mut().poll(cx)
            {
                self.step = Step::Answered(Some(answer));
            }
            done
        })
        .await
    }

    /// Reads an answer that begins at `start`, which is not beyond [`Lane::at`].
    pub fn read(&mut self, start: u64, body: Body) {
        self.skip = self.at.saturating_sub(start);
        self.step = Step::Reading(body);
    }

    /// Waits before it is asked again.
    pub fn rest(&mut self, wait: Duration) {
        self.step = Step::Resting(Box::pin(sleep(wait)));
    }

    pub fn is_reading(&self) -> bool {
        matches!(self.step, Step::Reading(_))
    }

    /// Bytes worth the asking have come since it was last asked.
    pub fn has_come_on(&self) -> bool {
        self.at >= self.asked_at + WORTHWHILE
    }

    /// What of `data` is the lane's own, at [`Lane::at`] before this call, and what is beyond its end.
    pub fn take(&mut self, mut data: Bytes) -> (Bytes, Bytes) {
        let skipped = usize::try_from(self.skip).map_or(data.len(), |n| n.min(data.len()));
        self.skip -= skipped as u64;
        data = data.split_off(skipped);
        let left = self.end.map(|end| end.saturating_sub(self.at));
        let left = left.and_then(|left| usize::try_from(left).ok());
        let beyond = data.split_off(left.map_or(data.len(), |left| left.min(data.len())));
        self.at += data.len() as u64;
        (data, beyond)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Came> {
        loop {
            return Poll::Ready(match &mut self.step {
                Step::Asking(answer) => Came::Answer(ready!(answer.as_mut().poll(cx))),
                Step::Answered(answer) => match answer.take() {
                    Some(answer) => Came::Answer(answer),
                    None => return Poll::Pending,
                },
                Step::Resting(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    Came::Rested
                }
                Step::Reading(body) => match ready!(Pin::new(body).poll_frame(cx)) {
                    None => Came::End,
                    Some(Err(e)) => Came::Broke(Gone::broken(e.to_string())),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => Came::Bytes(data),
                        // Trailers say nothing that counts.
                        Err(_) => continue,
                    },
                },
            });
        }
    }
}

fn asking(source: Arc<dyn Origin>, part: Part) -> Step {
    Step::Asking(Box::pin(async move { source.fetch(part).await }))
}

/// What happens next on any of `lanes`; `first` is asked first, so that none is passed over for long.
pub(super) async fn next(lanes: &mut [Lane], first: usize) -> (usize, Came) {
    std::future::poll_fn(|cx| {
        let count = lanes.len();
        for at in (0..count).map(|n| (first + n) % count) {
            if let Poll::Ready(came) = lanes[at].poll(cx) {
                return Poll::Ready((at, came));
            }
        }
        Poll::Pending
    })
    .await
}
