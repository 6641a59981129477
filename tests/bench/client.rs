//! Clients that cost little themselves: a request is a few bytes written once, a body is compared
//! where it was decrypted.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs::{cipher_suite, kx_group},
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    origin::Document,
    support::{authority, wire},
};

/// Whom a client trusts and what it offers.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

/// An HTTP/1.1 connection in TLS.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

/// When an answer came.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    /// The body's first byte.
    pub first: Instant,
    pub last: Instant,
}

/// A request for a document, written out.
#[derive(Clone, Debug)]
pub struct Ask(Arc<str>);

// === impl Trust ===

impl Trust {
    /// Trusts this CA alone.
    pub fn only(ca_pem: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            let certificate = certificate.expect("PEM");
            roots.add(certificate).expect("a CA certificate");
        }
        let mut provider = (*authority::provider()).clone();
        provider.cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
        ];
        provider.kx_groups = vec![kx_group::X25519];
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("suites of TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        Self(Arc::new(config))
    }

    async fn handshake(&self, socket: TcpStream, host: &str) -> Connection {
        socket.set_nodelay(true).expect("a TCP socket");
        let name = ServerName::try_from(host.to_owned()).expect("a host name");
        let connector = TlsConnector::from(Arc::clone(&self.0));
        let stream = connector.connect(name, socket).await;
        Connection {
            stream: stream.unwrap_or_else(|error| panic!("TLS to {host}: {error}")),
            buffer: Vec::new(),
        }
    }
}

/// TLS to `host`, which listens at `addr`.
pub async fn direct(addr: SocketAddr, host: &str, trust: &Trust) -> Connection {
    let socket = TcpStream::connect(addr).await.expect("it listens");
    trust.handshake(socket, host).await
}

/// CONNECT to `host`, and TLS inside.
pub async fn intercepted(proxy: SocketAddr, host: &str, port: u16, trust: &Trust) -> Connection {
    let socket = connect(proxy, host, port).await;
    trust.handshake(socket, host).await
}

/// CONNECT to `host`.
pub async fn connect(proxy: SocketAddr, host: &str, port: u16) -> TcpStream {
    let (raw, socket) = wire::connect(proxy, &format!("{host}:{port}"), "").await;
    assert_eq!(raw.status, 200, "CONNECT {host}: {}", raw.text());
    socket
}

/// Reads `len` bytes and throws them away.
pub async fn drain(stream: &mut (impl AsyncRead + Unpin), len: usize) {
    let mut buffer = vec![0; BUFFER];
    let mut left = len;
    while left > 0 {
        let n = stream.read(&mut buffer).await.expect("it goes on");
        assert!(n > 0 && n <= left, "{n} bytes where {left} were left");
        left -= n;
    }
}

// === impl Ask ===

impl Ask {
    /// GET of `document` at `host`, as containerd asks.
    pub fn new(host: &str, document: &Document) -> Self {
        let accept = "application/vnd.docker.distribution.manifest.v2+json, \
             application/vnd.docker.distribution.manifest.list.v2+json, \
             application/vnd.oci.image.manifest.v1+json, \
             application/vnd.oci.image.index.v1+json, */*";
        let path = &document.path;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: containerd/1.7.24\r\n\
             Accept: {accept}\r\n\r\n"
        );
        Self(request.into())
    }

    /// The same as a HEAD.
    pub fn head(host: &str, document: &Document) -> Self {
        let Self(get) = Self::new(host, document);
        Self(get.replacen("GET", "HEAD", 1).into())
    }
}

// === impl Connection ===

impl Connection {
    /// Asks, and reads an answer that must be 200 and hold exactly the document.
    pub async fn get(&mut self, ask: &Ask, document: &Document) -> Came {
        self.stream
            .write_all(ask.0.as_bytes())
            .await
            .expect("it reads");
        self.stream.flush().await.expect("it reads");
        // An idle connection has no buffer: there are thousands of them.
        self.buffer.resize(BUFFER, 0);
        let mut filled = 0;
        let head = loop {
            filled += self.more(filled).await;
            let bytes = &self.buffer[..filled];
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
        };
        check(&self.buffer[..filled], head, document.bytes.len());

        let mut expected = &document.bytes[..];
        let mut first = (filled > head).then(Instant::now);
        let mut fresh = head..filled;
        loop {
            let bytes = &self.buffer[fresh];
            let (now, later) = expected.split_at(bytes.len().min(expected.len()));
            assert!(now == bytes, "other bytes than the origin's");
            expected = later;
            if expected.is_empty() {
                break;
            }
            fresh = 0..self.more(0).await;
            first.get_or_insert_with(Instant::now);
        }
        let last = Instant::now();
        Came {
            first: first.unwrap_or(last),
            last,
        }
    }

    /// Asks, and reads an answer without a body, which must be 200.
    pub async fn head(&mut self, ask: &Ask) {
        self.stream
            .write_all(ask.0.as_bytes())
            .await
            .expect("it reads");
        self.buffer.resize(BUFFER, 0);
        let mut filled = 0;
        while !self.buffer[..filled].ends_with(b"\r\n\r\n") {
            filled += self.more(filled).await;
        }
        assert!(self.buffer.starts_with(b"HTTP/1.1 200"));
    }

    /// Gives the buffer back.
    pub fn rest(&mut self) {
        self.buffer = Vec::new();
    }

    async fn more(&mut self, from: usize) -> usize {
        let n = self.stream.read(&mut self.buffer[from..]).await;
        let n = n.unwrap_or_else(|error| panic!("in the middle of an answer: {error}"));
        assert!(n > 0, "it closed in the middle of an answer");
        n
    }
}

/// The head must say 200 and `len`.
fn check(answer: &[u8], head: usize, len: usize) {
    let text = || String::from_utf8_lossy(&answer[..answer.len().min(head + 500)]).into_owned();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", text());
    let mut lines = answer[..head].split(|byte| *byte == b'\n');
    let announced = lines.find_map(|line| {
        let (name, value) = line.split_at_checked(15)?;
        let value = std::str::from_utf8(value).ok()?.trim().parse().ok();
        value.filter(|_: &usize| name.eq_ignore_ascii_case(b"content-length:"))
    });
    assert_eq!(announced, Some(len), "{}", text());
}

const BUFFER: usize = 128 << 10;
