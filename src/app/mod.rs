//! The composition root: config → rooms → run → drain. Nothing is bound before everything is valid.

mod parts;
mod rooms;
pub mod service;
mod summary;

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use self::parts::front;
pub use self::parts::{Unusable, authority, ca_config, parent, robots, strangers};
pub use self::rooms::Rooms;
use self::service::{Sockets, listeners};
use self::summary::{Listening, summary};
use crate::admin;
use crate::cache::Cache;
use crate::config::Config;
use crate::connect::Gateway;
use crate::listen::{self, Clients, Door};
use crate::telemetry::metrics::Metrics;
pub use crate::upstream::parent::Parent;
use crate::wire::drain::Drain;
use crate::wire::pace::Patience;

/// A gateway that is ready to run: everything opened, everything bound.
pub struct App {
    gateway: Arc<Gateway>,
    cache: Arc<Cache>,
    doors: Vec<Door>,
    admin: Option<TcpListener>,
    patience: Patience,
    clients: Arc<Clients>,
    signals: Signals,
    drain: Drain,
    drain_limit: Duration,
    offline_for: Duration,
    metrics: Arc<Metrics>,
    summary: String,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl App ===

impl App {
    /// Builds every room from its part of the configuration. `sockets` come before what it says of
    /// addresses.
    pub async fn build(mut config: Config, sockets: Sockets) -> anyhow::Result<Self> {
        // From here on a signal drains, and does not kill.
        let signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        raise_descriptors();
        for warning in &config.warnings {
            warn!("{warning}");
        }
        sockets.replace(&mut config.listen)?;
        let rooms = Rooms::build(&config).await?;
        let front = front(&config, &rooms.gateway.leaves)?;
        let mut doors = Vec::new();
        for listener in listeners(sockets.proxy, &config.listen.proxy).await? {
            doors.push(Door {
                listener,
                front: None,
            });
        }
        for listener in listeners(sockets.proxy_tls, &config.listen.proxy_tls).await? {
            doors.push(Door {
                listener,
                front: front.clone(),
            });
        }
        let admin = listeners(sockets.admin, config.listen.admin.as_slice()).await?;
        let admin = admin.into_iter().next();
        let listening = Listening {
            doors: &doors,
            admin: admin.as_ref(),
        };
        let summary = summary(&config, &rooms, &listening)?;
        Ok(Self {
            gateway: rooms.gateway,
            cache: rooms.cache,
            doors,
            admin,
            patience: Patience {
                head: config.limits.client_headers,
                idle: config.limits.client_idle,
            },
            clients: Clients::new(config.limits.connections_per_client),
            signals,
            drain: Drain::default(),
            drain_limit: config.limits.drain,
            offline_for: config.cache.offline_for,
            metrics: rooms.metrics,
            summary,
        })
    }

    /// What a person who starts it wants to know.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Serves until SIGTERM or SIGINT, then drains.
    pub async fn run(self) -> anyhow::Result<()> {
        let Signals {
            mut terminate,
            mut interrupt,
        } = self.signals;
        let clients = self.clients;
        tokio::spawn(self.cache.clone().keep_house(self.offline_for));
        tokio::spawn(service::watchdog(self.cache.clone()));
        tokio::spawn(self.gateway.users.clone().follow());
        for door in self.doors {
            tokio::spawn(listen::accept(
                door,
                self.gateway.clone(),
                self.patience,
                clients.clone(),
                self.drain.clone(),
                self.metrics.clone(),
            ));
        }
        if let Some(listener) = self.admin {
            tokio::spawn(admin::serve(
                listener,
                self.metrics.clone(),
                self.patience,
                self.drain.clone(),
            ));
        }
        service::ready();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        service::stopping(self.drain_limit);
        info!(limit = ?self.drain_limit, "draining: no new connections; what runs may finish");
        let second = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tokio::select! {
            done = self.drain.finish(self.drain_limit) => {
                if done {
                    info!("drained");
                } else {
                    warn!("limits.drain is over; what still runs is cut");
                }
            }
            () = second => warn!("told twice to stop; what still runs is cut"),
        }
        // What the index has not written yet: last uses, mostly.
        let _ = self.cache.index().flush().await;
        Ok(())
    }
}

/// Sockets and files take descriptors; the soft limit is for programs that use `select`.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
    let have = if raised.is_ok() {
        limit.maximum
    } else {
        limit.current
    };
    if have.is_some_and(|have| have < FEW_DESCRIPTORS) {
        warn!(
            have,
            "few descriptors are allowed (ulimit -n); a busy gateway wants {FEW_DESCRIPTORS} and more"
        );
    }
}

const FEW_DESCRIPTORS: u64 = 8192;
