//! Socket to connection.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

use crate::connect::{Gateway, Peer};
use crate::telemetry::metrics::Metrics;
use crate::wire::drain::Drain;
use crate::wire::pace::{Paced, Patience};

/// The limits on what a client may hold.
#[derive(Clone, Copy, Debug)]
pub struct ListenLimits {
    pub patience: Patience,
    pub connections_per_client: usize,
}

/// Counts connections by client address.
#[derive(Debug)]
struct Clients {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

#[derive(Debug)]
struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
    metrics: Arc<Metrics>,
}

/// Binds a listening socket; an address that cannot be bound is named.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))
}

/// Accepts clients until the drain begins.
pub async fn accept(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    limits: ListenLimits,
    drain: Drain,
    metrics: Arc<Metrics>,
) {
    let clients = Arc::new(Clients {
        most: limits.connections_per_client,
        open: Mutex::default(),
    });
    loop {
        let (socket, peer) = tokio::select! {
            () = drain.begun() => return,
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
            refuse(socket);
            continue;
        };
        let _ = socket.set_nodelay(true);
        let socket = Paced::new(socket, limits.patience);
        let peer = Peer {
            client,
            drain: drain.clone(),
            place: Arc::new(place),
        };
        drain.spawn(gateway.clone().serve(socket, peer));
    }
}

/// Says why, if it can be said without waiting, and closes.
fn refuse(socket: TcpStream) {
    if let Ok(mut socket) = socket.into_std() {
        let _ = socket.write_all(TOO_MANY);
    }
}

// === impl Clients ===

impl Clients {
    fn enter(self: &Arc<Self>, client: IpAddr, metrics: &Arc<Metrics>) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(client).or_default();
        if *count >= self.most {
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
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 74\r\n\r\npierhead: too many connections from one client (connections_per_client).\r\n";
