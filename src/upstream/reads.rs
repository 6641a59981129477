//! Reads from upstream in pieces large enough to be worth their system calls and wake-ups.
//!
//! TLS asks its socket for 4 KiB at a time, and gives what it has decrypted a record at a time. A blob's
//! bytes would cross from the kernel, and then from one task to the next, in pieces of that size.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Beneath TLS: takes what the kernel has at once, and hands it on in whatever pieces are asked for.
pub(super) struct Buffered<S> {
    inner: S,
    buffer: Vec<u8>,
    /// What of the buffer is still to be handed on.
    start: usize,
    end: usize,
}

/// Above TLS: fills the buffer that it is given, as far as there are bytes.
pub(super) struct Filling<S> {
    inner: S,
    /// What came after some bytes that were handed on first.
    error: Option<io::Error>,
}

// === impl Buffered ===

impl<S> Buffered<S> {
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            buffer: Vec::new(),
            start: 0,
            end: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start == this.end {
            if buf.remaining() >= LARGE {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            this.buffer.resize(BUFFER, 0);
            let mut read = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            (this.start, this.end) = (0, read.filled().len());
        }
        let left = &this.buffer[this.start..this.end];
        let n = left.len().min(buf.remaining());
        buf.put_slice(&left[..n]);
        this.start += n;
        Poll::Ready(Ok(()))
    }
}

impl<S: Connection> Connection for Buffered<S> {
    fn connected(&self) -> Connected {
        self.inner.connected()
    }
}

// === impl Filling ===

impl<S> Filling<S> {
    pub fn new(inner: S) -> Self {
        Self { inner, error: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Filling<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(error) = this.error.take() {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        loop {
            let had = buf.filled().len();
            let read = Pin::new(&mut this.inner).poll_read(cx, buf);
            let came = buf.filled().len() > before;
            match read {
                Poll::Ready(Ok(())) if buf.filled().len() > had && buf.remaining() > 0 => {}
                Poll::Ready(Err(error)) if came => {
                    this.error = Some(error);
                    return Poll::Ready(Ok(()));
                }
                Poll::Pending if came => return Poll::Ready(Ok(())),
                read => return read,
            }
        }
    }
}

impl<S: Connection> Connection for Filling<S> {
    fn connected(&self) -> Connected {
        self.inner.connected()
    }
}

macro_rules! writes_as_its_inner {
    ($name:ident) => {
        impl<S: AsyncWrite + Unpin> AsyncWrite for $name<S> {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.get_mut().inner).poll_flush(cx)
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                parts: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, parts)
            }

            fn is_write_vectored(&self) -> bool {
                self.inner.is_write_vectored()
            }
        }
    };
}

writes_as_its_inner!(Buffered);
writes_as_its_inner!(Filling);

/// Bytes of a connection's buffer, which is there once something was read.
const BUFFER: usize = 64 << 10;
/// Who asks for so many is given them without a copy in between.
const LARGE: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_pass_both_in_order_and_to_the_end() {
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        let (mut far, near) = duplex(100_000);
        let sent = bytes.clone();
        let sending = tokio::spawn(async move {
            for piece in sent.chunks(7_001) {
                far.write_all(piece).await.unwrap();
            }
        });
        let mut near = Filling::new(Buffered::new(near));
        let mut got = Vec::new();
        for len in [1, 4_096, 20_000, 3, 100_000] {
            let mut piece = vec![0; len];
            near.read_exact(&mut piece).await.unwrap();
            got.extend(piece);
        }
        near.read_to_end(&mut got).await.unwrap();
        assert!(got == bytes);
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_there_comes_at_once_however_it_was_sent() {
        let (mut far, near) = duplex(100_000);
        for piece in [&[1; 5][..], &[2; 6], &[3; 7]] {
            far.write_all(piece).await.unwrap();
        }
        let mut near = Filling::new(Small(near));
        let mut piece = [0; 100];
        assert_eq!(near.read(&mut piece).await.unwrap(), 18);
        drop(far);
        assert_eq!(near.read(&mut piece).await.unwrap(), 0);
    }

    /// Gives two bytes at a time.
    struct Small<S>(S);

    impl<S: AsyncRead + Unpin> AsyncRead for Small<S> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let mut two = [0; 2];
            let mut read = ReadBuf::new(&mut two);
            ready!(Pin::new(&mut self.0).poll_read(cx, &mut read))?;
            buf.put_slice(read.filled());
            Poll::Ready(Ok(()))
        }
    }
}
