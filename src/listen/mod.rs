//! Socket to connection.

mod late;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::connect::{Gateway, Peer};
use crate::telemetry::metrics::Metrics;
use crate::tls::Front;
use crate::wire::drain::Drain;
use crate::wire::pace::{Paced, Patience};
use crate::wire::shares::who;
use crate::wire::socket::Socket;

/// Counts connections by client address, over all listeners; an IPv6 network of 64 bits is one client,
/// because one host may use all of it.
#[derive(Debug)]
pub struct Clients {
    most: AtomicUsize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

#[derive(Debug)]
struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
    metrics: Arc<Metrics>,
}

/// Binds a listening socket; an error names the address that cannot be bound, and the mend.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|e| {
        let port = address.port();
        let mend = match e.kind() {
            io::ErrorKind::AddrInUse => format!(
                "; another program has it, perhaps another pierhead (`ss -ltnp sport = :{port}` says which): end that, or say another port in [listen]"
            ),
            io::ErrorKind::AddrNotAvailable => format!(
                "; this machine has no such address: say one of its own in [listen], or 0.0.0.0:{port} for all of them"
            ),
            io::ErrorKind::PermissionDenied => {
                "; a port below 1024 is root's: say a higher one in [listen], or let systemd pass the socket"
                    .to_owned()
            }
            _ => String::new(),
        };
        io::Error::new(e.kind(), format!("cannot listen on {address}: {e}{mend}"))
    })
}

/// One listening socket, and what its clients speak.
#[derive(Debug)]
pub struct Door {
    pub listener: TcpListener,
    /// `Some`: in TLS.
    pub front: Option<Arc<Front>>,
    /// The service manager holds it as well: what is left in its queue is the next process's.
    pub passed: bool,
}

/// Accepts clients until the drain begins; who comes after that is told so.
pub async fn accept(
    door: Door,
    gateway: Arc<Gateway>,
    patience: Arc<ArcSwap<Patience>>,
    clients: Arc<Clients>,
    drain: Drain,
    metrics: Arc<Metrics>,
) {
    let Door {
        listener,
        front,
        passed,
    } = door;
    let last_words = Arc::new(Semaphore::new(LAST_WORDS));
    loop {
        let (socket, peer) = tokio::select! {
            // Nobody is let in any more once the end has begun.
            biased;
            () = drain.begun() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    // Most often no descriptors are left: taking a breath lets some close.
                    warn!(error = %e, "a connection could not be accepted");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            },
        };
        let client = peer.ip().to_canonical();
        let Some(place) = clients.enter(client, &metrics) else {
            metrics.connections_refused.inc();
            debug!(%client, "too many connections from one client");
            // Of a flood, most are just closed.
            if front.is_none()
                && let Ok(turn) = last_words.clone().try_acquire_owned()
            {
                tokio::spawn(async move {
                    refuse(socket).await;
                    drop(turn);
                });
            }
            continue;
        };
        metrics.connection_accepted(match front {
            Some(_) => "proxy_tls",
            None => "proxy",
        });
        let _ = socket.set_nodelay(true);
        let peer = Peer {
            client,
            user: None,
            secure: front.is_some(),
            drain: drain.clone(),
            place: Arc::new(place),
        };
        let gateway = gateway.clone();
        let patience = **patience.load();
        match front.clone() {
            None => {
                let socket = Paced::new(Socket::Plain(socket), patience);
                drain.spawn(gateway.serve(socket, peer));
            }
            Some(front) => {
                let metrics = metrics.clone();
                drain.spawn(async move {
                    let Some(socket) = secured(socket, &front, patience, &peer, &metrics).await
                    else {
                        return;
                    };
                    gateway.serve(Paced::new(socket, patience), peer).await;
                });
            }
        }
    }
    if !passed {
        turn_away(&listener, front, &clients, &metrics).await;
    }
}

/// Until the process ends, which waits for none of these.
async fn turn_away(
    listener: &TcpListener,
    front: Option<Arc<Front>>,
    clients: &Arc<Clients>,
    metrics: &Arc<Metrics>,
) {
    loop {
        let Ok((socket, peer)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        if let Some(place) = clients.enter(peer.ip().to_canonical(), metrics) {
            let front = front.clone();
            tokio::spawn(async move {
                late::answer(socket, front).await;
                drop(place);
            });
        }
    }
}

/// The TLS handshake of a proxy client, which has as long as a request's head.
async fn secured(
    socket: TcpStream,
    front: &Front,
    patience: Patience,
    peer: &Peer,
    metrics: &Metrics,
) -> Option<Socket> {
    let config = front
        .server_config()
        .inspect_err(|e| warn!(error = %e, "no certificate for listen.proxy_tls"))
        .ok()?;
    let accepting = tokio::time::timeout(patience.head, TlsAcceptor::from(config).accept(socket));
    let accepted = tokio::select! {
        accepted = accepting => accepted,
        () = peer.drain.begun() => return None,
    };
    let why = match accepted {
        Ok(Ok(tls)) => {
            metrics.handshake("ok");
            return Some(Socket::Tls(Box::new(tls.into())));
        }
        Ok(Err(e)) => e.to_string(),
        Err(_) => "it took too long (limits.client_headers)".to_owned(),
    };
    metrics.handshake("failed");
    info!(client = %peer.client, error = %why, "a TLS handshake with the proxy itself failed; a client that speaks of certificates does not trust the gateway's yet");
    None
}

/// Says why and closes, in a moment of its own: closing over unread bytes would take the words back.
async fn refuse(mut socket: TcpStream) {
    let said = async {
        socket.write_all(TOO_MANY).await?;
        socket.shutdown().await?;
        let mut unread = [0; 4096];
        while socket.read(&mut unread).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    let _ = tokio::time::timeout(LAST_WORD, said).await;
}

// === impl Clients ===

impl Clients {
    /// At most `most` connections for each.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most: AtomicUsize::new(most),
            open: Mutex::default(),
        })
    }

    /// At most `most` for each from here on; nobody who is in has to go.
    pub fn allow(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    fn enter(self: &Arc<Self>, client: IpAddr, metrics: &Arc<Metrics>) -> Option<Place> {
        let client = who(client);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(client).or_default();
        if *count >= self.most.load(Ordering::Relaxed) {
            return None;
        }
        *count += 1;
        metrics.connections.inc();
        Some(Place {
            clients: self.clone(),
            client,
            metrics: metrics.clone(),
        })
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.connections.dec();
        let mut open = self
            .clients
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

const BREATH: Duration = Duration::from_millis(50);
/// Clients that are being told at a time that they have too many connections.
const LAST_WORDS: usize = 64;
const LAST_WORD: Duration = Duration::from_secs(1);
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 74\r\n\r\npierhead: too many connections from one client (connections_per_client).\r\n";
