//! The network beyond the gateway, on one real socket: registries, token services, CDNs, pages.
//!
//! The `Host` of a request picks who answers. The socket speaks TLS to whoever starts with a TLS
//! record, with a certificate for the name asked for, and plain HTTP to everybody else.

mod answers;
mod bent;
mod serve;
mod world;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use hyper::{HeaderMap, Method};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use self::world::World;
pub use self::world::{Auth, Page};
use super::{
    authority::TestCa,
    fault::{Armed, Fault, On, Shake},
    image::Repo,
    secrets::Secrets,
    within,
};

/// A server for every name the test gives it. See the module for what it is.
pub struct Upstream {
    shared: Arc<Shared>,
    addr: SocketAddr,
    ca: Arc<TestCa>,
    /// Whose certificates its registries ask their clients for.
    clients: Option<Arc<TestCa>>,
    running: Mutex<Option<Running>>,
    /// Its port while it is stopped: bound, so that nobody else is given it, and refusing.
    stopped: Mutex<Option<TcpSocket>>,
}

/// A registry within an [`Upstream`]: a host name with repositories and users of its own.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
    host: String,
}

/// A request that an [`Upstream`] saw.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    /// The `Host`, without a port.
    pub host: String,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    /// Whether the client showed a certificate.
    pub certified: bool,
    /// What it was answered; `None` while it is not, or when it never is.
    pub status: Option<u16>,
    sent: Arc<AtomicUsize>,
}

/// What the handles and the server share.
pub(super) struct Shared {
    world: Mutex<World>,
    faults: Mutex<Vec<Armed>>,
    seen: watch::Sender<Vec<Seen>>,
    accepted: AtomicUsize,
    /// Handshakes that go wrong, by the name asked for.
    shakes: Mutex<HashMap<String, Shake>>,
    /// What cuts the TLS connections that stand, by the name asked for.
    lines: Mutex<HashMap<String, CancellationToken>>,
}

/// A port that takes no connection and refuses none.
pub struct BlackHole {
    _listener: socket2::Socket,
    _queue: Vec<socket2::Socket>,
}

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

// === impl Upstream ===

impl Upstream {
    /// An upstream that knows nothing yet.
    pub async fn start() -> Self {
        Self::start_for(None).await
    }

    /// One whose registries answer 400 to who shows no certificate of `clients`, as nginx does.
    pub async fn start_for_clients_of(clients: Arc<TestCa>) -> Self {
        Self::start_for(Some(clients)).await
    }

    async fn start_for(clients: Option<Arc<TestCa>>) -> Self {
        let upstream = Self {
            shared: Arc::new(Shared::new()),
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            ca: TestCa::new("upstream test CA"),
            clients,
            running: Mutex::new(None),
            stopped: Mutex::new(None),
        };
        let listener = TcpListener::bind(upstream.addr).await.expect("a free port");
        let addr = listener.local_addr().expect("a bound socket");
        let upstream = Self { addr, ..upstream };
        upstream.run(listener);
        upstream
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The CA of its certificates, in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca.pem
    }

    /// Its CA, for a server of the test's own.
    pub fn ca(&self) -> &Arc<TestCa> {
        &self.ca
    }

    /// The registry of this host name, made when it is new. It is open to anyone until told
    /// otherwise.
    pub fn registry(&self, host: &str) -> Registry {
        self.shared.world().registry(host);
        Registry {
            shared: Arc::clone(&self.shared),
            host: host.to_owned(),
        }
    }

    /// A public repository at `host`, a registry that asks for no credentials.
    pub fn repo(&self, host: &str, name: &str) -> Repo {
        self.registry(host).repo(name)
    }

    /// A page that a GET of `path` at `host` finds, in TLS and in plain HTTP.
    pub fn page(&self, host: &str, path: &str, content_type: &str, body: &[u8]) {
        let page = Page::new(content_type, body);
        self.shared.world().page(host, path, page);
    }

    /// Every host name known here: what a gateway must resolve to [`addr`](Self::addr).
    pub fn hosts(&self) -> Vec<String> {
        self.shared.world().hosts()
    }

    /// The hosts among them that are registries.
    pub fn registry_hosts(&self) -> Vec<String> {
        self.shared.world().registry_hosts()
    }

    /// The passwords of its users, its tokens, and every login it was shown.
    pub fn secrets(&self) -> Secrets {
        self.shared.world().secrets.clone()
    }

    /// Adds to the script; the first entry that matches a request is the one it meets.
    pub fn fault(&self, on: On, fault: Fault) {
        self.shared.faults().push(Armed::new(on, fault));
    }

    /// Forgets the script.
    pub fn mend(&self) {
        self.shared.faults().clear();
    }

    /// Forgets what of the script is for `host` alone, its handshakes included.
    pub fn mend_at(&self, host: &str) {
        self.shared.faults().retain(|armed| !armed.is_at(host));
        self.shared.shakes().remove(host);
    }

    /// From now on, handshakes for `host` go wrong like this.
    pub fn shake(&self, host: &str, shake: Shake) {
        self.shared.shakes().insert(host.to_owned(), shake);
    }

    /// Closes the TLS connections to `host`, idle or not.
    pub fn cut(&self, host: &str) {
        if let Some(line) = self.shared.lines().remove(host) {
            line.cancel();
        }
    }

    /// Every token handed out so far is worth nothing from now on.
    pub fn expire_tokens(&self) {
        self.shared.world().expire_tokens();
    }

    /// Every token handed out from now on is good for `requests` requests.
    pub fn tokens_last(&self, requests: usize) {
        self.shared.world().tokens_last = Some(requests);
    }

    /// Every signed URL handed out so far is refused from now on, with 403.
    pub fn expire_signatures(&self) {
        self.shared.world().expire_signatures();
    }

    /// Stops: the port is closed and every connection is cut.
    pub async fn stop(&self) {
        let running = self.running.lock().expect("no panic here").take();
        if let Some(running) = running {
            running.stop.cancel();
            within(10, running.task).await.expect("the server's task");
            *self.stopped.lock().expect("no panic here") = Some(self.port());
        }
    }

    /// Stops, and lets nobody in or out at its port: connections to it are not even refused. As
    /// long as the answer lives.
    pub async fn black_hole(&self) -> BlackHole {
        self.stop().await;
        BlackHole::at(self.addr).await
    }

    /// Starts again on the same port, knowing what it knew.
    pub async fn start_again(&self) {
        let stopped = self.stopped.lock().expect("no panic here").take();
        let socket = stopped.unwrap_or_else(|| self.port());
        self.run(socket.listen(1024).expect("its old port"));
    }

    fn port(&self) -> TcpSocket {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option");
        socket.bind(self.addr).expect("its old port");
        socket
    }

    // --- what it saw ---

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.borrow().clone()
    }

    /// How many requests there were with this method and a path that contains `path`.
    pub fn count(&self, method: Method, path: &str) -> usize {
        let seen = self.shared.seen.borrow();
        let matches = |one: &&Seen| one.method == method && one.path.contains(path);
        seen.iter().filter(matches).count()
    }

    /// How many GETs of blobs there were that reached a registry, wherever it sent them.
    pub fn blob_gets(&self) -> usize {
        self.count(Method::GET, "/v2/") - self.count_not_blobs()
    }

    /// How many GETs of manifests there were.
    pub fn manifest_gets(&self) -> usize {
        self.count(Method::GET, "/manifests/")
    }

    /// How many HEADs of manifests there were.
    pub fn manifest_heads(&self) -> usize {
        self.count(Method::HEAD, "/manifests/")
    }

    /// How many requests there were in all.
    pub fn requests(&self) -> usize {
        self.shared.seen.borrow().len()
    }

    /// How many connections were accepted, whether a request came over them or not.
    pub fn connections(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// How many bytes of bodies were sent in answer to GETs whose path contains `path`, refusals
    /// and redirects aside.
    pub fn bytes_sent(&self, path: &str) -> usize {
        let seen = self.shared.seen.borrow();
        let matches = |one: &&Seen| {
            let good = matches!(one.status, Some(200 | 206));
            good && one.method == Method::GET && one.path.contains(path)
        };
        seen.iter().filter(matches).map(Seen::sent).sum()
    }

    /// Waits until the requests so far are such that `holds`.
    #[track_caller]
    pub fn until(&self, holds: impl Fn(&[Seen]) -> bool) -> impl Future<Output = ()> {
        let mut seen = self.shared.seen.subscribe();
        within(30, async move {
            seen.wait_for(|all| holds(all)).await.expect("it runs");
        })
    }

    /// How many GETs under `/v2/` were of something else than a blob.
    fn count_not_blobs(&self) -> usize {
        let seen = self.shared.seen.borrow();
        let other = |one: &&Seen| {
            one.method == Method::GET && one.path.contains("/v2/") && !one.path.contains("/blobs/")
        };
        seen.iter().filter(other).count()
    }

    fn run(&self, listener: TcpListener) {
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve::accept(
            listener,
            Arc::clone(&self.ca),
            self.clients.clone(),
            Arc::clone(&self.shared),
            stop.clone(),
        ));
        let running = Running { stop, task };
        *self.running.lock().expect("no panic here") = Some(running);
    }
}

// === impl BlackHole ===

impl BlackHole {
    /// At this address, which must be free. What the kernel has queued fills the queue; it drops
    /// what comes after that.
    async fn at(addr: SocketAddr) -> Self {
        let socket = || {
            socket2::Socket::new(
                socket2::Domain::for_address(addr),
                socket2::Type::STREAM,
                None,
            )
            .expect("a socket")
        };
        let listener = socket();
        listener.set_reuse_address(true).expect("an option");
        listener.bind(&addr.into()).expect("its old port");
        listener.listen(0).expect("a listener");
        let mut queue = Vec::new();
        for _ in 0..4 {
            let filler = socket();
            filler.set_nonblocking(true).expect("an option");
            // Under way, or in the queue: both fill it.
            let _ = filler.connect(&addr.into());
            queue.push(filler);
        }
        Self {
            _listener: listener,
            _queue: queue,
        }
    }
}

// === impl Registry ===

impl Registry {
    /// Asks for tokens from `https://TOKEN_HOST/token`.
    pub fn bearer(self, token_host: &str) -> Self {
        let auth = Auth::Bearer(token_host.to_owned());
        self.shared.world().registry(&self.host).auth = auth;
        self
    }

    /// Asks for a user and a password.
    pub fn basic(self) -> Self {
        self.shared.world().registry(&self.host).auth = Auth::Basic;
        self
    }

    /// Sends every GET of a blob to `https://CDN_HOST/…?signature`.
    pub fn cdn(self, cdn_host: &str) -> Self {
        self.shared.world().cdn(&self.host, cdn_host);
        self
    }

    /// Adds a user.
    pub fn user(self, name: &str, password: &str) -> Self {
        let mut world = self.shared.world();
        let users = &mut world.registry(&self.host).users;
        users.insert(name.to_owned(), password.to_owned());
        world.secrets.login(name, password);
        drop(world);
        self
    }

    /// A repository for anyone, made when it is new. (With [`basic`](Self::basic), for any user.)
    pub fn repo(&self, name: &str) -> Repo {
        self.shared.world().repo(&self.host, name);
        Repo::new(Arc::clone(&self.shared), &self.host, name)
    }

    /// A repository for these users only.
    pub fn private_repo(&self, name: &str, users: &[&str]) -> Repo {
        let only = users.iter().map(|user| (*user).to_owned()).collect();
        self.shared.world().repo(&self.host, name).only = Some(only);
        Repo::new(Arc::clone(&self.shared), &self.host, name)
    }

    /// A token as the token service would give it: to `user`, or to nobody in particular, for
    /// pulls from `repo`.
    pub fn token(&self, user: Option<&str>, repo: &str) -> String {
        self.shared.world().issue(&self.host, user, repo)
    }
}

// === impl Seen ===

impl Seen {
    /// How many bytes of body were sent so far.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// A header's value, empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }

    /// All lines of a header, as one list.
    pub fn header_lines(&self, name: &str) -> String {
        let lines = self.headers.get_all(name).iter();
        let lines: Vec<_> = lines.filter_map(|line| line.to_str().ok()).collect();
        lines.join(", ")
    }
}
