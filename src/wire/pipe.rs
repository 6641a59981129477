//! Bytes from one TCP socket to another within the kernel: `splice(2)` through a pipe.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A stream that may be a bare TCP socket.
pub trait Bare {
    /// The socket, where the stream's bytes are the socket's and nothing of them is held elsewhere.
    fn bare(&self) -> Option<&TcpStream>;
}

/// A pipe that holds what one socket has sent and the other has not taken yet.
#[derive(Debug)]
pub struct Pipe {
    into: OwnedFd,
    from: OwnedFd,
    /// Bytes in it.
    held: usize,
}

// === impl Pipe ===

impl Pipe {
    /// One that this thread has used before, or a new one.
    pub fn take() -> io::Result<Self> {
        if let Some(pipe) = FREE.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (from, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Where the user's pipes are too large already, it stays as it is.
        let _ = fcntl_setpipe_size(&into, SIZE);
        Ok(Self {
            into,
            from,
            held: 0,
        })
    }

    /// Gives it back if it is empty.
    pub fn give_back(self) {
        if self.held == 0 {
            FREE.with_borrow_mut(|free| {
                if free.len() < KEPT {
                    free.push(self);
                }
            });
        }
    }

    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes what `socket` has; 0 at its end. The pipe must be empty, or a full one would look like a
    /// socket that has nothing.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        socket: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(socket.poll_read_ready(cx))?;
            let moved = socket.try_io(Interest::READABLE, || {
                Ok(splice(socket, None, &self.into, None, SIZE, flags())?)
            });
            match moved {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                moved => {
                    let moved = moved?;
                    self.held += moved;
                    return Poll::Ready(Ok(moved));
                }
            }
        }
    }

    /// Sends all that it holds to `socket`.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, socket: &TcpStream) -> Poll<io::Result<()>> {
        while self.held > 0 {
            ready!(socket.poll_write_ready(cx))?;
            let moved = socket.try_io(Interest::WRITABLE, || {
                Ok(splice(&self.from, None, socket, None, self.held, flags())?)
            });
            match moved {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                moved => self.held -= moved?,
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::NONBLOCK | SpliceFlags::MOVE
}

/// Bytes; each takes some of them from the kernel only while it holds something.
const SIZE: usize = 256 << 10;
/// Pipes that a thread keeps for the next tunnel in which something moves.
const KEPT: usize = 16;

thread_local! {
    static FREE: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}
