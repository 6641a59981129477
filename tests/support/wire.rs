//! Bytes on the proxy port, for what no HTTP library would send.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::within;

/// What came back: a head, and what followed it.
#[derive(Debug)]
pub struct Raw {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

/// Sends `bytes`, and reads until the other side closes.
pub async fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(addr).await.expect("it listens");
    // It may have answered and closed before everything was written.
    let _ = socket.write_all(bytes).await;
    rest(&mut socket).await
}

/// Everything until the other side closes or resets.
pub async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = within(60, socket.read(&mut buffer)).await {
        all.extend_from_slice(&buffer[..n]);
    }
    all
}

/// `CONNECT authority`: what was answered, and the connection. The body is read when there is a
/// `Content-Length` and the status is no 2xx.
pub async fn connect(addr: SocketAddr, authority: &str, headers: &str) -> (Raw, TcpStream) {
    let mut socket = TcpStream::connect(addr).await.expect("it listens");
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{headers}\r\n");
    socket.write_all(head.as_bytes()).await.expect("it reads");
    let raw = answer(&mut socket).await;
    (raw, socket)
}

/// Reads one answer.
pub async fn answer(socket: &mut (impl AsyncRead + Unpin)) -> Raw {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = within(30, socket.read_u8()).await;
        let so_far = String::from_utf8_lossy(&head).into_owned();
        head.push(byte.unwrap_or_else(|error| panic!("{error} after {so_far:?}")));
    }
    let head = String::from_utf8(head).expect("a head in ASCII");
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {head:?}"));
    let lower = head.to_lowercase();
    let len = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let len = len.and_then(|len| len.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; if status / 100 == 2 { 0 } else { len }];
    within(30, socket.read_exact(&mut body))
        .await
        .expect("the whole body");
    Raw { status, head, body }
}

// === impl Raw ===

impl Raw {
    /// Makes one of what [`exchange`] returned; the body is not decoded.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, _) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let head = head.to_owned();
        let body = bytes.get(head.len() + 4..)?.to_vec();
        Some(Self { status, head, body })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
