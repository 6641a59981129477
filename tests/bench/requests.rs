//! Many small things: hits of a manifest, connections, handshakes.

use std::{sync::Arc, time::Instant};

use crate::{
    Bench,
    client::Ask,
    peer::{MANY, Route},
    scale::{MANIFEST_CLIENTS, OPENERS},
    table::percentile,
};

impl Bench {
    /// A manifest by tag, from connections that stay.
    pub async fn manifest(&mut self) {
        let mut peer = self.kind.start(&self.origin, None).await;
        let manifest = self.origin.manifest.clone();
        let ask = peer.ask(&manifest);
        let mut connections = Vec::new();
        for _ in 0..MANIFEST_CLIENTS {
            let mut connection = peer.open().await;
            for _ in 0..WARM_UP.div_ceil(self.kind.patience()) {
                connection.get(&ask, &manifest).await;
            }
            connections.push(connection);
        }
        peer.keep(&self.origin, &manifest).await;
        let each = self.scale.manifests / MANIFEST_CLIENTS / self.kind.patience();
        peer.mark().await;
        self.origin.forget();

        let started = Instant::now();
        let mut clients = Vec::new();
        for mut connection in connections {
            let (ask, manifest) = (ask.clone(), manifest.clone());
            clients.push(tokio::spawn(async move {
                let mut took = Vec::with_capacity(each);
                for _ in 0..each {
                    let asked = Instant::now();
                    let came = connection.get(&ask, &manifest).await;
                    took.push((came.last - asked).as_secs_f64() * 1e3);
                }
                (connection, took)
            }));
        }
        let (mut took, mut open) = (Vec::new(), Vec::new());
        for client in clients {
            let (connection, its) = client.await.expect("no panic there");
            open.push(connection);
            took.extend(its);
        }
        let wall = started.elapsed().as_secs_f64();
        let cpu = peer.used().await;
        peer.had_hits(&self.origin, &manifest);

        let n = (each * MANIFEST_CLIENTS) as f64;
        let work = format!("manifest hit by tag, {MANIFEST_CLIENTS} keep-alive connections");
        self.add(&work, "µs CPU a request", cpu / n * 1e6);
        self.add(&work, "requests/s", n / wall);
        self.add(&work, "p50 ms", percentile(&took, 50));
        self.add(&work, "p99 ms", percentile(&took, 99));
        self.add(&work, "max RSS MiB", peer.meter.peak_rss_mib());
    }

    /// CONNECT, TLS 1.3 and one GET of the manifest, for each anew.
    pub async fn connection(&mut self) {
        let mut peer = self.kind.start(&self.origin, None).await;
        let manifest = self.origin.manifest.clone();
        let ask = peer.ask(&manifest);
        for _ in 0..WARM_UP {
            peer.open().await.get(&ask, &manifest).await;
        }
        peer.keep(&self.origin, &manifest).await;
        peer.mark().await;
        self.origin.forget();
        let host = |_| crate::origin::HOST.to_owned();
        let asked = Some((ask, manifest.clone()));
        let wall = open(&peer.route(), self.scale.connections, host, asked).await;
        let cpu = peer.used().await;
        peer.had_hits(&self.origin, &manifest);

        let work = "new connection: CONNECT where it is a proxy, TLS 1.3, one GET";
        let n = self.scale.connections as f64;
        self.add(work, "ms CPU each", cpu / n * 1e3);
        self.add(work, "connections/s", n / wall);
        self.add(work, "max RSS MiB", peer.meter.peak_rss_mib());
    }

    /// CONNECT and TLS 1.3 to hosts that nobody has asked for before: a certificate is made for
    /// each.
    pub async fn unseen(&mut self) {
        let mut peer = self.kind.start(&self.origin, None).await;
        for n in 0..WARM_UP {
            let host = format!("warm-{n}.{MANY}");
            peer.route().open(&host).await;
        }
        peer.mark().await;
        let host = |n| format!("host-{n}.{MANY}");
        let wall = open(&peer.route(), self.scale.hosts, host, None).await;
        let cpu = peer.used().await;

        let work = "handshake alone, a never-seen host each";
        let n = self.scale.hosts as f64;
        self.add(work, "ms CPU each", cpu / n * 1e3);
        self.add(work, "connections/s", n / wall);
        self.add(work, "max RSS MiB", peer.meter.peak_rss_mib());
    }

    /// Adds a figure of the peer that is measured now.
    pub fn add(&mut self, work: &str, unit: &'static str, figure: f64) {
        self.table.add(self.kind.name(), work, unit, figure);
    }
}

/// Opens `n` connections, the nth to `host(n)`, asks once on each if there is something to ask,
/// and closes them; a few at a time. Returns the seconds it took.
async fn open(
    route: &Route,
    n: usize,
    host: impl Fn(usize) -> String + Send + Sync + 'static,
    ask: Option<(Ask, crate::origin::Document)>,
) -> f64 {
    let host = Arc::new(host);
    let started = Instant::now();
    let mut openers = Vec::new();
    for opener in 0..OPENERS {
        let (route, host, ask) = (route.clone(), Arc::clone(&host), ask.clone());
        openers.push(tokio::spawn(async move {
            for n in (opener..n).step_by(OPENERS) {
                let mut connection = route.open(&host(n)).await;
                if let Some((ask, document)) = &ask {
                    connection.get(ask, document).await;
                }
            }
        }));
    }
    for opener in openers {
        opener.await.expect("no panic there");
    }
    started.elapsed().as_secs_f64()
}

/// Requests or connections that are not measured.
const WARM_UP: usize = 50;
