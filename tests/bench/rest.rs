//! Many connections on which nothing happens.

use std::time::Duration;

use crate::{Bench, peer::Peer, streams};

impl Bench {
    /// Connections that have had one answer and are kept.
    pub async fn idle(&mut self) {
        self.connections(self.scale.idle).await;
    }

    /// As many as a large site has, and half as many tunnels.
    pub async fn many(&mut self) {
        self.connections(self.scale.many).await;
        self.tunnels(self.scale.many / 2).await;
    }

    async fn connections(&mut self, n: usize) {
        let peer = self.kind.start(&self.origin, None).await;
        let manifest = self.origin.manifest.clone();
        let ask = peer.ask(&manifest);
        let open = async || {
            let mut connection = peer.open().await;
            connection.get(&ask, &manifest).await;
            connection.rest();
            connection
        };
        let each = grown(&peer, n, open).await;
        self.say(&format!("{n} idle intercepted connections"), each, &peer);
    }

    async fn tunnels(&mut self, n: usize) {
        let source = streams::source().await;
        let peer = self.kind.start(&self.origin, Some(source)).await;
        let open = async || {
            let mut socket = peer.route().tunnel(source).await;
            streams::stream(&mut socket, 64 << 10).await;
            socket
        };
        let each = grown(&peer, n, open).await;
        self.say(&format!("{n} idle tunnels"), each, &peer);
    }

    fn say(&mut self, work: &str, each: f64, peer: &Peer) {
        self.add(work, "KiB each", each);
        self.add(work, "max RSS MiB", peer.meter.peak_rss_mib());
    }
}

/// By how many KiB the peer grows with each of `n` that are opened and rest.
async fn grown<C>(peer: &Peer, n: usize, mut open: impl AsyncFnMut() -> C) -> f64 {
    let mut all = Vec::new();
    // The first ones pay for what all share.
    for _ in 0..SHARED {
        all.push(open().await);
    }
    tokio::time::sleep(A_WHILE).await;
    peer.meter.settled_cpu().await;
    let before = peer.meter.rss();
    for _ in 0..n {
        all.push(open().await);
    }
    tokio::time::sleep(A_WHILE).await;
    peer.meter.settled_cpu().await;
    peer.meter.rss().saturating_sub(before) as f64 / n as f64
}

/// After which a connection is an idle one, and not one between two requests.
const A_WHILE: Duration = Duration::from_secs(4);
const SHARED: usize = 50;
