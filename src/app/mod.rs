//! The composition root: config → rooms → run → drain. Nothing is bound before everything is valid.

mod directory;
mod engine;
mod helm;
mod parts;
mod probe;
mod reload;
mod rooms;
pub mod service;
mod summary;
mod wanting;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use self::directory::Directory;
use self::helm::Helm;
pub use self::parts::{
    Unusable, authority, beyond, ca_config, front_names, name_constraints, parent, registry_tls,
    robots, strangers,
};
use self::parts::{front, patience};
pub use self::probe::probe;
pub use self::reload::{NoSuchRegistry, ReloadError, Reloader, Report};
pub use self::rooms::Rooms;
use self::service::{Sockets, listeners};
use self::summary::{Listening, summary};
pub use self::wanting::{missing_logins, unanswered};
use self::watch::Watch;
use crate::admin::token::Token;
use crate::admin::{self, Admin};
pub use crate::cache::StoreError;
use crate::cache::{Cache, is_full};
use crate::config::Config;
use crate::connect::Gateway;
use crate::listen::{self, Clients, Door};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::{Exporter, Queue};
use crate::tls::Roots;
pub use crate::upstream::parent::Parent;
use crate::users::{self, Users};
use crate::wire::drain::Drain;
use crate::wire::memory;
use crate::wire::pace::Patience;

/// A gateway that is ready to run: everything opened, everything bound.
pub struct App {
    gateway: Arc<Gateway>,
    cache: Arc<Cache>,
    doors: Vec<Door>,
    admin: Option<TcpListener>,
    /// The service manager holds the admin listener's socket as well.
    admin_passed: bool,
    /// Where the token could not be left, for want of room, and what address belongs to it.
    owed: Option<(PathBuf, String)>,
    patience: Arc<ArcSwap<Patience>>,
    clients: Arc<Clients>,
    reloader: Arc<Reloader>,
    watch: Option<Watch>,
    signals: Signals,
    exporter: Option<Exporter>,
    drain: Drain,
    board: Arc<Admin>,
    metrics: Arc<Metrics>,
    summary: String,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

// === impl App ===

impl App {
    /// Builds every room from its part of the configuration. `sockets` come before what it says of
    /// addresses.
    pub async fn build(mut config: Config, sockets: Sockets) -> anyhow::Result<Self> {
        memory::keep_freed_blocks();
        // From here on a signal drains, and does not kill.
        let signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        };
        // A limit of a file's size (ulimit -f) fails the write that meets it, as a full disk would, and does
        // not kill. The handler stays for good; nobody waits for the signal.
        let too_large = rustix::process::Signal::XFSZ;
        drop(signal(SignalKind::from_raw(too_large.as_raw()))?);
        raise_descriptors();
        for warning in &config.warnings {
            warn!("{warning}");
        }
        for missing in missing_logins(&config) {
            warn!("{}", missing.error);
        }
        let watch = match &config.file {
            Some(file) if config.watch_config => Some(
                Watch::begin(file).with_context(|| format!("cannot watch {}", file.display()))?,
            ),
            None if config.watch_config => {
                warn!("watch_config is set, but there is no configuration file to watch");
                None
            }
            _ => None,
        };
        // A reload compares with what was asked for, whatever sockets were passed.
        let asked = config.listen.clone();
        sockets.replace(&mut config.listen)?;
        let rooms = Rooms::build(&config).await?;
        let front = front(&config, &rooms.gateway.leaves)?;
        let mut doors = Vec::new();
        let passed = !sockets.proxy.is_empty();
        for listener in listeners(sockets.proxy, &config.listen.proxy).await? {
            doors.push(Door {
                listener,
                front: None,
                passed,
            });
        }
        let passed = !sockets.proxy_tls.is_empty();
        for listener in listeners(sockets.proxy_tls, &config.listen.proxy_tls).await? {
            doors.push(Door {
                listener,
                front: front.clone(),
                passed,
            });
        }
        let admin_passed = !sockets.admin.is_empty();
        let admin = listeners(sockets.admin, config.listen.admin.as_slice()).await?;
        let admin = admin.into_iter().next();
        let listening = Listening {
            doors: &doors,
            admin: admin.as_ref(),
        };
        let summary = summary(&config, &rooms, &listening)?;
        let named = doors_of(&listening)?;
        let address = match &admin {
            Some(listener) => Some(listener.local_addr()?),
            None => None,
        };
        let patience = Arc::new(ArcSwap::from_pointee(patience(&config)));
        let clients = Clients::new(config.limits.connections_per_client);
        let users = Arc::new(ArcSwap::from_pointee(admin_users(&config, &rooms)?));
        let token = Token::new()?;
        let mut owed = None;
        if let Some(address) = address {
            let (dir, address) = (&config.cache.dir, address.to_string());
            match token.leave(dir, &address) {
                Err(e) if is_full(&e) => {
                    warn!(error = %e, "commands on this machine cannot reach this gateway until there is room in the cache directory");
                    owed = Some((dir.clone(), address));
                }
                left => left?,
            }
        }
        config.listen = asked;
        let reloader = Reloader::new(
            config,
            &rooms,
            users.clone(),
            clients.clone(),
            patience.clone(),
        );
        let exporter = exporter(&reloader.config(), &rooms.metrics)?;
        let drain = Drain::default();
        let board = Admin::new(admin::Parts {
            cache: rooms.cache.clone(),
            warm: rooms.warm.clone(),
            upstream: rooms.gateway.upstream.clone(),
            metrics: rooms.metrics.clone(),
            steering: Arc::new(Helm {
                gateway: rooms.gateway.clone(),
                reloader: reloader.clone(),
                doors: named,
            }),
            users,
            token,
            drain: drain.clone(),
        });
        Ok(Self {
            gateway: rooms.gateway,
            cache: rooms.cache,
            doors,
            admin,
            admin_passed,
            owed,
            patience,
            clients,
            reloader,
            watch,
            signals,
            exporter,
            drain,
            board,
            metrics: rooms.metrics,
            summary,
        })
    }

    /// What a person who starts it wants to know.
    pub fn summary(&self) -> &str {
        &self.summary
    }

    /// Who takes a changed configuration.
    pub fn reloader(&self) -> Arc<Reloader> {
        self.reloader.clone()
    }

    /// Serves until SIGTERM or SIGINT, then drains. `spans` go to the collector, the last of them at the
    /// end.
    pub async fn run(mut self, spans: Option<Queue>) -> anyhow::Result<()> {
        let end = CancellationToken::new();
        let exporter = self.exporter.take().zip(spans);
        let exporting =
            exporter.map(|(exporter, queue)| tokio::spawn(exporter.run(queue, end.clone())));
        self.serve().await?;
        end.cancel();
        if let Some(exporting) = exporting {
            let _ = tokio::time::timeout(LANDING, exporting).await;
        }
        Ok(())
    }

    async fn serve(self) -> anyhow::Result<()> {
        let Signals {
            mut terminate,
            mut interrupt,
            mut hangup,
        } = self.signals;
        let clients = self.clients;
        let gateway = self.gateway.clone();
        let offline_for = move || gateway.live.load().rules.offline_for;
        tokio::spawn(self.cache.clone().keep_house(offline_for));
        self.reloader.begin().await;
        if let Some(watch) = self.watch {
            tokio::spawn(watch.run(self.reloader.clone()));
        }
        let reloader = self.reloader.clone();
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                // The log and the metrics tell how it went.
                let _ = reloader.reload().await;
            }
        });
        tokio::spawn(service::watchdog(self.cache.clone()));
        for door in self.doors {
            tokio::spawn(listen::accept(
                door,
                self.gateway.clone(),
                self.patience.clone(),
                clients.clone(),
                self.drain.clone(),
                self.metrics.clone(),
            ));
        }
        if let Some((dir, address)) = self.owed {
            tokio::spawn(leave(self.board.clone(), dir, address));
        }
        if let Some(listener) = self.admin {
            let (board, patience) = (self.board, self.patience.clone());
            tokio::spawn(admin::serve(listener, self.admin_passed, board, patience));
        }
        service::ready();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        let limit = self.reloader.config().limits.drain;
        service::stopping(limit);
        self.drain.begin();
        info!(
            ?limit,
            "draining: nothing new is taken; what runs may finish"
        );
        let second = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        tokio::select! {
            done = self.drain.finish(limit) => {
                if done {
                    info!("drained");
                } else {
                    warn!("limits.drain is over; what still runs is cut");
                }
            }
            () = second => warn!("told twice to stop; what still runs is cut"),
        }
        self.cache.put_in_place(LANDING).await;
        // What the index has not written yet: last uses, mostly.
        let _ = self.cache.index().flush().await;
        Ok(())
    }
}

/// Leaves the token as soon as there is room for it.
async fn leave(board: Arc<Admin>, dir: PathBuf, address: String) {
    loop {
        tokio::time::sleep(A_MOMENT).await;
        match board.token.leave(&dir, &address) {
            Ok(()) => return,
            Err(e) => debug!(error = %e, "there is no room for admin.token yet"),
        }
    }
}

/// Where clients reach the gateway.
fn doors_of(listening: &Listening<'_>) -> anyhow::Result<Vec<String>> {
    let mut doors = Vec::new();
    for door in listening.doors {
        let address = door.listener.local_addr()?;
        let scheme = if door.front.is_some() {
            "https"
        } else {
            "http"
        };
        doors.push(match address.ip().is_unspecified() {
            true => format!("{scheme}://GATEWAY:{}", address.port()),
            false => format!("{scheme}://{address}"),
        });
    }
    Ok(doors)
}

/// What tells `log.otlp` of spans; trusts whom upstreams are verified by.
fn exporter(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Exporter>> {
    let Some(collector) = &config.log.otlp else {
        return Ok(None);
    };
    let ca_file = config.upstream.ca_file.as_deref();
    let (roots, _told_already) = Roots::load(ca_file).map_err(Unusable::new)?;
    let tls = roots.client_config().map_err(Unusable::new)?;
    Ok(Exporter::new(collector, tls, metrics.clone()))
}

/// `admin.users_file`.
fn admin_users(config: &Config, rooms: &Rooms) -> anyhow::Result<Users> {
    let file = config.admin_users_file.as_deref();
    let users = Users::open(users::ADMIN, file, rooms.metrics.clone());
    Ok(users.map_err(Unusable::new)?)
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

/// In which a disk may have become less full.
const A_MOMENT: Duration = Duration::from_secs(2);
/// A rename and a sync, on a slow disk.
const LANDING: Duration = Duration::from_secs(5);
const FEW_DESCRIPTORS: u64 = 8192;
