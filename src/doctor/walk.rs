//! The steps, one after the other, each on what the one before has found.

use std::time::SystemTime;

use http::StatusCode;
use http::header::HeaderMap;

use super::fetch::{self, Got, Place, Tunnel};
use super::route::{self, HUB, Route};
use super::settings::{Client, Settings, Way};
use super::trust::{self, Store};
use super::{Question, Step};

/// Walks until a step leaves nothing to go on with.
pub(super) async fn all(question: &Question, steps: &mut Vec<Step>) {
    // Whatever stops it is among the steps already.
    let _ = Walk::begin(question, steps).await;
}

/// There is nothing to go on with.
pub(super) struct Stopped;

pub(super) type Went<T> = Result<T, Stopped>;

/// One machine's way, as far as it is known.
pub(super) struct Walk<'a> {
    pub question: &'a Question,
    steps: &'a mut Vec<Step>,
    pub route: Route,
    pub gateway: Place,
    ways: Vec<Way>,
    addresses: Vec<std::net::SocketAddr>,
    /// What is trusted from here on: the gateway's CA and the system's roots.
    pub roots: rustls::RootCertStore,
}

// === impl Walk ===

impl<'a> Walk<'a> {
    async fn begin(question: &'a Question, steps: &'a mut Vec<Step>) -> Went<()> {
        let settings = Settings::read(&question.root, &question.environment, question.client);
        let (route, gateway, ways) = route::choose(question, settings, steps)?;
        let mut walk = Self {
            question,
            steps,
            route,
            gateway,
            ways,
            addresses: Vec::new(),
            roots: rustls::RootCertStore::empty(),
        };
        walk.name().await?;
        walk.port().await?;
        let ca = walk.gateway().await?;
        walk.trust_from_here(&ca);
        if walk.route == Route::Proxy {
            walk.trust(&ca).await?;
        } else {
            for name in ["connect", "trust"] {
                walk.say(Step::skipped(name, "clients of a mirror need none"));
            }
        }
        let challenge = walk.registry().await?;
        let token = walk.token(challenge).await?;
        walk.manifest(token).await
    }

    pub(super) fn say(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub(super) fn stop<T>(&mut self, step: Step) -> Went<T> {
        self.say(step);
        Err(Stopped)
    }

    async fn name(&mut self) -> Went<()> {
        let (host, port) = (self.gateway.host.clone(), self.gateway.port);
        match tokio::net::lookup_host((host.as_str(), port)).await {
            Ok(found) => self.addresses = found.collect(),
            Err(e) => {
                return self.stop(Step::failed(
                    "name",
                    format!("{host} does not resolve: {e}"),
                    format!("is {host} the gateway's name? Let this machine's DNS know it, or write its address into /etc/hosts: 10.0.0.1 {host}"),
                ));
            }
        }
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        let shown: Vec<String> = self
            .addresses
            .iter()
            .map(|one| one.ip().to_string())
            .collect();
        self.say(match is_address {
            true => Step::ok("name", format!("{host} is an address")),
            false => Step::ok("name", format!("{host} is {}", shown.join(", "))),
        });
        Ok(())
    }

    async fn port(&mut self) -> Went<()> {
        match fetch::connect(&self.addresses).await {
            Ok(_) => {
                self.say(Step::ok(
                    "port",
                    format!("{} takes connections", self.gateway.authority()),
                ));
                Ok(())
            }
            Err(why) => {
                let port = self.gateway.port;
                self.stop(Step::failed(
                    "port",
                    why,
                    format!("on the gateway: does pierhead run (systemctl status pierhead), does [listen] proxy name an address this machine can reach (\"0.0.0.0:{port}\", not 127.0.0.1), and does a firewall between the two let port {port} pass?"),
                ))
            }
        }
    }

    /// A connection to the gateway, in TLS where the proxy is one in TLS.
    pub(super) async fn socket(&self) -> Result<fetch::Socket, String> {
        let socket = fetch::connect(&self.addresses).await?;
        if !self.gateway.https {
            return Ok(Box::new(socket));
        }
        let system = trust::system(&self.question.root, self.roots_file());
        let host = &self.gateway.host;
        let shaken = trust::shake(Box::new(socket), host, system.roots()).await;
        Ok(Box::new(
            shaken.map_err(|e| format!("TLS with the proxy itself: {e}"))?,
        ))
    }

    /// `SSL_CERT_FILE` of the first client.
    fn roots_file(&self) -> Option<&std::path::Path> {
        self.ways.first()?.roots.as_deref()
    }

    /// Whether it is a pierhead, and its CA and clock.
    async fn gateway(&mut self) -> Went<Store> {
        let host = self.gateway.authority();
        let asked = async {
            let health =
                fetch::get(self.socket().await?, &host, "/healthz", &HeaderMap::new()).await?;
            let ca = fetch::get(self.socket().await?, &host, "/ca.crt", &HeaderMap::new()).await?;
            Ok::<_, String>((health, ca))
        };
        let (health, ca) = match asked.await {
            Ok(both) => both,
            Err(why) if why.starts_with("TLS with") => {
                return self.stop(Step::failed(
                    "gateway",
                    why,
                    "an https:// proxy needs the gateway's CA in the system store, and a certificate for the name it is called by: listen.names on the gateway",
                ));
            }
            Err(why) => return self.stop(Step::failed("gateway", why, PORT)),
        };
        let json: serde_json::Value = serde_json::from_slice(&health.body).unwrap_or_default();
        let version = json.get("version").and_then(serde_json::Value::as_str);
        let (Some(version), Some(_)) = (version, json.get("commit")) else {
            let found = format!("{host} is no pierhead: it answers {}", health.said());
            return self.stop(Step::failed("gateway", found, PORT));
        };
        let ca = Store::of("the gateway's /ca.crt", &String::from_utf8_lossy(&ca.body));
        if ca.is_empty() {
            return self.stop(Step::failed(
                "gateway",
                format!("{host} has no /ca.crt"),
                PORT,
            ));
        }
        let version = version.to_owned();
        self.say(match trust::ends_soon(&ca) {
            None => Step::ok("gateway", format!("pierhead {version}")),
            Some(at) => Step::warning(
                "gateway",
                format!("pierhead {version}, whose CA ends on {at}"),
                "on the gateway: pierhead ca renew, and restart it; then every client needs the new ca.crt",
            ),
        });
        self.clock(&health);
        Ok(ca)
    }

    fn clock(&mut self, health: &Got) {
        let there = health
            .header("date")
            .and_then(|date| httpdate::parse_http_date(date).ok());
        let Some(there) = there else {
            return self.say(Step::skipped(
                "clock",
                "the gateway does not say what time it is",
            ));
        };
        let here = SystemTime::now();
        let (off, word) = match here.duration_since(there) {
            Ok(ahead) => (ahead.as_secs(), "ahead of"),
            Err(e) => (e.duration().as_secs(), "behind"),
        };
        let mend = "set both clocks by the same source: timedatectl set-ntp true, or chrony with the gateway as its server; certificates and tokens are good for a time only";
        let shown = humantime::format_duration(std::time::Duration::from_secs(off));
        let found = format!("this machine is {shown} {word} the gateway");
        self.say(match off {
            0..=MOMENT => Step::ok("clock", "it is as late here as there"),
            off if off <= TOO_MUCH => Step::warning("clock", found, mend),
            _ => Step::failed("clock", found, mend),
        });
    }

    fn trust_from_here(&mut self, ca: &Store) {
        // Both are needed: what is tunnelled shows a certificate of the world. No secret is sent.
        self.roots = trust::system(&self.question.root, self.roots_file()).roots();
        self.roots.extend(ca.roots().roots);
    }

    /// The registry's host and port.
    pub(super) fn target(&self) -> (String, u16) {
        route::target(&self.question.image.registry)
    }

    pub(super) async fn tunnel(&mut self, host: &str, port: u16) -> Result<Tunnel, String> {
        let socket = self.socket().await?;
        fetch::tunnel(socket, &self.gateway, &fetch::authority(host, port)).await
    }

    /// CONNECT, and then whether each client trusts what answers.
    async fn trust(&mut self, ca: &Store) -> Went<()> {
        let (host, port) = self.target();
        let tunnel = self.tunnel(&host, port).await;
        let socket = match tunnel {
            Ok(Tunnel::Open(socket)) => socket,
            Ok(Tunnel::Refused(answer)) => {
                let mend = match answer.status {
                    StatusCode::PROXY_AUTHENTICATION_REQUIRED => format!(
                        "the gateway asks for a proxy user: HTTPS_PROXY={}://USER:PASSWORD@{}",
                        if self.gateway.https { "https" } else { "http" },
                        self.gateway.authority()
                    ),
                    StatusCode::FORBIDDEN => format!(
                        "on the gateway, pierhead check {host} --client THIS-MACHINE says which rule it is, and what would allow it"
                    ),
                    StatusCode::MISDIRECTED_REQUEST | StatusCode::NOT_FOUND => PORT.to_owned(),
                    _ => "the gateway's log says why".to_owned(),
                };
                return self.stop(Step::failed("connect", answer.said(), mend));
            }
            Err(why) => {
                return self.stop(Step::failed(
                    "connect",
                    why,
                    "something between this machine and the gateway cuts CONNECT; is the proxy the gateway itself?",
                ));
            }
        };
        self.say(Step::ok(
            "connect",
            format!("to {}", fetch::authority(&host, port)),
        ));
        let chain = match trust::look(socket, &host).await {
            Ok(chain) => chain,
            Err(why) => {
                return self.stop(Step::failed(
                    "trust",
                    format!("no TLS with {host}: {why}"),
                    "the gateway's log says why; a host that it tunnels must itself be there",
                ));
            }
        };
        if !trust::is_signed_by(&chain, ca) {
            self.say(Step::warning(
                "trust",
                format!("{host} shows a certificate of {}, not of the gateway: it is tunnelled, and nothing of it cached", trust::issuer(&chain)),
                format!("on the gateway: [[registry]] host = \"{host}\" caches it"),
            ));
            return Ok(());
        }
        let hub = self.question.image.registry == HUB;
        let mut by = Vec::new();
        let mut missing = Vec::new();
        let mut clients = Vec::new();
        for way in &self.ways {
            let stores = trust::stores(&self.question.root, way, &host, port, hub);
            let judged = stores
                .iter()
                .map(|store| (store, store.distrusts(&chain, &host, ca)));
            let judged: Vec<_> = judged.collect();
            match judged.iter().find(|(_, why)| why.is_none()) {
                Some((store, _)) => by.push(format!("{}: {}", way.client, store.name)),
                None => {
                    let whys = judged.iter().map(|(store, why)| {
                        format!("{} {}", store.name, why.as_deref().unwrap_or_default())
                    });
                    let whys: Vec<String> = whys.collect();
                    missing.push(format!(
                        "{} does not trust it: {}",
                        way.client,
                        whys.join(", ")
                    ));
                    clients.push(way.client);
                }
            }
        }
        if missing.is_empty() {
            self.say(Step::ok("trust", by.join("; ")));
            return Ok(());
        }
        let mend = self.mend_trust(&clients, hub);
        missing.extend(by);
        self.say(Step::failed("trust", missing.join("; "), mend));
        // The rest may be right all the same, and is worth knowing.
        Ok(())
    }

    fn mend_trust(&self, clients: &[Client], hub: bool) -> String {
        let gateway = &self.gateway;
        let scripts = clients.iter().map(|client| match client {
            Client::Shell => format!(
                "curl -fsS {gateway}/ca.crt -o /usr/local/share/ca-certificates/pierhead.crt && update-ca-certificates"
            ),
            client => format!("curl -fsSL {gateway}/setup/{client} | sudo sh"),
        });
        let scripts: Vec<String> = scripts.collect();
        let note = match clients.contains(&Client::Docker) && hub {
            true => {
                " (Docker Hub is verified against the system store alone, which dockerd reads once: restart it)"
            }
            false => "",
        };
        format!("{}{note}", scripts.join("; "))
    }
}

const PORT: &str = "is this the proxy port of a pierhead, by default 3128? The admin port, by default 3129, is for people";
/// Seconds.
const MOMENT: u64 = 30;
const TOO_MUCH: u64 = 300;
