//! From a name to a socket: resolved once, checked, and dialled at exactly the checked address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::policy::{AddressGuard, Host, Refused};

/// Dials names and addresses under the address guard.
#[derive(Debug)]
pub struct Dialer {
    guard: AddressGuard,
    /// Fixed addresses by `host` or `host:port`; a port given here replaces the one asked for.
    resolve: HashMap<String, (IpAddr, Option<u16>)>,
    limit: Duration,
    lookups: Semaphore,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(
        "{host} is {addr}, a {kind} address; add it to upstream.allow_private if it is meant to be reached"
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
            lookups: Semaphore::new(LOOKUPS),
        }
    }

    /// The bound on one connection's making, TLS included.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Connects to `host`, a name or an IP address without brackets.
    pub async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        timeout(self.limit, self.race(host, port))
            .await
            .unwrap_or_else(|_| {
                Err(DialError::Timeout {
                    host: host.to_owned(),
                    port,
                    limit: self.limit,
                })
            })
    }

    /// The addresses of `host` that may be dialled, in the order to try them.
    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
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
            let _turn = self.lookups.acquire().await;
            tokio::net::lookup_host((host, port))
                .await
                .map_err(|source| DialError::Name {
                    host: host.to_owned(),
                    source,
                })?
                .collect()
        };
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in found {
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
            _ if allowed.is_empty() => Err(DialError::Name {
                host: host.to_owned(),
                source: io::Error::other("it has no address"),
            }),
            _ => Ok(alternate(allowed)),
        }
    }

    /// Tries one address after another, a little apart, and takes the first that answers
    /// (RFC 8305 section 5).
    async fn race(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let mut left = self.addresses(host, port).await?.into_iter();
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
        let error = dialer.dial("meta.example", 80).await.unwrap_err();
        assert!(matches!(error, DialError::Refused { .. }), "{error}");
    }
}
