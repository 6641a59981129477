//! HTTP/1.1 on a connection that may rest: while its client has nothing to ask, it holds no buffers.
//!
//! Clients keep connections for minutes after a pull. hyper's buffers and what a request needs are most
//! of what such a connection takes; they go once nothing has moved for [`QUIET`], and come back with the
//! client's next byte.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, sleep, sleep_until};

use super::LARGEST_HEAD;
use crate::wire::body::Body;
use crate::wire::pace::Pace;

/// Serves `stream` to its end. `ending` says that it is to end once what runs has finished.
pub(super) async fn serve<T, S>(
    stream: T,
    pace: &Pace,
    service: S,
    ending: impl Future<Output = ()>,
) -> hyper::Result<()>
where
    T: AsyncBufRead + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: HttpService<Incoming, ResBody = Body, Error = Infallible> + Clone + Unpin,
    S::Future: Unpin,
{
    let mut stream = Early {
        bytes: Bytes::new(),
        stream,
    };
    tokio::pin!(ending);
    loop {
        let begun = Instant::now();
        // Without a timer of hyper's: the socket's pace bounds every wait. Boxed: a connection that
        // rests has no room for it.
        let mut connection = Box::new(
            http1::Builder::new()
                .header_read_timeout(None)
                .max_buf_size(LARGEST_HEAD)
                .serve_connection(TokioIo::new(stream), service.clone()),
        );
        tokio::select! {
            result = &mut connection => return result,
            () = ending.as_mut() => {
                Pin::new(&mut *connection).graceful_shutdown();
                return connection.await;
            }
            () = quiet(pace, begun) => {}
        }
        // An idle connection is done at once, and keeps what it has read. One that was woken by half
        // a request answers that before it ends.
        Pin::new(&mut *connection).graceful_shutdown();
        match poll_fn(|cx| Poll::Ready(connection.poll_without_shutdown(cx))).await {
            Poll::Ready(done) => done?,
            Poll::Pending => return connection.await,
        }
        let http1::Parts { io, read_buf, .. } = connection.into_parts();
        stream = io.into_inner();
        stream.put_back(read_buf);
        let asks = tokio::select! {
            asks = stream.asks() => asks.unwrap_or(false),
            () = ending.as_mut() => false,
        };
        if !asks {
            // It goes either way.
            let _ = stream.shutdown().await;
            return Ok(());
        }
    }
}

/// Ends when nothing has been asked or moved since `begun` for [`QUIET`].
async fn quiet(pace: &Pace, begun: Instant) {
    loop {
        match pace.resting_since().map(|since| since.max(begun)) {
            Some(since) if since.elapsed() >= QUIET => return,
            Some(since) => sleep_until(since + QUIET).await,
            None => sleep(QUIET).await,
        }
    }
}

const QUIET: Duration = Duration::from_millis(500);

/// A stream some of which was read too early.
struct Early<T> {
    bytes: Bytes,
    stream: T,
}

// === impl Early ===

impl<T: AsyncBufRead + Unpin> Early<T> {
    fn put_back(&mut self, bytes: Bytes) {
        // A copy of its own: even without a byte in it, hyper's would hold all of the buffer it was
        // read into.
        self.bytes = [bytes, self.bytes.split_off(0)].concat().into();
    }

    /// Waits for the next byte, and takes none; `false` at the end.
    async fn asks(&mut self) -> io::Result<bool> {
        Ok(!self.bytes.is_empty() || !self.stream.fill_buf().await?.is_empty())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Early<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.bytes.is_empty() {
            let n = self.bytes.len().min(buf.remaining());
            buf.put_slice(&self.bytes[..n]);
            self.bytes.advance(n);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Early<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt, BufReader, DuplexStream, duplex};
    use tokio::sync::oneshot;

    use super::*;
    use crate::wire::body;
    use crate::wire::pace::{Paced, Patience};

    const IDLE: Duration = Duration::from_secs(300);

    /// A client of a connection that counts its requests in its answers.
    fn connection() -> (DuplexStream, oneshot::Sender<()>, Arc<Pace>) {
        let (client, server) = duplex(64 << 10);
        let patience = Patience {
            head: Duration::from_secs(10),
            idle: IDLE,
        };
        let socket = Paced::new(server, patience);
        let pace = socket.pace().clone();
        pace.rest();
        let (end, ending) = oneshot::channel();
        let shared = pace.clone();
        tokio::spawn(async move {
            let (count, pace) = (Arc::new(AtomicUsize::new(0)), shared.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let n = count.fetch_add(1, Ordering::Relaxed);
                let busy = pace.busy();
                Box::pin(async move {
                    drop((request, busy));
                    Ok::<_, Infallible>(Response::new(body::full(format!("<{n}>"))))
                })
            });
            let ending = async { drop(ending.await) };
            let _ = serve(BufReader::new(socket), &shared, service, ending).await;
        });
        (client, end, pace)
    }

    async fn answer(client: &mut DuplexStream) -> String {
        let mut heard = Vec::new();
        while !heard.ends_with(b">") {
            let n = client.read_buf(&mut heard).await.unwrap();
            assert!(n > 0, "it closed after {heard:?}");
        }
        String::from_utf8(heard).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_rests_holds_nothing_and_is_answered_again() {
        let (mut client, _end, pace) = connection();
        for n in 0..3 {
            client.write_all(GET).await.unwrap();
            assert!(answer(&mut client).await.ends_with(&format!("<{n}>")));
            let serving = Arc::strong_count(&pace);
            sleep(2 * QUIET).await;
            assert_eq!(Arc::strong_count(&pace), serving - 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_request_that_came_early_is_not_lost() {
        let (mut client, _end, _) = connection();
        let (half, rest) = GET.split_at(9);
        client.write_all(&[GET, half].concat()).await.unwrap();
        assert!(answer(&mut client).await.ends_with("<0>"));
        sleep(3 * QUIET).await;
        client.write_all(rest).await.unwrap();
        assert!(answer(&mut client).await.ends_with("<1>"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_rests_ends_when_all_end() {
        let (mut client, end, _) = connection();
        client.write_all(GET).await.unwrap();
        answer(&mut client).await;
        sleep(2 * QUIET).await;
        drop(end);
        assert_eq!(client.read(&mut [0; 9]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_rests_for_too_long_is_let_go() {
        let (mut client, _end, _) = connection();
        client.write_all(GET).await.unwrap();
        answer(&mut client).await;
        let rests = Instant::now();
        assert_eq!(client.read(&mut [0; 9]).await.unwrap(), 0);
        assert_eq!(rests.elapsed().as_secs(), IDLE.as_secs());
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n";
}
