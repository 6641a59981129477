//! Who is measured. pierhead is the only one yet; another is a variant here, a way to start it, and
//! a column of the table.

use std::{net::SocketAddr, time::Duration};

use crate::{
    client::{self, Ask, Connection, Trust},
    meter::Meter,
    origin::{HOST, Origin},
    support::{Gateway, Setup},
};

/// A program that caches registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pierhead,
}

/// One that runs, with an empty cache.
pub struct Peer {
    /// Killed when this is dropped.
    gateway: Gateway,
    pub meter: Meter,
    trust: Trust,
    /// CPU time at the last [`mark`](Self::mark).
    before: Duration,
}

/// A registry for each of the hosts below it, none of which has an address.
pub const MANY: &str = "many.example";
/// A host to which CONNECT is a tunnel.
pub const TUNNEL: &str = "tunnel.example";

// === impl Kind ===

impl Kind {
    pub const ALL: &'static [Self] = &[Self::Pierhead];

    /// Its column's heading.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pierhead => "pierhead",
        }
    }

    /// Starts it before `origin`; `source` is where tunnels lead.
    pub async fn start(self, origin: &Origin, source: Option<SocketAddr>) -> Peer {
        match self {
            Self::Pierhead => Peer::pierhead(origin, source).await,
        }
    }
}

// === impl Peer ===

impl Peer {
    async fn pierhead(origin: &Origin, source: Option<SocketAddr>) -> Self {
        let mut setup = Setup::default()
            .resolve(HOST, origin.addr)
            .registry(HOST, "")
            .registry(&format!("*.{MANY}"), "")
            .trusting(&origin.ca.pem)
            // What is measured as a hit shall not be asked for again in the middle.
            .text("cache", "tag_ttl", "1h")
            .set("limits", "connections_per_client", "100000");
        if let Some(source) = source {
            let rule = format!("[[policy.rule]]\naction = \"tunnel\"\nhosts = [{TUNNEL:?}]");
            setup = setup.resolve(TUNNEL, source).more(&rule);
        }
        let gateway = setup.start().await;
        Self {
            meter: Meter::attach(),
            trust: Trust::only(&gateway.ca_pem),
            before: Duration::ZERO,
            gateway,
        }
    }

    /// Where its clients connect.
    pub fn proxy(&self) -> SocketAddr {
        self.gateway.proxy
    }

    /// Whom its clients trust.
    pub fn trust(&self) -> Trust {
        self.trust.clone()
    }

    /// A connection to the origin's host through it.
    pub async fn open(&self) -> Connection {
        client::intercepted(self.proxy(), HOST, &self.trust).await
    }

    /// A request for what lies at the origin.
    pub fn ask(&self, document: &crate::origin::Document) -> Ask {
        Ask::new(HOST, document)
    }

    /// Waits until it rests; what it uses from here on is [`used`](Self::used).
    pub async fn mark(&mut self) {
        self.before = self.meter.settled_cpu().await;
    }

    /// CPU seconds since [`mark`](Self::mark), once it rests again.
    pub async fn used(&self) -> f64 {
        let now = self.meter.settled_cpu().await;
        now.saturating_sub(self.before).as_secs_f64()
    }
}
