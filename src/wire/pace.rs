//! Patience with a client: for a request's head, between requests, and for its reading.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::streams::Streams;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From a head's first byte to its last.
    pub head: Duration,
    /// Without a request, and without reading what it asked for.
    pub idle: Duration,
}

/// What a connection is doing, shared between its socket and its requests.
#[derive(Debug)]
pub struct Pace {
    patience: Patience,
    requests: AtomicUsize,
    /// HTTP/2 frames are no heads: only the idle limit holds, and it holds during requests, too, and
    /// for each answer, because a client that grants no window leaves no write pending.
    multiplexed: OnceLock<Streams>,
    born: Instant,
    /// Milliseconds after birth when bytes last moved.
    moved: AtomicU64,
    /// The client does not read what is for it.
    blocked: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// A head has begun.
    head: bool,
}

/// A request under way; while one lives, its connection is not idle.
#[derive(Debug)]
pub struct Busy(Arc<Pace>);

/// A socket that ends when its client takes too long.
#[derive(Debug)]
pub struct Paced<S> {
    inner: S,
    /// Bytes that were read too early, to be read again.
    prefix: Bytes,
    pace: Arc<Pace>,
    reading: Pin<Box<Sleep>>,
    writing: Option<Pin<Box<Sleep>>>,
    /// Plain HTTP is spoken on it, so a last word can be said.
    plain: bool,
}

// === impl Pace ===

impl Pace {
    fn new(patience: Patience) -> Arc<Self> {
        Arc::new(Self {
            patience,
            requests: AtomicUsize::new(0),
            multiplexed: OnceLock::new(),
            born: Instant::now(),
            moved: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            // A client that connects and says nothing is as slow as one that stops in a head.
            waiting: Mutex::new(Waiting {
                since: Instant::now(),
                head: true,
            }),
        })
    }

    /// A request's head is complete.
    pub fn busy(self: &Arc<Self>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.waiting().head = false;
        Busy(self.clone())
    }

    /// The connection speaks HTTP/2 from here on; its answers are to be watched.
    pub fn multiplex(&self) -> Streams {
        self.multiplexed.get_or_init(Streams::begin).clone()
    }

    /// A new beginning, as after a handshake: the client may be idle before it asks.
    pub fn rest(&self) {
        *self.waiting() = Waiting {
            since: Instant::now(),
            head: false,
        };
    }

    /// Since when the client has had nothing to ask, and has all that it asked for; `None` while that
    /// is not so.
    pub fn resting_since(&self) -> Option<Instant> {
        if self.requests.load(Ordering::Relaxed) > 0 || self.blocked.load(Ordering::Relaxed) {
            return None;
        }
        let waiting = self.waiting();
        (!waiting.head).then_some(waiting.since)
    }

    /// When the client's time is up; `None` where a request under way stops the clock.
    fn deadline(&self) -> Option<Instant> {
        if self.requests.load(Ordering::Relaxed) > 0 {
            let streams = self.multiplexed.get()?;
            let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let since = self.born + moved;
            let stuck = streams.waiting_since();
            return Some(stuck.map_or(since, |stuck| stuck.min(since)) + self.patience.idle);
        }
        let waiting = self.waiting();
        let limit = if waiting.head {
            self.patience.head
        } else {
            self.patience.idle
        };
        Some(waiting.since + limit)
    }

    fn moved(&self) {
        let age = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(age, Ordering::Relaxed);
    }

    fn received(&self) {
        self.moved();
        if self.requests.load(Ordering::Relaxed) > 0 || self.multiplexed.get().is_some() {
            return;
        }
        let mut waiting = self.waiting();
        if !waiting.head {
            *waiting = Waiting {
                since: Instant::now(),
                head: true,
            };
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Busy ===

impl Drop for Busy {
    fn drop(&mut self) {
        if self.0.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.rest();
        }
    }
}

// === impl Paced ===

impl<S> Paced<S> {
    pub fn new(inner: S, patience: Patience) -> Self {
        Self {
            inner,
            prefix: Bytes::new(),
            pace: Pace::new(patience),
            reading: Box::pin(tokio::time::sleep(patience.head)),
            writing: None,
            plain: true,
        }
    }

    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// Puts back what was read too early; what follows is no plain HTTP.
    pub fn rewind(mut self, prefix: &[u8]) -> Self {
        // A copy: even without a byte in it, the reader's would hold all of the buffer it was read into.
        self.prefix = Bytes::copy_from_slice(prefix);
        self.plain = false;
        self
    }

    /// The bare socket, and what was read from it too early: for a tunnel, which has its own limits.
    pub fn into_parts(self) -> (S, Bytes) {
        (self.inner, self.prefix)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let n = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix[..n]);
            self.prefix.advance(n);
            self.pace.received();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Ready(result) => {
                if buf.filled().len() > before {
                    self.pace.received();
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                let deadline = self.pace.deadline();
                // While a request runs nobody may look again before its end: the clock must wake
                // whoever reads, to see how long the client has been idle since.
                let look_again = || Instant::now() + self.pace.patience.idle;
                let wake = deadline.unwrap_or_else(look_again);
                if self.reading.deadline() != wake {
                    self.reading.as_mut().reset(wake);
                }
                match self.reading.as_mut().poll(cx) {
                    Poll::Ready(()) if deadline.is_none() => Poll::Pending,
                    Poll::Ready(()) => {
                        if self.plain && self.pace.waiting().head {
                            // If it can be said without waiting; the connection ends either way.
                            let _ = Pin::new(&mut self.inner).poll_write(cx, TOO_SLOW);
                        }
                        Poll::Ready(Err(late("sent no request")))
                    }
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> Paced<S> {
    /// Bytes have moved. (To flush nothing is no movement: HTTP/2 does so at each look.)
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        if matches!(polled, Poll::Ready(Ok(1..))) {
            self.pace.moved();
        }
    }

    fn poll_patiently<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.pace
            .blocked
            .store(polled.is_pending(), Ordering::Relaxed);
        if polled.is_ready() {
            self.writing = None;
            return polled;
        }
        let limit = self.pace.patience.idle;
        let timer = self
            .writing
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(late("read nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(&polled);
        self.poll_patiently(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(&polled);
        self.poll_patiently(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.poll_patiently(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

fn late(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("the client {what} for too long"),
    )
}

const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 67\r\n\r\npierhead: the request's head took too long (limits.client_headers)\n";

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(300),
    };

    #[tokio::test(start_paused = true)]
    async fn a_head_that_stops_midway_ends_the_connection() {
        let (mut client, server) = duplex(64);
        let mut server = Paced::new(server, PATIENCE);
        client.write_all(b"GET / HT").await.unwrap();
        let began = Instant::now();
        let mut buf = [0; 64];
        assert_eq!(server.read(&mut buf).await.unwrap(), 8);
        let error = server.read(&mut buf).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_multiplexed_client_that_moves_nothing_is_not_waited_for_for_ever() {
        let (_client, server) = duplex(64);
        let mut server = Paced::new(server, PATIENCE);
        server.pace().multiplex();
        let _busy = server.pace().busy();
        let began = Instant::now();
        assert!(server.read(&mut [0; 8]).await.is_err());
        assert_eq!(began.elapsed().as_secs(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn to_flush_nothing_keeps_no_client() {
        let (_client, server) = duplex(64);
        let mut server = Paced::new(server, PATIENCE);
        server.pace().multiplex();
        let _busy = server.pace().busy();
        let began = Instant::now();
        let mut buffer = [0; 8];
        let mut ticks = tokio::time::interval(Duration::from_secs(60));
        loop {
            tokio::select! {
                read = server.read(&mut buffer) => {
                    assert!(read.is_err());
                    break;
                }
                _ = ticks.tick() => {}
            }
            server.flush().await.unwrap();
        }
        assert_eq!(began.elapsed().as_secs(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_during_a_request_hears_of_its_client_after_it() {
        let (_client, server) = duplex(64);
        let mut server = Paced::new(server, PATIENCE);
        let pace = server.pace().clone();
        let busy = pace.busy();
        let began = Instant::now();
        let reading = tokio::spawn(async move { server.read(&mut [0; 8]).await });
        tokio::time::sleep(Duration::from_secs(200)).await;
        drop(busy);
        assert!(reading.await.unwrap().is_err());
        assert_eq!(began.elapsed().as_secs(), 500);
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_a_client_may_be_idle_for_longer() {
        let (_client, server) = duplex(64);
        let mut server = Paced::new(server, PATIENCE);
        drop(server.pace().busy());
        let began = Instant::now();
        assert!(server.read(&mut [0; 8]).await.is_err());
        assert_eq!(began.elapsed().as_secs(), 300);
    }
}
