//! Whole images: from far away, and by many at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Barrier;

use crate::{
    Bench,
    client::{self, Ask, Connection, Trust},
    origin::{Distance, HOST, Image},
    scale::size,
    table::{median, percentile},
};

/// What dockerd fetches at a time.
const AT_ONCE: usize = 3;
const LAYERS: usize = 12;
const LATENCY: Duration = Duration::from_millis(50);
const MIB: u64 = 1 << 20;

impl Bench {
    /// A cold image of twelve layers from a registry that is far away, beside the same without a
    /// gateway.
    pub async fn far(&mut self) {
        let image = self.origin.image("far", LAYERS, self.scale.far);
        let trust = Trust::only(&self.origin.ca.pem);
        for rate in [20, 5] {
            let peer = self.kind.start(&self.origin, None).await;
            let latency = LATENCY;
            let rate_in_bytes = rate * MIB;
            self.origin.is_at(Some(Distance {
                latency,
                rate: rate_in_bytes,
            }));
            let addr = self.origin.addr;
            let straight = pull(&image, || client::direct(addr, HOST, &trust)).await;
            let through = pull(&image, || peer.open()).await;
            self.origin.is_at(None);
            let work = format!(
                "cold image, {LAYERS} x {}, {} ms and {rate} MiB/s a connection",
                size(self.scale.far),
                latency.as_millis()
            );
            self.add(&work, "s", through);
            self.add(&work, "s without a gateway", straight);
            self.add(&work, "of the time without", through / straight);
        }
    }

    /// Many who pull the same cold image at the same time.
    pub async fn wide(&mut self) {
        let image = self.origin.image("wide", 16, self.scale.wide / 16);
        let alone = {
            let peer = self.kind.start(&self.origin, None).await;
            pull(&image, || peer.open()).await
        };
        let mut peer = self.kind.start(&self.origin, None).await;
        peer.mark().await;
        self.origin.forget();
        let route = peer.route();
        let start = Arc::new(Barrier::new(self.scale.crowds));
        let clients = (0..self.scale.crowds).map(|_| {
            let (route, image, start) = (route.clone(), image.clone(), Arc::clone(&start));
            tokio::spawn(async move {
                start.wait().await;
                pull(&image, || route.open(HOST)).await
            })
        });
        let clients: Vec<_> = clients.collect();
        let mut took = Vec::new();
        for client in clients {
            took.push(client.await.expect("no panic there"));
        }
        let times = self.origin.sent() as f64 / image.len() as f64;
        let slowest = percentile(&took, 100);

        let work = format!(
            "{} clients, one cold image of {}",
            self.scale.crowds,
            size(self.scale.wide)
        );
        self.add(&work, "times the image from upstream", times);
        self.add(&work, "s, the slowest", slowest);
        self.add(&work, "of the median's time", slowest / median(&took));
        self.add(&work, "s, one alone", alone);
        self.add(&work, "s CPU", peer.used().await);
        self.add(&work, "max RSS MiB", peer.meter.peak_rss_mib());
    }
}

/// Pulls all of an image, as dockerd does: seconds.
async fn pull<F>(image: &Image, open: impl Fn() -> F) -> f64
where
    F: Future<Output = Connection>,
{
    let started = Instant::now();
    let mut first = open().await;
    for one in [&image.manifest, &image.config] {
        first.get(&Ask::new(HOST, one), one).await;
    }
    let next = AtomicUsize::new(0);
    let others = (1..AT_ONCE).map(|_| layers(image, &next, None, &open));
    tokio::join!(
        layers(image, &next, Some(first), &open),
        futures_util::future::join_all(others)
    );
    started.elapsed().as_secs_f64()
}

/// Fetches one layer after another, as long as others have left some.
async fn layers<F>(
    image: &Image,
    next: &AtomicUsize,
    connection: Option<Connection>,
    open: &impl Fn() -> F,
) where
    F: Future<Output = Connection>,
{
    let mut connection = match connection {
        Some(connection) => connection,
        None => open().await,
    };
    while let Some(layer) = image.layers.get(next.fetch_add(1, Ordering::Relaxed)) {
        connection.get(&Ask::new(HOST, layer), layer).await;
    }
}

// === impl Image ===

impl Image {
    /// Bytes of all that a pull brings.
    fn len(&self) -> u64 {
        let all = self.layers.iter().chain([&self.manifest, &self.config]);
        all.map(|one| one.bytes.len() as u64).sum()
    }
}
