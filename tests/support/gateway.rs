//! The real binary, with a configuration and directories of its own.

use std::{
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
};

use hyper::Method;
use tempfile::TempDir;

use super::{
    Client, Setup, Upstream, client,
    logs::Log,
    secrets::{self, Secrets, Told},
    within,
};

/// A running gateway. Dropping it kills it, and fails the test if it told a secret.
pub struct Gateway {
    setup: Setup,
    home: Arc<TempDir>,
    child: Option<Child>,
    /// Where it takes proxy requests.
    pub proxy: SocketAddr,
    /// Where it shows its metrics.
    pub admin: SocketAddr,
    /// Its CA certificate, in PEM.
    pub ca_pem: String,
    /// The banner.
    pub out: Log,
    /// The log.
    pub log: Log,
    /// What the test's clients told it, and what its configuration holds.
    secrets: Secrets,
    /// What it showed before it ended.
    shown: Mutex<Vec<Told>>,
    /// The test has looked for itself, and for something.
    searched: bool,
}

// === impl Setup ===

impl Setup {
    /// Starts it in a directory of its own.
    pub async fn start(self) -> Gateway {
        let home = tempfile::Builder::new().prefix("pierhead-it-").tempdir();
        self.start_in(Arc::new(home.expect("a temporary directory")))
            .await
    }

    /// Starts it where another one lived.
    pub async fn start_in(self, home: Arc<TempDir>) -> Gateway {
        let config = self.write(&home);
        let secrets = Secrets::default();
        let written = std::fs::read_to_string(&config).expect("just written");
        secrets.configuration(&written, home.path());
        let mut child = command()
            .arg("serve")
            .arg("--config")
            .arg(config)
            .envs(self.environment())
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let out = Log::follow(child.stdout.take().expect("piped"));
        let log = Log::follow(child.stderr.take().expect("piped"));
        let mut gateway = Gateway {
            setup: self,
            home,
            child: Some(child),
            proxy: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin: SocketAddr::from(([127, 0, 0, 1], 0)),
            ca_pem: String::new(),
            out,
            log,
            secrets,
            shown: Mutex::default(),
            searched: false,
        };
        let is_ready = |line: &str| line.trim_start().starts_with("ready");
        let ready = within(30, gateway.out.until(is_ready)).await;
        let banner = gateway.out.text();
        assert!(ready, "it ended:\n{banner}\n{}", gateway.log.text());
        gateway.proxy = address(&banner, "proxy");
        gateway.admin = address(&banner, "admin");
        let ca = word_after(&banner, "CA").expect("a line about the CA");
        let ca = gateway.home.path().join(ca);
        gateway.ca_pem = std::fs::read_to_string(ca).expect("the CA's certificate");
        gateway
    }
}

// === impl Gateway ===

impl Gateway {
    /// A setup in which everything behind `upstream` is resolved and trusted, and its registries
    /// are configured.
    pub fn before(upstream: &Upstream) -> Setup {
        Setup::default().and(upstream)
    }

    /// A setup with no upstream.
    pub fn alone() -> Setup {
        Setup::default()
    }

    /// A client that has this gateway as its proxy and trusts its CA alone.
    pub fn client(&self) -> Client {
        Client::new(self.proxy, &self.ca_pem).telling(&self.secrets)
    }

    /// What it must keep to itself, beside what its upstreams know.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Ends it, and says where it told which secret.
    pub fn told_secrets(&mut self) -> Vec<String> {
        self.searched = true;
        self.look();
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let mut told = std::mem::take(&mut *self.shown.lock().expect("no panic holds it"));
        for (place, log) in [("the banner", &self.out), ("the log", &self.log)] {
            told.push(Told {
                place: place.to_owned(),
                text: log.whole(),
            });
        }
        told.extend(secrets::written(&self.cache_dir()));
        let found = self.lists().flat_map(|list| list.found_in(&told));
        found.collect()
    }

    fn lists(&self) -> impl Iterator<Item = &Secrets> {
        [&self.secrets].into_iter().chain(&self.setup.secrets)
    }

    /// Keeps what it shows now, for the search.
    fn look(&self) {
        if let Some(child) = &self.child
            && !self.lists().all(Secrets::is_empty)
        {
            let shown = secrets::shown(child.id(), self.admin);
            self.shown.lock().expect("no panic holds it").extend(shown);
        }
    }

    /// Where it takes proxy requests in TLS, by `[listen] proxy_tls`.
    pub fn proxy_tls(&self) -> SocketAddr {
        let banner = self.out.text();
        let mut words = banner.split_whitespace();
        let addr = words.find_map(|word| word.strip_prefix("https://"));
        addr.expect("a line about it").parse().expect("an address")
    }

    /// Its directory, to start another one in.
    pub fn home(&self) -> Arc<TempDir> {
        Arc::clone(&self.home)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// The `[ca] dir`.
    pub fn ca_dir(&self) -> PathBuf {
        self.home.path().join("ca")
    }

    /// The `[cache] dir`.
    pub fn cache_dir(&self) -> PathBuf {
        let own = self.setup.cache_dir.clone();
        own.unwrap_or_else(|| self.home.path().join("cache"))
    }

    /// The files of the cache, with their sizes in bytes.
    pub fn cache_files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        walk(&self.cache_dir(), &mut files);
        files
    }

    /// How many files of the cache begin as `bytes` do: finished, unfinished or forgotten.
    pub fn copies_of(&self, bytes: &[u8]) -> usize {
        let begin = &bytes[..bytes.len().min(64)];
        let same = |(path, _): &&(PathBuf, u64)| {
            let mut start = vec![0; begin.len()];
            let file = std::fs::File::open(path);
            file.is_ok_and(|mut file| file.read_exact(&mut start).is_ok()) && start == begin
        };
        self.cache_files().iter().filter(same).count()
    }

    /// How many bytes the cache's files of at least 64 KiB hold; the index is not among them.
    pub fn cached_bytes(&self) -> u64 {
        let files = self.cache_files().into_iter();
        let blobs = files.filter(|(path, _)| {
            let name = path.to_string_lossy().into_owned();
            !name.contains("index") && !name.contains("redb")
        });
        // One file that is put in place meanwhile has two names in the list.
        let mut seen = std::collections::HashMap::new();
        for (path, _) in blobs {
            use std::os::unix::fs::MetadataExt;
            if let Ok(meta) = std::fs::metadata(path) {
                seen.insert(meta.ino(), meta.len());
            }
        }
        seen.values().sum()
    }

    /// Waits until what `/metrics` counts is what the files take.
    #[track_caller]
    pub fn counts_what_is_there(&self) -> impl Future<Output = ()> {
        self.counts_what_is_there_after("all that was done")
    }

    /// The same, for a test that wants to read what came before.
    #[track_caller]
    pub fn counts_what_is_there_after(&self, what: &str) -> impl Future<Output = ()> {
        let at = std::panic::Location::caller();
        async move {
            let mut said = String::new();
            let mut ticks = tokio::time::interval(std::time::Duration::from_millis(20));
            for _ in 0..1000 {
                ticks.tick().await;
                let metrics = self.metrics().await;
                let mut lines = metrics.lines();
                let counted =
                    lines.find_map(|line| line.strip_prefix("pierhead_cache_used_bytes "));
                let counted: u64 = counted.expect("the metric").parse().expect("a number");
                let files = super::shim::files(&self.cache_dir());
                let taken = files.values().sum::<u64>();
                if counted == taken {
                    return;
                }
                said = format!("{counted} bytes are counted, {taken} are taken by {files:#?}");
            }
            let log = self.log.last(LAST_LINES);
            panic!("after {what}: {said}, at {at}\nthe last it said:\n{log}");
        }
    }

    /// What `/metrics` says, in OpenMetrics as Prometheus asks for it.
    pub async fn metrics(&self) -> String {
        let accept = [("accept", "application/openmetrics-text;version=1.0.0")];
        let reply = client::direct(self.admin, Method::GET, "/metrics", &accept).await;
        assert_eq!(reply.status, 200, "metrics");
        reply.text().await
    }

    /// The most memory that it ever had in use, in bytes.
    pub fn peak_memory(&self) -> usize {
        let pid = self.child.as_ref().expect("it runs").id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        let status = status.expect("Linux");
        let mut lines = status.lines();
        let peak = lines.find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|text| text.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<usize>().ok())
            .expect("a size")
            << 10
    }

    /// Writes another configuration, and does not tell it.
    pub fn rewrite(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.setup = change(self.setup.clone());
        self.setup.write(&self.home);
    }

    /// SIGHUP, and waits for what it says: the line of the log.
    pub async fn hangup(&self) -> String {
        let before = self.log.all("\"the configuration was ").len();
        self.ask_to_reload();
        self.log.nth("\"the configuration was ", before + 1).await
    }

    /// SIGHUP, and does not wait.
    pub fn ask_to_reload(&self) {
        let child = self.child.as_ref().expect("it runs");
        signal("HUP", child.id());
    }

    /// Waits until `/metrics` has this line.
    pub async fn metric_becomes(&self, line: &str) {
        within(30, async {
            while !self.metrics().await.lines().any(|one| one == line) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Another configuration, which it must take.
    pub async fn reload_as(&mut self, change: impl FnOnce(Setup) -> Setup) -> String {
        self.rewrite(change);
        let line = self.hangup().await;
        assert!(line.contains("was read anew"), "{line}");
        line
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.home.path().join("pierhead.toml")
    }

    /// The certificate clients are to trust by now, in PEM.
    pub fn ca_now(&self) -> String {
        std::fs::read_to_string(self.ca_dir().join("ca.crt")).expect("the CA's certificate")
    }

    /// Ends it as a power cut would, and waits until it is gone.
    pub async fn kill9(&mut self) {
        self.look();
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            within(10, tokio::task::spawn_blocking(move || child.wait()))
                .await
                .ok();
        }
    }

    /// Asks it to end, and does not wait.
    pub fn ask_to_end(&self) {
        self.look();
        let child = self.child.as_ref().expect("it runs");
        signal("TERM", child.id());
    }

    /// Waits until it has ended, for `seconds` at most.
    pub async fn ended(&mut self, seconds: u64) -> ExitStatus {
        let child = self.child.take().expect("it runs");
        wait(child, seconds).await
    }

    /// SIGTERM, and waits until it is gone.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.ask_to_end();
        self.ended(45).await
    }

    /// Kills it when it still runs, and starts it again in the same directories. Its addresses
    /// are new, and so must its clients be.
    pub async fn restart(mut self) -> Self {
        self.kill9().await;
        let (setup, home) = (self.setup.clone(), self.home());
        setup.start_in(home).await
    }

    /// The same with another configuration.
    pub async fn restart_as(mut self, change: impl FnOnce(Setup) -> Setup) -> Self {
        self.kill9().await;
        let (setup, home) = (self.setup.clone(), self.home());
        change(setup).start_in(home).await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let told = match self.searched || std::thread::panicking() {
            true => Vec::new(),
            false => self.told_secrets(),
        };
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        assert!(told.is_empty(), "secrets were told:\n{}", told.join("\n"));
        if std::thread::panicking() {
            eprintln!("--- the gateway's log\n{}\n---", self.log.text());
        }
    }
}

/// The binary, without what the machine's own environment would tell it; another one where a
/// benchmark compares builds.
pub fn command() -> Command {
    let other = std::env::var_os("BENCH_BINARY");
    let built = || env!("CARGO_BIN_EXE_pierhead").into();
    let mut command = Command::new(other.unwrap_or_else(built));
    for (name, _) in std::env::vars_os() {
        let lower = name.to_string_lossy().to_lowercase();
        if lower.ends_with("_proxy") || lower.starts_with("pierhead_") || lower == "rust_log" {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs the binary to its end, which must come within twenty seconds.
pub async fn run(args: &[&str], dir: &Path) -> Output {
    let child = command()
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let pid = child.id();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output());
    let output = tokio::time::timeout(std::time::Duration::from_secs(20), output).await;
    if output.is_err() {
        signal("KILL", pid);
    }
    let output = output.unwrap_or_else(|_| panic!("{args:?} does not end"));
    output.expect("no panic there").expect("an exit status")
}

async fn wait(mut child: Child, seconds: u64) -> ExitStatus {
    let pid = child.id();
    let status = tokio::task::spawn_blocking(move || child.wait());
    let status = tokio::time::timeout(std::time::Duration::from_secs(seconds), status).await;
    if status.is_err() {
        signal("KILL", pid);
    }
    let status = status.unwrap_or_else(|_| panic!("it did not end within {seconds} s"));
    status.expect("no panic there").expect("an exit status")
}

/// Sends a signal, with the one tool for it that every system has.
fn signal(name: &str, pid: u32) {
    let sent = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("kill -{name} {pid}"))
        .status();
    assert!(sent.expect("a shell").success(), "SIG{name} to {pid}");
}

/// The second word of the banner's line whose first is `name`.
fn word_after(banner: &str, name: &str) -> Option<String> {
    let mut lines = banner.lines().map(str::split_whitespace);
    let line = lines.find_map(|mut words| (words.next() == Some(name)).then_some(words));
    line?.next().map(str::to_owned)
}

fn address(banner: &str, name: &str) -> SocketAddr {
    let url = word_after(banner, name);
    let addr = url.as_deref().and_then(|url| url.strip_prefix("http://"));
    let addr = addr.and_then(|addr| addr.trim_end_matches('/').parse().ok());
    addr.unwrap_or_else(|| panic!("no address of {name} in:\n{banner}"))
}

/// Lines of the log that a failing test shows beside what failed.
pub const LAST_LINES: usize = 60;

fn walk(dir: &Path, files: &mut Vec<(PathBuf, u64)>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => walk(&entry.path(), files),
            Ok(meta) => files.push((entry.path(), meta.len())),
            // It went away while we looked.
            Err(_) => {}
        }
    }
}
