//! Peers for tunnels: raw TCP servers that do one thing.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

/// A TCP server that takes one connection after another.
pub struct Peer {
    pub addr: SocketAddr,
    /// What each connection sent until it closed its side.
    pub heard: mpsc::UnboundedReceiver<Vec<u8>>,
}

// === impl Peer ===

impl Peer {
    /// Sends everything back as it comes, and closes when the other side has.
    pub async fn echo() -> Self {
        Self::serve(|mut socket, heard| async move {
            let mut all = Vec::new();
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(n @ 1..) = socket.read(&mut buffer).await {
                all.extend_from_slice(&buffer[..n]);
                if socket.write_all(&buffer[..n]).await.is_err() {
                    break;
                }
            }
            let _ = heard.send(all);
            let _ = socket.shutdown().await;
        })
        .await
    }

    /// Reads until the other side closes, and only then answers with `answer`.
    pub async fn answers_at_end(answer: &'static [u8]) -> Self {
        Self::serve(move |mut socket, heard| async move {
            let mut all = Vec::new();
            let _ = socket.read_to_end(&mut all).await;
            let _ = heard.send(all);
            let _ = socket.write_all(answer).await;
            let _ = socket.shutdown().await;
        })
        .await
    }

    /// Sends `greeting`, closes its side at once, and goes on reading.
    pub async fn closes_first(greeting: &'static [u8]) -> Self {
        Self::serve(move |mut socket, heard| async move {
            let _ = socket.write_all(greeting).await;
            let _ = socket.shutdown().await;
            let mut all = Vec::new();
            let _ = socket.read_to_end(&mut all).await;
            let _ = heard.send(all);
        })
        .await
    }

    async fn serve<F, S>(serve: F) -> Self
    where
        F: Fn(tokio::net::TcpStream, mpsc::UnboundedSender<Vec<u8>>) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("a bound socket");
        let (tx, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, tx.clone()));
            }
        });
        Self { addr, heard }
    }

    /// What the next connection that ended had sent.
    pub async fn next(&mut self) -> Vec<u8> {
        super::within(30, self.heard.recv())
            .await
            .expect("the server runs")
    }
}
