//! The service manager: sockets that it passes, and what it is told (sd_notify(3)).
//!
//! Without one, as in a shell or a container, nothing here does anything.

use std::io;
use std::net::{SocketAddr, TcpListener as Passed};
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tracing::{debug, error, warn};

use super::Unusable;
use crate::cache::Cache;
use crate::config::ListenConfig;
use crate::listen;

/// The listening sockets that the process was started with, by the names in `LISTEN_FDNAMES`.
#[derive(Debug, Default)]
pub struct Sockets {
    pub(super) proxy: Vec<Passed>,
    pub(super) proxy_tls: Vec<Passed>,
    pub(super) admin: Vec<Passed>,
}

// === impl Sockets ===

impl Sockets {
    /// Takes them. To be called before there is a second thread, because the environment changes; a
    /// process that is started by this one must not take the sockets for its own.
    ///
    /// Without names all of them are proxies. A name that means nothing, or something that is no
    /// listening TCP socket, is an error: a socket that nobody answers would hold its clients forever.
    pub fn take() -> anyhow::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').filter(|name| !name.is_empty());
        let mut passed = ListenFd::from_env();
        let mut sockets = Self::default();
        for at in 0..passed.len() {
            let name = names.next().unwrap_or(PROXY);
            let kind = match name {
                PROXY => &mut sockets.proxy,
                PROXY_TLS => &mut sockets.proxy_tls,
                ADMIN => &mut sockets.admin,
                other => return Err(Unusable::new(format!(
                    "the service manager passes a socket named {other:?}: say FileDescriptorName={PROXY}, {PROXY_TLS} or {ADMIN} in its .socket unit"
                )).into()),
            };
            let socket = passed.take_tcp_listener(at).map_err(|e| {
                Unusable::new(format!(
                    "the socket {name:?} of the service manager is no TCP socket: {e}"
                ))
            })?;
            kind.extend(socket);
        }
        if sockets.admin.len() > 1 {
            return Err(Unusable::new(format!(
                "the service manager passes {} sockets named {ADMIN:?}; there can be one",
                sockets.admin.len()
            ))
            .into());
        }
        Ok(sockets)
    }

    /// Puts their addresses in the place of those configured for the same kind, so that all that
    /// follows from an address follows from these.
    pub(super) fn replace(&self, listen: &mut ListenConfig) -> io::Result<()> {
        let addresses = |sockets: &[Passed]| -> io::Result<Vec<SocketAddr>> {
            sockets.iter().map(Passed::local_addr).collect()
        };
        if !self.proxy.is_empty() {
            listen.proxy = addresses(&self.proxy)?;
        }
        if !self.proxy_tls.is_empty() {
            listen.proxy_tls = addresses(&self.proxy_tls)?;
        }
        if let Some(admin) = self.admin.first() {
            listen.admin = Some(admin.local_addr()?);
        }
        Ok(())
    }
}

/// Those passed, ready to accept; where there are none, `addresses` are bound.
pub(super) async fn listeners(
    passed: Vec<Passed>,
    addresses: &[SocketAddr],
) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    if passed.is_empty() {
        for address in addresses {
            listeners.push(listen::bind(*address).await?);
        }
    }
    for socket in passed {
        socket.set_nonblocking(true)?;
        listeners.push(TcpListener::from_std(socket)?);
    }
    Ok(listeners)
}

/// Everything is bound: who waits for the gateway may start.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being read again; [`ready`] ends it, whether it was taken or not.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(e) => warn!(error = %e, "the service manager is not told of the reload"),
    }
}

/// The drain has begun. It may take `limit`, whatever the manager's own patience is.
pub fn stopping(limit: Duration) {
    let patience = u32::try_from((limit + LAST_STEPS).as_micros()).unwrap_or(u32::MAX);
    tell(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(patience),
    ]);
}

/// Tells the manager again and again that the gateway lives, where it wants to know: at half of
/// `WATCHDOG_USEC`, after the runtime and the cache's index have answered. An index that refuses, as on
/// a full disk, has answered, too: the gateway goes on without it.
pub async fn watchdog(cache: Arc<Cache>) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        match tokio::time::timeout(limit, cache.index().flush()).await {
            Ok(_) => tell(&[NotifyState::Watchdog]),
            Err(_) => error!(
                ?limit,
                "the cache's index does not answer; the service manager will restart the gateway"
            ),
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        debug!(error = %e, ?states, "the service manager cannot be told");
    }
}

const PROXY: &str = "proxy";
const PROXY_TLS: &str = "proxy_tls";
const ADMIN: &str = "admin";
/// After the drain: the index is written.
const LAST_STEPS: Duration = Duration::from_secs(10);
