//! A connection to what is beyond: straight, or led there by a parent proxy.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper_util::client::legacy::connect::{Connected, Connection as Describe};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::wire::pipe::Bare;
use crate::wire::socket::Socket;

/// Bytes to and from a target, or to and from a parent proxy that forwards plain HTTP.
#[derive(Debug)]
pub struct Connection {
    /// To the target, or to a parent proxy: bare, or in TLS where that is an `https://` one.
    link: Socket,
    /// What came with the parent's answer and is the target's already.
    early: Bytes,
    /// Requests are written in absolute form: a parent proxy reads them.
    forwards: bool,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(link: Socket, early: Bytes) -> Self {
        Self {
            link,
            early,
            forwards: false,
        }
    }

    /// To a parent that reads requests in absolute form.
    pub(super) fn forwarding(link: Socket) -> Self {
        Self {
            link,
            early: Bytes::new(),
            forwards: true,
        }
    }
}

impl From<TcpStream> for Connection {
    fn from(socket: TcpStream) -> Self {
        Self::new(Socket::Plain(socket), Bytes::new())
    }
}

impl Describe for Connection {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.forwards)
    }
}

impl Bare for Connection {
    fn bare(&self) -> Option<&TcpStream> {
        self.link.bare().filter(|_| self.early.is_empty())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let n = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..n]);
            self.early.advance(n);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.link).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.link).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.link).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.link.is_write_vectored()
    }
}
