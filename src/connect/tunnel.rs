//! Bytes both ways, untouched.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::telemetry::live;

/// Copies between two sockets until both have ended. An end of one side is passed on to the other
/// while the opposite direction goes on (half-close). A tunnel that is silent holds no buffer: bytes
/// pass through one that all tunnels of a thread share.
pub struct Tunnel<A, B> {
    a: A,
    b: B,
    up: Direction,
    down: Direction,
    idle: Duration,
    silence: Pin<Box<Sleep>>,
    /// Where others see how much has moved.
    shown: Arc<live::Moved>,
}

/// Bytes that went from the client up and from the target down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub up: u64,
    pub down: u64,
}

#[derive(Debug, Default)]
struct Direction {
    /// What the writer did not take at once.
    left: Vec<u8>,
    sent: usize,
    ended: bool,
    closed: bool,
    moved: u64,
}

// === impl Tunnel ===

impl<A, B> Tunnel<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    /// `early` is what the client sent before the tunnel stood; `idle` ends a silent tunnel;
    /// `shown` is told what moves.
    pub fn new(
        client: A,
        target: B,
        early: &[u8],
        idle: Duration,
        shown: Arc<live::Moved>,
    ) -> Self {
        Self {
            a: client,
            b: target,
            up: Direction {
                left: early.to_vec(),
                moved: early.len() as u64,
                ..Direction::default()
            },
            down: Direction::default(),
            idle,
            silence: Box::pin(tokio::time::sleep(idle)),
            shown,
        }
    }

    /// What has moved so far.
    pub fn moved(&self) -> Moved {
        Moved {
            up: self.up.moved,
            down: self.down.moved,
        }
    }
}

impl<A, B> Future for Tunnel<A, B>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = this.moved();
        let up = this.up.poll(cx, &mut this.a, &mut this.b)?;
        let down = this.down.poll(cx, &mut this.b, &mut this.a)?;
        this.shown.up.store(this.up.moved, Ordering::Relaxed);
        this.shown.down.store(this.down.moved, Ordering::Relaxed);
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok(()));
        }
        if this.moved() != before {
            this.silence.as_mut().reset(Instant::now() + this.idle);
        }
        match this.silence.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the tunnel was silent for too long",
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

// === impl Direction ===

impl Direction {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while self.sent < self.left.len() {
                let n = ready!(Pin::new(&mut *writer).poll_write(cx, &self.left[self.sent..]))?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.sent += n;
            }
            if !self.left.is_empty() {
                self.left = Vec::new();
                self.sent = 0;
            }
            if self.ended {
                if !self.closed {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.closed = true;
                }
                return Poll::Ready(Ok(()));
            }
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                ready!(Pin::new(&mut *reader).poll_read(cx, &mut buf))?;
                let bytes = buf.filled();
                self.moved += bytes.len() as u64;
                if bytes.is_empty() {
                    self.ended = true;
                    return Poll::Ready(Ok::<_, io::Error>(()));
                }
                let taken = match Pin::new(&mut *writer).poll_write(cx, bytes) {
                    Poll::Ready(taken) => taken?,
                    Poll::Pending => 0,
                };
                self.left.extend_from_slice(&bytes[taken..]);
                Poll::Ready(Ok(()))
            });
            match read {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    // What a layered writer still holds must not wait for the next byte.
                    let _ = Pin::new(&mut *writer).poll_flush(cx)?;
                    return Poll::Pending;
                }
            }
        }
    }
}

const BUFFER: usize = 128 << 10;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn one_side_may_end_while_the_other_goes_on() {
        let (mut client, near) = duplex(1 << 10);
        let (far, mut target) = duplex(1 << 10);
        let shown = Arc::new(live::Moved::default());
        let tunnel = Tunnel::new(near, far, b"early ", Duration::from_secs(9), shown.clone());
        let tunnel = tokio::spawn(tunnel);
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = String::new();
        target.read_to_string(&mut asked).await.unwrap();
        assert_eq!(asked, "early question");
        let long = vec![7; 300_000];
        let answer = long.clone();
        let writing = tokio::spawn(async move {
            target.write_all(&answer).await.unwrap();
            target.shutdown().await.unwrap();
        });
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, long);
        writing.await.unwrap();
        tunnel.await.unwrap().unwrap();
        assert_eq!(shown.up.load(Ordering::Relaxed), 14);
        assert_eq!(shown.down.load(Ordering::Relaxed), 300_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_tunnel_ends() {
        let (_client, near) = duplex(8);
        let (far, _target) = duplex(8);
        let error = Tunnel::new(near, far, b"", Duration::from_secs(60), Arc::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
