//! Who is measured: pierhead, and what people have today.

mod daemon;
mod docker_registry;
mod nginx;
mod squid;

use std::{any::Any, net::SocketAddr, time::Duration};

use crate::{
    client::{self, Ask, Connection, Trust},
    meter::Meter,
    origin::{Document, HOST, Origin},
    support::Setup,
};

/// A program that caches registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pierhead,
    Nginx,
    Squid,
    DockerRegistry,
}

/// One that runs, with an empty cache.
pub struct Peer {
    kind: Kind,
    /// Ended when this is dropped.
    _process: Box<dyn Any>,
    pub meter: Meter,
    route: Route,
    /// CPU time at the last [`mark`](Self::mark).
    before: Duration,
}

/// How its clients reach what it caches.
#[derive(Clone)]
pub struct Route {
    /// Where they connect.
    addr: SocketAddr,
    /// A proxy: the port to CONNECT to. `None`: it is the registry to them.
    connect: Option<u16>,
    trust: Trust,
}

/// A registry for each of the hosts below it, none of which has an address.
pub const MANY: &str = "many.example";
/// A host to which CONNECT is a tunnel.
pub const TUNNEL: &str = "tunnel.example";

// === impl Kind ===

impl Kind {
    pub const ALL: &'static [Self] = &[
        Self::Pierhead,
        Self::Nginx,
        Self::Squid,
        Self::DockerRegistry,
    ];

    /// Its column's heading.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pierhead => "pierhead",
            Self::Nginx => "nginx",
            Self::Squid => "squid",
            Self::DockerRegistry => "docker-registry",
        }
    }

    /// Whether that work is one that it does at all.
    pub fn does(self, work: &str) -> bool {
        match work {
            // No certificates for hosts, no tunnels without a proxy.
            "unseen" | "tunnel" => matches!(self, Self::Pierhead | Self::Squid),
            // Of the gateway's own promises, side by side with no gateway at all.
            "many" | "far" | "wide" | "growth" => self == Self::Pierhead,
            _ => true,
        }
    }

    /// It is asked so many times less often, where thousands of answers would take minutes.
    pub fn patience(self) -> usize {
        match self {
            Self::DockerRegistry => 20,
            _ => 1,
        }
    }

    /// Whether it asks upstream what a tag stands for each time, by design.
    pub fn confirms_each_tag(self) -> bool {
        self == Self::DockerRegistry
    }

    /// Starts it before `origin`; `source` is where tunnels lead.
    pub async fn start(self, origin: &Origin, source: Option<SocketAddr>) -> Peer {
        match self {
            Self::Pierhead => Peer::pierhead(origin, source).await,
            Self::Nginx => nginx::start(origin).await,
            Self::Squid => squid::start(origin, source).await,
            Self::DockerRegistry => docker_registry::start(origin).await,
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
            .set("limits", "connections_per_client", "100000")
            // As by default; tests count what their clients asked for.
            .set("upstream", "lookahead", "true");
        if let Some(source) = source {
            let rule = format!("[[policy.rule]]\naction = \"tunnel\"\nhosts = [{TUNNEL:?}]");
            setup = setup.resolve(TUNNEL, source).more(&rule);
        }
        let gateway = setup.start().await;
        let route = Route {
            addr: gateway.proxy,
            connect: Some(443),
            trust: Trust::only(&gateway.ca_pem),
        };
        Self::new(Kind::Pierhead, Box::new(gateway), route)
    }

    /// One that is the registry to its clients, with a certificate of the origin's authority.
    fn registry(kind: Kind, process: Box<dyn Any>, addr: SocketAddr, origin: &Origin) -> Self {
        let route = Route {
            addr,
            connect: None,
            trust: Trust::only(&origin.ca.pem),
        };
        Self::new(kind, process, route)
    }

    /// `process` must run and have its own children.
    fn new(kind: Kind, process: Box<dyn Any>, route: Route) -> Self {
        Self {
            kind,
            _process: process,
            meter: Meter::attach(),
            route,
            before: Duration::ZERO,
        }
    }

    pub fn route(&self) -> Route {
        self.route.clone()
    }

    /// A connection to the origin's host through it.
    pub async fn open(&self) -> Connection {
        self.route.open(HOST).await
    }

    /// A request for what lies at the origin.
    pub fn ask(&self, document: &Document) -> Ask {
        match self.route.connect {
            Some(port) if port != 443 => Ask::new(&format!("{HOST}:{port}"), document),
            _ => Ask::new(HOST, document),
        }
    }

    /// Waits until what it has just passed on is in its cache, where it tells so by asking no more.
    pub async fn keep(&self, origin: &Origin, document: &Document) {
        let ask = self.ask(document);
        for _ in 0..KEEPS {
            origin.forget();
            self.open().await.get(&ask, document).await;
            if origin.asked_in_all() == 0 || self.kind.confirms_each_tag() && document.is_tag() {
                return;
            }
            tokio::time::sleep(SOON).await;
        }
        panic!("it asks upstream again and again for {}", document.path);
    }

    /// Fails if hits were none. Who confirms each tag is told from who does not by the figures.
    pub fn had_hits(&self, origin: &Origin, document: &Document) {
        if !(self.kind.confirms_each_tag() && document.is_tag()) {
            assert_eq!(origin.asked_in_all(), 0, "hits that asked the origin");
        }
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

// === impl Route ===

impl Route {
    /// A connection to `host` as if it were there.
    pub async fn open(&self, host: &str) -> Connection {
        match self.connect {
            Some(port) => client::intercepted(self.addr, host, port, &self.trust).await,
            None => client::direct(self.addr, host, &self.trust).await,
        }
    }

    /// CONNECT to the host that is a tunnel to `source`.
    pub async fn tunnel(&self, source: SocketAddr) -> tokio::net::TcpStream {
        let port = match self.connect {
            Some(443) => 443,
            _ => source.port(),
        };
        client::connect(self.addr, TUNNEL, port).await
    }
}

const SOON: Duration = Duration::from_millis(100);
const KEEPS: usize = 100;
