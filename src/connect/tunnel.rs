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
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::telemetry::live;
use crate::wire::pipe::{Bare, Pipe};

/// Copies between two sockets until both have ended. An end of one side is passed on to the other
/// while the opposite direction goes on (half-close). Between bare sockets the kernel moves the bytes;
/// where TLS is in the way they pass through a buffer that all tunnels of a thread share. A tunnel that
/// is silent holds neither pipe nor buffer.
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
    /// What the kernel moves, as long as something does.
    pipe: Option<Pipe>,
    /// The kernel would not.
    copies: bool,
    ended: bool,
    closed: bool,
    moved: u64,
}

// === impl Tunnel ===

impl<A, B> Tunnel<A, B>
where
    A: AsyncRead + AsyncWrite + Bare + Unpin,
    B: AsyncRead + AsyncWrite + Bare + Unpin,
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
    A: AsyncRead + AsyncWrite + Bare + Unpin,
    B: AsyncRead + AsyncWrite + Bare + Unpin,
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
        R: AsyncRead + Bare + Unpin,
        W: AsyncWrite + Bare + Unpin,
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
            if !self.copies
                && let (Some(from), Some(to)) = (reader.bare(), writer.bare())
            {
                ready!(self.poll_splice(cx, from, to))?;
                continue;
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

    /// Has the kernel move bytes until the reader ends, or it turns out that it cannot.
    fn poll_splice(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut pipe = match self.pipe.take() {
                Some(pipe) => pipe,
                // Not before there is something to move.
                None if from.poll_read_ready(cx)?.is_pending() => return Poll::Pending,
                None => match Pipe::take() {
                    Ok(pipe) => pipe,
                    Err(_) => {
                        self.copies = true;
                        return Poll::Ready(Ok(()));
                    }
                },
            };
            if pipe.poll_drain(cx, to)?.is_pending() {
                self.pipe = Some(pipe);
                return Poll::Pending;
            }
            match pipe.poll_fill(cx, from) {
                Poll::Pending => {
                    pipe.give_back();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => {
                    pipe.give_back();
                    self.ended = true;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(moved)) => {
                    self.moved += moved as u64;
                    self.pipe = Some(pipe);
                }
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::InvalidInput => {
                    self.copies = true;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpListener;

    use super::*;

    impl Bare for DuplexStream {
        fn bare(&self) -> Option<&TcpStream> {
            None
        }
    }

    impl Bare for TcpStream {
        fn bare(&self) -> Option<&TcpStream> {
            Some(self)
        }
    }

    async fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap());
        let (there, here) = tokio::join!(there, listener.accept());
        (there.unwrap(), here.unwrap().0)
    }

    /// Between bare sockets, with more than any buffer on the way holds and readers that are slow.
    #[tokio::test]
    async fn the_kernel_moves_the_bytes_of_bare_sockets_and_all_of_them() {
        let (mut client, near) = sockets().await;
        let (far, mut target) = sockets().await;
        let shown = Arc::new(live::Moved::default());
        let tunnel = Tunnel::new(near, far, b"early ", Duration::from_secs(60), shown.clone());
        let tunnel = tokio::spawn(tunnel);
        let long: Vec<u8> = (0..20_000_000u32).map(|n| (n % 251) as u8).collect();
        let (up, down) = (long.clone(), long.clone());
        let (mut client_read, mut client_write) = client.split();
        let (mut target_read, mut target_write) = target.split();
        let asking = async {
            client_write.write_all(&up).await.unwrap();
            client_write.shutdown().await.unwrap();
        };
        let answering = async {
            target_write.write_all(&down).await.unwrap();
            target_write.shutdown().await.unwrap();
        };
        let (mut asked, mut heard) = (Vec::new(), Vec::new());
        let (_, _, a, b) = tokio::join!(
            asking,
            answering,
            target_read.read_to_end(&mut asked),
            client_read.read_to_end(&mut heard)
        );
        a.unwrap();
        b.unwrap();
        assert!(asked.strip_prefix(b"early ") == Some(&long[..]));
        assert!(heard == long);
        tunnel.await.unwrap().unwrap();
        assert_eq!(shown.up.load(Ordering::Relaxed), 20_000_006);
        assert_eq!(shown.down.load(Ordering::Relaxed), 20_000_000);
    }

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
