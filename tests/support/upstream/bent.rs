//! A stream whose writer says one thing and whose reader gets another.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What becomes of what is written, from the moment it is set.
pub(super) enum Bend {
    /// This many bytes pass, and then it breaks.
    Cut(u64),
    /// These pass instead, and then it breaks.
    Instead(Bytes),
}

/// A stream, bent while something is set.
pub(super) struct Bent<S> {
    inner: S,
    bend: Arc<Mutex<Option<Bend>>>,
}

// === impl Bent ===

impl<S> Bent<S> {
    pub(super) fn new(inner: S, bend: Arc<Mutex<Option<Bend>>>) -> Self {
        Self { inner, bend }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bent<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bent<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut bend = this.bend.lock().expect("no panic under this lock");
        let inner = Pin::new(&mut this.inner);
        match &mut *bend {
            None => inner.poll_write(cx, buf),
            Some(Bend::Cut(0)) => {
                ready!(inner.poll_flush(cx))?;
                Poll::Ready(Err(io::Error::other("cut by the script")))
            }
            Some(Bend::Cut(left)) => {
                let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                let written = ready!(inner.poll_write(cx, &buf[..most]))?;
                *left -= written as u64;
                Poll::Ready(Ok(written))
            }
            Some(Bend::Instead(bytes)) => {
                let mut inner = inner;
                while !bytes.is_empty() {
                    let written = ready!(inner.as_mut().poll_write(cx, bytes))?;
                    bytes.advance(written);
                }
                ready!(inner.poll_flush(cx))?;
                Poll::Ready(Err(io::Error::other("said by the script")))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
