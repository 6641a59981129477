//! The composition root: config → rooms → run → drain. Nothing is bound before everything is valid.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http::HeaderValue;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::admin;
use crate::cache::space::Bounds;
use crate::cache::{Cache, CacheConfig};
use crate::config::Config;
use crate::connect::Gateway;
use crate::listen::{self, Clients, Door};
use crate::policy::{AddressGuard, Host, NameConstraints, Policy};
use crate::registry::access::Access;
use crate::registry::{Registries, RegistryRules};
use crate::telemetry::metrics::Metrics;
use crate::tls::{self, Authority, CaConfig, Front, Leaves, Notice};
use crate::upstream::Upstream;
use crate::upstream::credentials::Credentials;
use crate::upstream::dial::Dialer;
pub use crate::upstream::parent::Parent;
use crate::users::Users;
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
    /// Builds every room from its part of the configuration.
    pub async fn build(config: Config) -> anyhow::Result<Self> {
        // From here on a signal drains, and does not kill.
        let signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        raise_descriptors();
        for warning in &config.warnings {
            warn!("{warning}");
        }
        let policy = Policy::new(
            config.policy.clone(),
            config.registries.clone(),
            config.builtin_registries,
        );
        let (client_tls, warnings) =
            tls::client_config(config.upstream.ca_file.as_deref()).map_err(Unusable::new)?;
        for warning in warnings {
            warn!("{warning}");
        }
        let (authority, notices) = authority(&config, &policy)?;
        tell(&notices);
        let authority = Arc::new(authority);
        let leaves = Arc::new(Leaves::new(authority.clone())?);

        let metrics = Arc::new(Metrics::new());
        let users =
            Users::open(config.users_file.as_deref(), metrics.clone()).map_err(Unusable::new)?;
        for warning in strangers(&config, &users) {
            warn!("{warning}");
        }
        let via = via()?;
        let parent = parent(&config, &client_tls, via.clone())?;
        let parent_place = parent.as_ref().map(Parent::place);
        let dialer = Dialer::new(
            AddressGuard::new(config.upstream.allow_private.clone()),
            config.upstream.resolve.clone(),
            config.limits.upstream_connect,
        );
        let dialer = Arc::new(dialer.behind(parent));
        let upstream = Arc::new(Upstream::new(
            client_tls,
            dialer,
            config.limits.upstream_idle,
            via,
            metrics.clone(),
        ));

        let cache_config = CacheConfig {
            dir: config.cache.dir.clone(),
            bounds: Bounds {
                max_size: config.cache.max_size,
                min_free: config.cache.min_free,
            },
        };
        let cache = Cache::open(&cache_config, metrics.clone())?;
        cache.settle().await;
        let access = Access::open(
            &config.cache.dir,
            cache.index().clone(),
            upstream.clone(),
            config.cache.revalidate_timeout,
            config.cache.offline_for,
            metrics.clone(),
        )
        .with_context(|| format!("the cache directory {}", config.cache.dir.display()))?;
        let rules = RegistryRules {
            tag_ttl: config.cache.tag_ttl,
            offline_for: config.cache.offline_for,
            revalidate_timeout: config.cache.revalidate_timeout,
            manifest_size: config.limits.manifest_size,
        };
        let registries = Registries::new(
            cache.clone(),
            upstream.clone(),
            Arc::new(access),
            rules,
            robots(&config, &policy),
        );

        let front = front(&config, &leaves)?;
        let mut doors = Vec::new();
        for address in &config.listen.proxy {
            let listener = listen::bind(*address).await?;
            doors.push(Door {
                listener,
                front: None,
            });
        }
        for address in &config.listen.proxy_tls {
            let listener = listen::bind(*address).await?;
            doors.push(Door {
                listener,
                front: front.clone(),
            });
        }
        let admin = match config.listen.admin {
            Some(address) => Some(listen::bind(address).await?),
            None => None,
        };
        let listening = Listening {
            doors: &doors,
            admin: admin.as_ref(),
        };
        let parent = parent_place.as_deref();
        let summary = summary(&config, &policy, &authority, &listening, parent)?;
        let gateway = Arc::new(Gateway {
            policy: Arc::new(policy),
            users: Arc::new(users),
            authority,
            leaves,
            registries,
            upstream,
            metrics: metrics.clone(),
            client_idle: config.limits.client_idle,
        });
        Ok(Self {
            gateway,
            cache,
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
            metrics,
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
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
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

/// The gateway's own logins, by the name of the registry they are for.
pub fn robots(config: &Config, policy: &Policy) -> HashMap<String, Arc<Credentials>> {
    let mut robots = HashMap::new();
    for (host, source) in &config.logins {
        let named = policy.registries().iter().find(|registry| {
            !registry.builtin
                && (registry.name == host.as_str()
                    || registry
                        .hosts
                        .iter()
                        .any(|one| one.as_str() == host.as_str()))
        });
        if let Some(registry) = named {
            robots.insert(registry.name.clone(), Credentials::new(source.clone()));
        }
    }
    robots
}

/// The CA as configured, made or re-issued where it has to be.
pub fn authority(config: &Config, policy: &Policy) -> anyhow::Result<(Authority, Vec<Notice>)> {
    Authority::open_or_create(
        &ca_config(config, policy),
        &name_constraints(config, policy),
    )
    .map_err(|e| match config.ca.certificate {
        Some(_) => Unusable::new(e).into(),
        None => e.into(),
    })
}

/// `upstream.proxy`, where it is set. `via` is what this gateway signs with.
pub fn parent(
    config: &Config,
    tls: &rustls::ClientConfig,
    via: HeaderValue,
) -> anyhow::Result<Option<Parent>> {
    let Some(parent) = &config.upstream.parent else {
        return Ok(None);
    };
    Parent::new(parent.url.reveal(), &parent.no_proxy, tls, via)
        .map(Some)
        .map_err(|e| Unusable::new(e).into())
}

/// What the configuration names and cannot be used: as bad as the configuration itself.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(String);

impl Unusable {
    pub fn new(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// `[ca]` in the terms of its room.
pub fn ca_config(config: &Config, policy: &Policy) -> CaConfig {
    CaConfig {
        dir: config.ca.dir.clone(),
        certificate: config.ca.certificate.clone(),
        key: config.ca.key.clone(),
        // A registry `*` may be any name: there is nothing to constrain to.
        name_constraints: config.ca.name_constraints && !policy.name_constraints().everything,
    }
}

/// Rules that name users whom nobody can be; worth a word, because the file may yet get them.
pub fn strangers(config: &Config, users: &Users) -> Vec<String> {
    let mut told = Vec::new();
    for (at, rule) in config.policy.rules.iter().enumerate() {
        for user in rule.users.iter().filter(|user| !users.knows(user)) {
            told.push(format!(
                "policy.rule {} is for the user {user}, whom policy.users_file does not have",
                at + 1
            ));
        }
    }
    told
}

fn name_constraints(config: &Config, policy: &Policy) -> tls::NameConstraints {
    let NameConstraints {
        mut dns, mut ips, ..
    } = policy.name_constraints();
    if config.listen.tls.is_none() {
        for name in own_names(config) {
            match name.ip() {
                Some(ip) => ips.push(ip),
                None => dns.push(name.to_string()),
            }
        }
    }
    tls::NameConstraints { dns, ips }
}

/// What clients call the gateway itself, where it needs a certificate of its own.
fn own_names(config: &Config) -> Vec<Host> {
    let listen = &config.listen;
    if listen.proxy_tls.is_empty() {
        return Vec::new();
    }
    if !listen.names.is_empty() {
        return listen.names.clone();
    }
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_str().ok().map(str::to_owned);
    let bound = listen.proxy_tls.iter().map(SocketAddr::ip);
    let bound = bound.filter(|ip| !ip.is_unspecified());
    let names = machine.into_iter().chain(bound.map(|ip| ip.to_string()));
    // A machine may be called what no host can be.
    names.filter_map(|name| name.parse().ok()).collect()
}

/// What `listen.proxy_tls` shows its clients.
fn front(config: &Config, leaves: &Arc<Leaves>) -> anyhow::Result<Option<Arc<Front>>> {
    if config.listen.proxy_tls.is_empty() {
        return Ok(None);
    }
    let front = match &config.listen.tls {
        Some((certificate, key)) => Front::given(certificate, key),
        None => {
            let names: Vec<String> = own_names(config).iter().map(Host::to_string).collect();
            if names.is_empty() {
                return Err(Unusable::new("this machine's name is no host name, and `listen.proxy_tls` is bound to no address in particular: say listen.names = [\"…\"], as clients call the gateway").into());
            }
            Front::minted(leaves.clone(), &names)
        }
    };
    Ok(Some(Arc::new(front.map_err(Unusable::new)?)))
}

fn tell(notices: &[Notice]) {
    for notice in notices {
        if notice.is_warning() {
            warn!("{notice}");
        } else {
            info!("{notice}");
        }
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

/// A name for this process, so that it knows its own requests when they come back.
fn via() -> anyhow::Result<HeaderValue> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
    let id = u32::from_le_bytes(random);
    Ok(HeaderValue::try_from(format!("1.1 pierhead-{id:08x}"))?)
}

/// Where the gateway answers.
struct Listening<'a> {
    doors: &'a [Door],
    admin: Option<&'a TcpListener>,
}

fn summary(
    config: &Config,
    policy: &Policy,
    authority: &Authority,
    listening: &Listening<'_>,
    parent: Option<&str>,
) -> anyhow::Result<String> {
    let mut text = format!("pierhead {}\n\n", env!("CARGO_PKG_VERSION"));
    let mut first: Option<SocketAddr> = None;
    for door in listening.doors {
        let address = door.listener.local_addr()?;
        let scheme = match door.front {
            None => {
                first.get_or_insert(address);
                "http"
            }
            Some(_) => "https",
        };
        text.push_str(&format!("  proxy   {scheme}://{address}\n"));
    }
    if let Some(admin) = listening.admin {
        text.push_str(&format!("  admin   http://{}\n", admin.local_addr()?));
    }
    if let Some(parent) = parent {
        text.push_str(&format!("  parent  {parent}\n"));
    }
    text.push_str(&format!(
        "  CA      {}  sha256 {}\n",
        authority.path().display(),
        authority.fingerprint()
    ));
    text.push_str(&format!(
        "  cache   {}, at most {}, tags fresh for {}\n",
        config.cache.dir.display(),
        human(config.cache.max_size),
        humantime::format_duration(config.cache.tag_ttl),
    ));
    let names: Vec<&str> = policy
        .registries()
        .iter()
        .map(|registry| registry.name.as_str())
        .collect();
    text.push_str(&format!("  caches  {}\n", wrapped(&names)));
    if let Some(address) = first {
        let shown = match address.ip().is_unspecified() {
            true => format!("GATEWAY:{}", address.port()),
            false => address.to_string(),
        };
        text.push_str(&format!(
            "\nA Docker host (as root) is set up by these two lines and a restart of docker:\n\n  \
             curl -fsS http://{shown}/ca.crt -o /usr/local/share/ca-certificates/pierhead.crt && update-ca-certificates\n  \
             mkdir -p /etc/systemd/system/docker.service.d && printf '[Service]\\nEnvironment=HTTPS_PROXY=http://{shown}\\n' > /etc/systemd/system/docker.service.d/pierhead.conf && systemctl daemon-reload\n"
        ));
        if address.ip().is_loopback() {
            text.push_str("\nIt listens on loopback only; [listen] proxy = [\"0.0.0.0:3128\"] opens it to the network.\n");
        }
    }
    text.push_str("\nready\n");
    Ok(text)
}

fn wrapped(names: &[&str]) -> String {
    let mut text = String::new();
    let mut column = 0;
    for (at, name) in names.iter().enumerate() {
        if at > 0 {
            text.push_str(", ");
            column += 2;
        }
        if column + name.len() > WIDTH {
            text.truncate(text.trim_end().len());
            text.push_str("\n          ");
            column = 0;
        }
        text.push_str(name);
        column += name.len();
    }
    text
}

fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() < 0.05 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

const FEW_DESCRIPTORS: u64 = 8192;
const WIDTH: usize = 90;
