//! The internet as these tests know it: one TLS listener that is Docker Hub, its token service, its
//! search, a CDN and a few other registries, told apart by SNI and `Host`.

mod access;
mod cdn;
mod registry;
mod seen;
mod tokens;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::backend::Store;
use crate::process::{START_LIMIT, wait_for};
use crate::secrets::Secrets;

pub use cdn::Fault;
use registry::{CDN, SEARCH};
pub use registry::{GHCR, HUB, OTHER, PARTNER, Site};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The listener and what it remembers.
pub struct Upstream {
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    runtime: Handle,
    address: SocketAddr,
    accepting: Option<JoinHandle<()>>,
    roots: String,
}

/// What every connection sees.
struct Shared {
    store: Store,
    seen: seen::Log,
    access: Mutex<access::Access>,
    tokens: tokens::Tokens,
    cdn: cdn::Cdn,
    rate_limited: Mutex<bool>,
    no_tokens: Mutex<bool>,
    hanging: watch::Sender<bool>,
}

// === impl Upstream ===

impl Upstream {
    /// Listens on a port of its own, with a CA of its own.
    pub fn start(runtime: Handle, store: Store) -> Self {
        let (roots, tls) = certificate();
        let tokens = tokens::Tokens::default();
        for (user, password) in access::USERS {
            tokens.secrets.login(user, password);
        }
        let shared = Shared {
            store,
            seen: seen::Log::default(),
            access: Mutex::default(),
            tokens,
            cdn: cdn::Cdn::default(),
            rate_limited: Mutex::new(false),
            no_tokens: Mutex::new(false),
            hanging: watch::Sender::new(false),
        };
        let mut upstream = Self {
            shared: Arc::new(shared),
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            runtime,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            accepting: None,
            roots,
        };
        upstream.come_back();
        upstream
    }

    /// The CA's certificate, PEM.
    pub fn roots(&self) -> &str {
        &self.roots
    }

    /// `address` for every name that exists.
    pub fn resolve(&self) -> HashMap<String, String> {
        let names = registry::names();
        names
            .map(|name| (name.to_owned(), self.address.to_string()))
            .collect()
    }

    /// Breaks all connections and stops listening: connections are refused until [`Self::come_back`].
    pub fn go_away(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // Ended means dropped: the listener and the set of connections with it.
            let _ = self.runtime.block_on(accepting);
        }
    }

    /// Listens again where it did.
    pub fn come_back(&mut self) {
        let listener = wait_for("the upstream's port", START_LIMIT, || {
            self.runtime.block_on(TcpListener::bind(self.address)).ok()
        });
        self.address = listener.local_addr().expect("a bound address");
        let accepting = accept(listener, self.acceptor.clone(), self.shared.clone());
        self.accepting = Some(self.runtime.spawn(accepting));
    }

    /// What arrived since the last [`seen::Log::forget`].
    pub fn seen(&self) -> &seen::Log {
        &self.shared.seen
    }

    /// Only these users may see a repository of a host.
    pub fn make_private(&self, host: &str, repository: &str, users: &[&str]) {
        let mut access = self.shared.access.lock().expect("no panic holds it");
        access.make_private(host, repository, users);
    }

    /// What happens to a blob from now on; `None` heals it.
    pub fn break_blob(&self, digest: &str, fault: Option<Fault>) {
        self.shared.cdn.set(digest, fault);
    }

    /// How many answers wait at a gate of this blob.
    pub fn held(&self, digest: &str) -> usize {
        self.shared.cdn.held(digest)
    }

    /// Every password there is, and every token that was ever given out.
    pub fn secrets(&self) -> Secrets {
        self.shared.tokens.secrets.clone()
    }

    /// The tokens given out so far are worth nothing from now on.
    pub fn expire_tokens(&self) {
        self.shared.tokens.forget();
    }

    /// Every token the token services gave out.
    pub fn issued_tokens(&self) -> Vec<String> {
        self.shared.tokens.all()
    }

    /// All names take requests and answer none, or answer again, the waiting ones too.
    pub fn hang(&self, on: bool) {
        self.shared.hanging.send_replace(on);
    }

    /// The token services fail, or no longer; what they gave out is worth nothing then. The
    /// registries are well.
    pub fn fail_tokens(&self, on: bool) {
        self.shared.tokens.forget();
        *self.shared.no_tokens.lock().expect("no panic holds it") = on;
    }

    /// Docker Hub answers manifests with 429, or no longer.
    pub fn rate_limit(&self, on: bool) {
        *self.shared.rate_limited.lock().expect("no panic holds it") = on;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.go_away();
        if std::thread::panicking() {
            eprintln!("--- what upstream saw\n{}", self.shared.seen);
        }
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        connections.spawn(connection(stream, acceptor.clone(), shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let handshake = tokio::time::timeout(Duration::from_secs(20), acceptor.accept(stream));
    let Ok(Ok(stream)) = handshake.await else {
        return;
    };
    let name = stream.get_ref().1.server_name().map(str::to_owned);
    let service = service_fn(|request: Request<Incoming>| {
        let (shared, name) = (shared.clone(), name.clone());
        async move { Ok::<_, Infallible>(answer(&shared, name.as_deref(), request).await) }
    });
    // A client that goes away is no news.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    shared: &Arc<Shared>,
    name: Option<&str>,
    request: Request<Incoming>,
) -> Response<Body> {
    let authority = request.headers().get(header::HOST);
    let host = authority.and_then(|it| it.to_str().ok()).unwrap_or("");
    let host = host.strip_suffix(":443").unwrap_or(host).to_owned();
    let entry = seen::Entry::of(&host, &request);
    let mut hanging = shared.hanging.subscribe();
    let _ = hanging.wait_for(|hanging| !hanging).await;
    let response = if name != Some(host.as_str()) {
        let text = format!("asked {host} of {name:?}");
        plain(StatusCode::MISDIRECTED_REQUEST, text)
    } else if host == CDN {
        cdn::answer(shared, &request).await
    } else if host == SEARCH {
        registry::search(&request)
    } else if tokens::is_service(&host, request.uri().path()) {
        if *shared.no_tokens.lock().expect("no panic holds it") {
            plain(StatusCode::SERVICE_UNAVAILABLE, "no tokens today")
        } else {
            tokens::answer(shared, &host, request).await
        }
    } else {
        if registry::writes(&host, &request) {
            registry::write(shared, &host, request).await
        } else {
            registry::answer(shared, &host, &request).await
        }
    };
    shared.seen.add(entry, response.status());
    response
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = plain(status, value.to_string());
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn oci_error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    json_answer(
        status,
        &json!({"errors": [{"code": code, "message": message}]}),
    )
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|no| match no {})
        .boxed_unsync()
}

/// A CA as PEM, and a server with one certificate of it for all names.
fn certificate() -> (String, ServerConfig) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "the upstreams of a test");
    let key = KeyPair::generate().expect("a key");
    let root = params.self_signed(&key).expect("a certificate");
    let issuer = Issuer::new(params, key);

    let names: Vec<_> = registry::names().map(str::to_owned).collect();
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(names)
        .and_then(|params| params.signed_by(&key, &issuer))
        .expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("default versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .expect("a certificate and its key");
    (root.pem(), server)
}
