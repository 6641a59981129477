//! Everything a test stands on, in one temporary folder.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use toml::{Table, Value};

use crate::backend::Backend;
use crate::gateway::{Gateway, merge};
use crate::image::{Image, Index};
use crate::machine::{Machine, Trust};
use crate::slow::relay;
use crate::upstream::Upstream;

/// The registries of the world; gateways and machines are made from it and end before it.
pub struct World {
    pub upstream: Upstream,
    backend: Backend,
    runtime: Runtime,
    numbers: AtomicU32,
    dir: TempDir,
}

/// Where an image is published, and how its clients call it.
#[derive(Clone, Debug)]
pub struct Name {
    /// As `docker pull` takes it.
    pub full: String,
    pub tag: String,
    pub repository: String,
}

// === impl World ===

impl World {
    pub fn new() -> Self {
        let id = std::process::Command::new("id").arg("-u").output();
        let id = id.expect("the command id").stdout;
        assert_eq!(
            String::from_utf8_lossy(&id).trim(),
            "0",
            "the end-to-end tests start daemons and mount: run them as root"
        );
        // Short, because unix socket paths are.
        let dir = tempfile::Builder::new()
            .prefix("ph")
            .tempdir_in("/tmp")
            .expect("a temporary folder");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let backend = {
            let _inside = runtime.enter();
            Backend::start(dir.path())
        };
        let upstream = Upstream::start(runtime.handle().clone(), backend.store().clone());
        std::fs::write(dir.path().join("upstream.pem"), upstream.roots()).expect("a file");
        Self {
            upstream,
            backend,
            runtime,
            numbers: AtomicU32::new(0),
            dir,
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A folder no one else has.
    pub fn folder(&self, prefix: &str) -> PathBuf {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let folder = self.path().join(format!("{prefix}{number}"));
        std::fs::create_dir(&folder).expect("a folder");
        folder
    }

    /// Puts an image into a registry under `repository:tag`.
    pub fn publish(&self, host: &str, reference: &str, image: &Image) -> Name {
        let name = Name::of(host, reference);
        let pushing = self.backend.store();
        let path = format!("{}/{}", folder(host), name.repository);
        self.runtime.block_on(pushing.push(&path, &name.tag, image));
        name
    }

    /// The same with an image of several platforms.
    pub fn publish_index(&self, host: &str, reference: &str, index: &Index) -> Name {
        let name = Name::of(host, reference);
        let pushing = self.backend.store();
        let path = format!("{}/{}", folder(host), name.repository);
        self.runtime
            .block_on(pushing.push_index(&path, &name.tag, index));
        name
    }

    /// A registry of the house, beside those of the world.
    pub fn house(&self, user: &str, password: &str) -> Backend {
        let _inside = self.runtime.enter();
        Backend::behind_a_password(&self.folder("r"), user, password)
    }

    /// A gateway with the defaults of these tests, changed by `changes` (TOML).
    pub fn gateway(&self, changes: &str) -> Gateway {
        Gateway::start(&self.folder("g"), self.config(changes)).keeping(&self.upstream.secrets())
    }

    /// Settings that lead to the upstream's names from afar: `latency` there and back, and so many bytes
    /// a second for each connection.
    pub fn far_away(&self, latency: Duration, rate: u64) -> String {
        let names = self.upstream.resolve();
        let to = names.values().next().expect("a name");
        let to = to.parse().expect("an address");
        let listening = TcpListener::bind("127.0.0.1:0");
        let listener = self.runtime.block_on(listening).expect("a free port");
        let from = listener.local_addr().expect("a bound address");
        self.runtime.spawn(relay(listener, to, latency, rate));
        let pairs = names.keys().map(|name| format!("{name:?} = \"{from}\""));
        let pairs: Vec<String> = pairs.collect();
        format!("[upstream]\nresolve = {{ {} }}\n", pairs.join(", "))
    }

    /// The configuration a gateway gets.
    pub fn config(&self, changes: &str) -> Table {
        let mut config: Table = r#"
            [listen]
            proxy = ["127.0.0.1:0"]
            admin = "127.0.0.1:0"
            [ca]
            dir = "ca"
            [cache]
            dir = "cache"
            min_free = "1MiB"
            tag_ttl = "1h"
            [upstream]
            allow_private = ["127.0.0.0/8"]
            [log]
            format = "json"
            [[registry]]
            host = "registry.partner.example"
        "#
        .parse()
        .expect("TOML");
        let resolve = self.upstream.resolve().into_iter();
        let resolve: Table = resolve.map(|(k, v)| (k, Value::String(v))).collect();
        let roots = self.path().join("upstream.pem").display().to_string();
        let mut upstream = Table::new();
        upstream.insert("resolve".into(), Value::Table(resolve));
        upstream.insert("ca_file".into(), Value::String(roots));
        let upstream = Table::from_iter([("upstream".to_owned(), Value::Table(upstream))]);
        merge(&mut config, upstream);
        merge(&mut config, changes.parse().expect("TOML"));
        config
    }

    /// A client machine that has the gateway as its proxy and its CA as its only root.
    pub fn machine(&self, gateway: &Gateway) -> Machine {
        self.machine_trusting(gateway, Trust::Everywhere(gateway.ca().to_owned()))
    }

    /// A client machine without a proxy setting and without any root.
    pub fn plain_machine(&self) -> Machine {
        let nothing = Trust::Everywhere("/dev/null".into());
        Machine::new(self.folder("m"), "", nothing)
    }

    pub fn machine_trusting(&self, gateway: &Gateway, trust: Trust) -> Machine {
        Machine::new(self.folder("m"), gateway.proxy(), trust)
    }
}

// === impl Name ===

impl Name {
    fn of(host: &str, reference: &str) -> Self {
        let (repository, tag) = reference.split_once(':').expect("repository:tag");
        let shown = if host == crate::upstream::HUB {
            "docker.io"
        } else {
            host
        };
        Self {
            full: format!("{shown}/{reference}"),
            tag: tag.to_owned(),
            repository: repository.to_owned(),
        }
    }

    /// The same repository, by digest.
    pub fn at(&self, digest: &str) -> String {
        let (repository, _tag) = self.full.rsplit_once(':').expect("a tag");
        format!("{repository}@{digest}")
    }
}

fn folder(host: &str) -> &'static str {
    crate::upstream::Site::find(host)
        .expect("a registry of this world")
        .folder
}
