//! From a name to a connection: resolved once, checked, and dialled at exactly the checked address, or
//! led there by the parent proxy.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use http::header::{HeaderMap, HeaderValue};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::parent::{Parent, ParentError};
use crate::policy::{AddressGuard, Host, Refused, Target};

/// Dials names and addresses under the address guard.
///
/// With a parent proxy, that is what is dialled, whatever its address: its owner configured it. It
/// resolves the names then, and the guard judges the targets that are addresses.
#[derive(Debug)]
pub struct Dialer {
    guard: AddressGuard,
    /// Fixed addresses by `host` or `host:port`; a port given here replaces the one asked for.
    resolve: HashMap<String, (IpAddr, Option<u16>)>,
    limit: Duration,
    lookups: Arc<Semaphore>,
    parent: Option<Parent>,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
pub enum Carries<'a> {
    /// Requests over plain HTTP, which a parent takes in absolute form.
    Http,
    /// Any bytes, on behalf of a request with this head.
    Bytes(&'a HeaderMap),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(
        "{host} is {kind} ({addr}); add it to upstream.allow_private if it is meant to be reached"
    )]
    Refused {
        host: String,
        addr: IpAddr,
        kind: &'static str,
    },
    #[error("the name {host} does not resolve: {source}")]
    Name { host: String, source: io::Error },
    #[error("{host} ({addr}) cannot be reached: {source}")]
    Connect {
        host: String,
        addr: SocketAddr,
        source: io::Error,
    },
    #[error("{host}:{port} did not accept a connection within {limit:?}")]
    Timeout {
        host: String,
        port: u16,
        limit: Duration,
    },
    #[error("the parent proxy {parent}: {why}")]
    Parent {
        /// Without the login.
        parent: String,
        why: ParentError,
    },
}

// === impl Dialer ===

impl Dialer {
    /// `limit` bounds name, connect and everything between.
    pub fn new(
        guard: AddressGuard,
        resolve: HashMap<String, (IpAddr, Option<u16>)>,
        limit: Duration,
    ) -> Self {
        Self {
            guard,
            resolve,
            limit,
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            parent: None,
        }
    }

    /// The same behind a parent proxy.
    pub fn behind(mut self, parent: Option<Parent>) -> Self {
        self.parent = parent;
        self
    }

    /// The bound on one connection's making, TLS included.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Connects to `host`, a name or an IP address without brackets.
    pub async fn dial(
        &self,
        host: &str,
        port: u16,
        carries: Carries<'_>,
    ) -> Result<Connection, DialError> {
        timeout(self.limit, self.connect(host, port, carries))
            .await
            .unwrap_or_else(|_| Err(self.late(host, port)))
    }

    /// The error of a connection that took too long.
    pub fn late(&self, host: &str, port: u16) -> DialError {
        let limit = self.limit;
        match self.parent_for(host, port) {
            Ok(Some((parent, target))) => parent.failed(ParentError::Late {
                target: target.to_string(),
                limit,
            }),
            _ => DialError::Timeout {
                host: host.to_owned(),
                port,
                limit,
            },
        }
    }

    /// The parent that takes a plain HTTP request for `host` in absolute form, with the login it
    /// wants.
    pub fn forwarder(&self, host: &str) -> Option<(&Parent, Option<&HeaderValue>)> {
        let parent = self.parent.as_ref().filter(|parent| parent.forwards())?;
        let host = host.parse().ok()?;
        parent.leads_to(&host).then(|| (parent, parent.login()))
    }

    async fn connect(
        &self,
        host: &str,
        port: u16,
        carries: Carries<'_>,
    ) -> Result<Connection, DialError> {
        let Some((parent, target)) = self.parent_for(host, port)? else {
            let addresses = self.addresses(host, port).await?;
            return Ok(race(host, addresses).await?.into());
        };
        let away = |error| parent.failed(ParentError::Away(Box::new(error)));
        let (host, port) = (parent.target().host.as_str(), parent.target().port);
        let addresses = alternate(self.find(host, port).await.map_err(away)?);
        let socket = race(host, addresses).await.map_err(away)?;
        match carries {
            Carries::Http if parent.forwards() => parent.forward(socket).await,
            Carries::Http => parent.lead(socket, &target, &HeaderMap::new()).await,
            Carries::Bytes(passed) => parent.lead(socket, &target, passed).await,
        }
        .map_err(|why| parent.failed(why))
    }

    /// The parent to `host`, if the way leads through one.
    fn parent_for(&self, host: &str, port: u16) -> Result<Option<(&Parent, Target)>, DialError> {
        let Some(parent) = &self.parent else {
            return Ok(None);
        };
        // What is no name here may still be an address to the parent's resolver.
        let name: Host = host.parse().map_err(|e| DialError::Name {
            host: host.to_owned(),
            source: io::Error::other(e),
        })?;
        if !parent.leads_to(&name) {
            return Ok(None);
        }
        // The parent's own loopback (RFC 6761 section 6.3) is as private as this one's.
        let local = name.as_str() == "localhost" || name.as_str().ends_with(".localhost");
        let address = match local {
            true => Some(IpAddr::from([127, 0, 0, 1])),
            false => name.ip(),
        };
        if let Some(Err(Refused { addr, kind })) = address.map(|ip| self.guard.check(ip)) {
            return Err(DialError::Refused {
                host: host.to_owned(),
                addr,
                kind,
            });
        }
        Ok(Some((parent, Target::new(name, port))))
    }

    /// The addresses of `host` that may be dialled, in the order to try them.
    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in self.find(host, port).await? {
            match self.guard.check(address.ip()) {
                Ok(()) => allowed.push(address),
                Err(Refused { addr, kind }) => {
                    refused = Some(DialError::Refused {
                        host: host.to_owned(),
                        addr,
                        kind,
                    });
                }
            }
        }
        match refused {
            Some(refused) if allowed.is_empty() => Err(refused),
            _ => Ok(alternate(allowed)),
        }
    }

    /// Every address of `host`, unchecked; at least one.
    async fn find(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
        let name = host
            .parse::<Host>()
            .map_or_else(|_| host.to_ascii_lowercase(), |host| host.to_string());
        let with_port = match name.contains(':') {
            true => format!("[{name}]:{port}"),
            false => format!("{name}:{port}"),
        };
        let fixed = self
            .resolve
            .get(&with_port)
            .or_else(|| self.resolve.get(&name));
        let found: Vec<SocketAddr> = if let Some((addr, fixed_port)) = fixed {
            vec![SocketAddr::new(*addr, fixed_port.unwrap_or(port))]
        } else if let Ok(addr) = host.parse::<IpAddr>() {
            vec![SocketAddr::new(addr, port)]
        } else {
            // The resolver's threads are the disk's, too: a dead one must not take them all.
            let turn = self.lookups.clone().acquire_owned().await;
            let asked = (host.to_owned(), port);
            // A caller that goes away does not end the look-up, nor its turn.
            let looked = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                let (host, port) = &asked;
                (host.as_str(), *port).to_socket_addrs().map(Vec::from_iter)
            });
            looked
                .await
                .unwrap_or_else(|e| Err(io::Error::other(e)))
                .map_err(|source| DialError::Name {
                    host: host.to_owned(),
                    source,
                })?
        };
        match found.is_empty() {
            true => Err(DialError::Name {
                host: host.to_owned(),
                source: io::Error::other("it has no address"),
            }),
            false => Ok(found),
        }
    }
}

/// Tries one address after another, a little apart, and takes the first that answers
/// (RFC 8305 section 5).
async fn race(host: &str, addresses: Vec<SocketAddr>) -> Result<TcpStream, DialError> {
    let mut left = addresses.into_iter();
    let mut tries = FuturesUnordered::new();
    let connect = |addr: SocketAddr| async move { (addr, TcpStream::connect(addr).await) };
    if let Some(addr) = left.next() {
        tries.push(connect(addr));
    }
    loop {
        tokio::select! {
            Some((addr, result)) = tries.next() => match result {
                Ok(socket) => {
                    // Requests are written whole; waiting for more of them gains nothing.
                    let _ = socket.set_nodelay(true);
                    return Ok(socket);
                }
                Err(source) => match left.next() {
                    Some(addr) => tries.push(connect(addr)),
                    None if tries.is_empty() => {
                        return Err(DialError::Connect { host: host.to_owned(), addr, source });
                    }
                    None => {}
                },
            },
            () = sleep(APART), if left.len() > 0 => {
                if let Some(addr) = left.next() {
                    tries.push(connect(addr));
                }
            }
        }
    }
}

/// Alternates the families, beginning with the resolver's first choice.
fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|addr| addr.is_ipv6() == first_is_v6);
    first.reverse();
    second.reverse();
    let mut order = Vec::with_capacity(first.len() + second.len());
    while let Some(addr) = first.pop() {
        order.push(addr);
        order.extend(second.pop());
    }
    second.reverse();
    order.extend(second);
    order
}

const LOOKUPS: usize = 32;
const APART: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate_from_the_first_choice_on() {
        let list = |text: &str| -> Vec<SocketAddr> {
            text.split(' ').map(|a| a.parse().unwrap()).collect()
        };
        assert_eq!(
            alternate(list("[::1]:1 [::2]:1 1.1.1.1:1 2.2.2.2:1 3.3.3.3:1")),
            list("[::1]:1 1.1.1.1:1 [::2]:1 2.2.2.2:1 3.3.3.3:1")
        );
    }

    /// An address whose queue of connections is full: the kernel drops whoever comes.
    fn black_hole() -> (Vec<socket2::Socket>, SocketAddr) {
        use socket2::{Domain, Socket, Type};
        let socket =
            |addr: SocketAddr| Socket::new(Domain::for_address(addr), Type::STREAM, None).unwrap();
        let bound = ["[::1]:0", "127.0.0.1:0"].into_iter().find_map(|addr| {
            let addr: SocketAddr = addr.parse().unwrap();
            let listener = socket(addr);
            listener.bind(&addr.into()).ok()?;
            Some(listener)
        });
        let listener = bound.unwrap();
        listener.listen(0).unwrap();
        let addr = listener.local_addr().unwrap().as_socket().unwrap();
        let mut held = vec![listener];
        for _ in 0..4 {
            let filler = socket(addr);
            filler.set_nonblocking(true).unwrap();
            // In the queue, or on its way there.
            let _ = filler.connect(&addr.into());
            held.push(filler);
        }
        (held, addr)
    }

    #[tokio::test]
    async fn an_address_that_swallows_connections_holds_up_nobody_who_has_another() {
        let (_held, hole) = black_hole();
        let alive = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = (alive.local_addr().unwrap(), alive);
        let both = vec![hole, alive.0];
        let raced = timeout(Duration::from_secs(20), race("registry.test", both));
        let socket = raced.await.unwrap().unwrap();
        assert_eq!(socket.peer_addr().unwrap(), alive.0);
        // And by itself it is given up.
        let alone = timeout(
            Duration::from_millis(300),
            race("registry.test", vec![hole]),
        );
        assert!(alone.await.is_err());
    }

    #[tokio::test]
    async fn a_name_fixed_to_a_private_address_is_still_refused() {
        let resolve = HashMap::from([(
            "meta.example".to_owned(),
            ("169.254.169.254".parse().unwrap(), None),
        )]);
        let dialer = Dialer::new(
            AddressGuard::new(Vec::new()),
            resolve,
            Duration::from_secs(1),
        );
        let error = dialer
            .dial("meta.example", 80, Carries::Http)
            .await
            .unwrap_err();
        assert!(matches!(error, DialError::Refused { .. }), "{error}");
    }
}
