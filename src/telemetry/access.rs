//! One line a request, written when its last byte has gone.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::Method;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tracing::info;

use super::line::SINK;
use super::metrics::{Metrics, Tally};
use crate::wire::body::Body;

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// From the cache, without asking upstream for content.
    Hit,
    /// From a download under way.
    Follow,
    /// From upstream, and into the cache where it could be.
    Miss,
    /// From the cache, after upstream confirmed it.
    Revalidated,
    /// From the cache, while upstream is away.
    Stale,
    /// From upstream, as it is.
    Relay,
    Tunnel,
    Denied,
    Error,
}

/// What is known of a request; becomes its line.
#[derive(Clone, Debug)]
pub struct Line {
    pub client: IpAddr,
    pub user: Option<String>,
    pub method: Method,
    pub host: Arc<str>,
    /// The registry's own.
    pub registry: Arc<Tally>,
    pub repository: Arc<str>,
    /// Tag or digest, or the path where it is neither.
    pub reference: Arc<str>,
    pub status: u16,
    pub outcome: Outcome,
    /// The rule that denied it.
    pub rule: String,
    pub started: Instant,
}

/// Writes `line` and counts it, with the body bytes that went out.
pub fn write(metrics: &Metrics, line: &Line, bytes: u64, complete: bool) {
    metrics.request(&line.registry, line.outcome, bytes);
    let ms = u64::try_from(line.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    match SINK.get() {
        Some(sink) => sink.write(line, bytes, ms, complete),
        None => by_the_logger(line, bytes, ms, complete),
    }
}

pub(super) fn by_the_logger(line: &Line, bytes: u64, ms: u64, complete: bool) {
    info!(
        target: "access",
        client = %line.client,
        user = line.user.as_deref().unwrap_or(""),
        method = %line.method,
        host = %line.host,
        repository = %line.repository,
        reference = %line.reference,
        status = line.status,
        outcome = line.outcome.as_str(),
        rule = %line.rule,
        bytes,
        ms,
        complete,
    );
}

/// Wraps `body` so that `line` is written when it ends or is dropped; `held` lives as long. `length` is
/// what was announced: who has that much may leave before the end is looked at.
pub fn logged<T>(
    body: Body,
    length: Option<u64>,
    metrics: Arc<Metrics>,
    line: Line,
    held: T,
) -> Body
where
    T: Send + Unpin + 'static,
{
    Logged {
        inner: body,
        length,
        _held: held,
        metrics,
        line,
        bytes: 0,
        ended: false,
    }
    .boxed_unsync()
}

// === impl Outcome ===

impl Outcome {
    pub const ALL: [Self; 9] = [
        Self::Hit,
        Self::Follow,
        Self::Miss,
        Self::Revalidated,
        Self::Stale,
        Self::Relay,
        Self::Tunnel,
        Self::Denied,
        Self::Error,
    ];

    /// Whether it is content of a registry that went through the rules for it.
    pub fn is_content(self) -> bool {
        match self {
            Self::Hit | Self::Follow | Self::Miss | Self::Revalidated | Self::Stale => true,
            Self::Relay | Self::Tunnel | Self::Denied | Self::Error => false,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Follow => "follow",
            Self::Miss => "miss",
            Self::Revalidated => "revalidated",
            Self::Stale => "stale",
            Self::Relay => "relay",
            Self::Tunnel => "tunnel",
            Self::Denied => "denied",
            Self::Error => "error",
        }
    }
}

// === impl Logged ===

struct Logged<T> {
    inner: Body,
    _held: T,
    metrics: Arc<Metrics>,
    line: Line,
    length: Option<u64>,
    bytes: u64,
    ended: bool,
}

impl<T: Unpin> HttpBody for Logged<T> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Poll::Ready(Some(Err(e))) => {
                tracing::warn!(host = %self.line.host, reference = %self.line.reference, error = %e, "a transfer ended short");
            }
            Poll::Ready(None) => self.ended = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<T> Drop for Logged<T> {
    fn drop(&mut self) {
        let all = self.length == Some(self.bytes);
        let complete = self.ended || all || self.inner.is_end_stream();
        write(&self.metrics, &self.line, self.bytes, complete);
    }
}
