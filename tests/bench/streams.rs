//! A few large things: blobs from the cache, blobs from upstream, tunnels.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use hyper::Method;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Barrier,
};

use crate::{
    Bench,
    client::{self, Ask, Trust},
    origin::{Document, HOST},
    peer::Peer,
    scale::{CROWD, WARM_CLIENTS, gib, size},
    table::median,
};

impl Bench {
    /// A cached blob, read by several at once.
    pub async fn warm(&mut self) {
        let mut peer = self.kind.start(&self.origin, None).await;
        let blob = self.origin.warm.clone();
        peer.keep(&self.origin, &blob).await;
        peer.mark().await;
        self.origin.forget();
        let together = together(&peer, &blob, WARM_CLIENTS).await;
        let cpu = peer.used().await;
        peer.had_hits(&self.origin, &blob);

        let bytes = self.scale.warm * WARM_CLIENTS;
        let work = format!("blob hit, {}, {WARM_CLIENTS} connections", size(bytes));
        self.add(&work, "s CPU a GiB", cpu / gib(bytes));
        self.add(&work, "s wall a GiB", together.seconds / gib(bytes));
        self.add(&work, "max RSS MiB", peer.meter.peak_rss_mib());
    }

    /// A blob that has to be fetched, verified and stored.
    pub async fn cold(&mut self) {
        let mut peer = self.kind.start(&self.origin, None).await;
        self.warm_up(&peer).await;
        let blob = self.origin.cold.clone();
        peer.mark().await;
        let together = together(&peer, &blob, 1).await;
        let cpu = peer.used().await;

        let gib = gib(self.scale.cold);
        let work = format!(
            "cold blob, {} (verified by pierhead)",
            size(self.scale.cold)
        );
        self.add(&work, "s CPU a GiB", cpu / gib);
        self.add(&work, "s wall a GiB", together.seconds / gib);
        self.add(&work, "max RSS MiB", peer.meter.peak_rss_mib());
    }

    /// From the beginning of a connection to the first byte of a cold blob, beside the same without
    /// a gateway. Once with an origin that closes each connection, so that the gateway shakes hands each
    /// time too, and once with one that keeps them, as registries do.
    pub async fn first_byte(&mut self) {
        let peer = self.kind.start(&self.origin, None).await;
        self.warm_up(&peer).await;
        let firsts = self.origin.firsts.clone();
        let (kept, closed) = firsts.split_at(firsts.len() / 2);
        self.first_bytes(&peer, kept, "first byte").await;
        self.origin.close_after_each(true);
        let what = "first byte, the origin closes each connection";
        self.first_bytes(&peer, closed, what).await;
        self.origin.close_after_each(false);
    }

    async fn first_bytes(&mut self, peer: &Peer, blobs: &[Document], what: &str) {
        let trust = Trust::only(&self.origin.ca.pem);
        let (mut straight, mut through) = (Vec::new(), Vec::new());
        for blob in blobs {
            let ask = Ask::new(HOST, blob);
            let started = Instant::now();
            let mut connection = client::direct(self.origin.addr, HOST, &trust).await;
            let came = connection.get(&ask, blob).await;
            straight.push((came.first - started).as_secs_f64() * 1e3);

            let started = Instant::now();
            let came = peer.open().await.get(&peer.ask(blob), blob).await;
            through.push((came.first - started).as_secs_f64() * 1e3);
            // What it still does with the blob is no part of the next one.
            peer.meter.settled_cpu().await;
        }

        let work = format!("cold blob of {}, {what}", size(self.scale.first));
        self.add(&work, "ms", median(&through));
        self.add(&work, "ms without a gateway", median(&straight));
    }

    /// Many who want the same cold blob at the same time.
    pub async fn crowd(&mut self) {
        let mut peer = self.kind.start(&self.origin, None).await;
        self.warm_up(&peer).await;
        let blob = self.origin.crowd.clone();
        peer.mark().await;
        self.origin.forget();
        let together = together(&peer, &blob, CROWD).await;
        let cpu = peer.used().await;

        let work = format!("{CROWD} clients, one cold {} blob", size(self.scale.crowd));
        let asked = |method| self.origin.asked(&method, &blob) as f64;
        let (gets, heads) = (asked(Method::GET), asked(Method::HEAD));
        self.add(&work, "upstream GETs", gets);
        self.add(&work, "upstream HEADs", heads);
        self.add(&work, "s CPU", cpu);
        self.add(&work, "s wall", together.seconds);
        self.add(&work, "median first byte ms", median(&together.firsts));
        self.add(&work, "max RSS MiB", peer.meter.peak_rss_mib());
    }

    /// Bytes that nobody looks at, downwards.
    pub async fn tunnel(&mut self) {
        let source = source().await;
        let mut peer = self.kind.start(&self.origin, Some(source)).await;
        let mut socket = peer.route().tunnel(source).await;
        stream(&mut socket, 16 << 20).await;
        peer.mark().await;
        let started = Instant::now();
        stream(&mut socket, self.scale.tunnel).await;
        let wall = started.elapsed().as_secs_f64();
        let cpu = peer.used().await;

        let gib = gib(self.scale.tunnel);
        let work = format!("CONNECT tunnel, {}", size(self.scale.tunnel));
        self.add(&work, "s CPU a GiB", cpu / gib);
        self.add(&work, "s wall a GiB", wall / gib);
        self.add(&work, "max RSS MiB", peer.meter.peak_rss_mib());
    }

    /// A first request, so that what every cold one needs once is there.
    async fn warm_up(&self, peer: &Peer) {
        let manifest = &self.origin.manifest;
        peer.open().await.get(&peer.ask(manifest), manifest).await;
    }
}

/// How it went with several at once.
struct Together {
    /// From the first beginning to the last end.
    seconds: f64,
    /// Milliseconds from the request to the first byte.
    firsts: Vec<f64>,
}

/// `clients` ask for `blob` at the same time, on connections that are open already.
async fn together(peer: &Peer, blob: &Document, clients: usize) -> Together {
    let start = Arc::new(Barrier::new(clients + 1));
    let mut tasks = Vec::new();
    for _ in 0..clients {
        let mut connection = peer.open().await;
        let (ask, blob, start) = (peer.ask(blob), blob.clone(), Arc::clone(&start));
        tasks.push(tokio::spawn(async move {
            start.wait().await;
            let asked = Instant::now();
            let came = connection.get(&ask, &blob).await;
            (came.first - asked).as_secs_f64() * 1e3
        }));
    }
    start.wait().await;
    let started = Instant::now();
    let mut firsts = Vec::new();
    for task in tasks {
        firsts.push(task.await.expect("no panic there"));
    }
    Together {
        seconds: started.elapsed().as_secs_f64(),
        firsts,
    }
}

/// Asks a [`source`] for `len` bytes, and reads them.
pub async fn stream(socket: &mut TcpStream, len: usize) {
    socket.write_u64(len as u64).await.expect("it reads");
    client::drain(socket, len).await;
}

/// A server that sends as many bytes as it is told to, again and again.
pub async fn source() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("a bound socket");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(send(socket));
        }
    });
    addr
}

async fn send(mut socket: TcpStream) -> std::io::Result<()> {
    loop {
        let mut left = usize::try_from(socket.read_u64().await?).expect("64 bits");
        while left > 0 {
            let n = left.min(PIECE.len());
            socket.write_all(&PIECE[..n]).await?;
            left -= n;
        }
    }
}

static PIECE: [u8; 256 << 10] = [7; 256 << 10];
