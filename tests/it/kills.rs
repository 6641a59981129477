//! `kill -9` at random moments under load, a hundred times, and what the next start makes of it.
//!
//! Each of the four tests kills one gateway after another in the same directories while clients pull,
//! read parts, push, pin, import and remove. What it does follows from a seed that is printed when the
//! test fails; `KILLS_SEED=…` makes it do the same again, as far as the machine's own timing goes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::support::shim::files;
use crate::support::{
    Blob, Client, Fault, Gateway, Image, On, Repo, Setup, Upstream, client, content, eventually,
    image,
};

const KIB: usize = 1024;
const ROUNDS: u64 = 25;
const CLIENTS: u64 = 5;
/// What is asked for at random; small, so that a round is short and much of it is cut in the middle.
const SIZES: [usize; 6] = [10, 5 * KIB, 70 * KIB, 300 * KIB, 900 * KIB, 1500 * KIB];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_had_whole_outlives_a_kill() {
    Ordeal::begin(1, "1GiB").await.endure().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_had_whole_outlives_a_kill_again() {
    Ordeal::begin(2, "1GiB").await.endure().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_amid_evictions_leaves_nothing_wrong_and_nothing_uncounted() {
    Ordeal::begin(3, "8MiB").await.endure().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_amid_evictions_leaves_nothing_wrong_and_nothing_uncounted_again() {
    Ordeal::begin(4, "6MiB").await.endure().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_end_under_load_cuts_no_answer_and_loses_nothing() {
    Ordeal::begin(5, "1GiB").await.end_in_order().await;
}

/// One gateway after another, their upstream, and what their clients were promised.
struct Ordeal {
    seed: u64,
    max_size: u64,
    up: Upstream,
    setup: Setup,
    world: Arc<World>,
    gateway: Option<Gateway>,
}

/// What there is to ask for.
struct World {
    repo: Repo,
    images: Vec<Image>,
    blobs: Vec<Blob>,
    pushed: Vec<Blob>,
    /// Upstream has none of it.
    carried: Image,
    carried_tar: Bytes,
    had: Mutex<Had>,
    /// Answers that ended before their time.
    cut: AtomicUsize,
}

/// What clients were given whole. It must be there without upstream, unless it had to make room.
#[derive(Default)]
struct Had {
    blobs: BTreeSet<String>,
    /// By number.
    images: BTreeSet<usize>,
    carried: bool,
}

// === impl Ordeal ===

impl Ordeal {
    async fn begin(number: u64, max_size: &str) -> Self {
        let seed = std::env::var("KILLS_SEED").ok();
        let seed = seed.map_or(0xC0FFEE + number, |text| text.parse().expect("a number"));
        let up = Upstream::start().await;
        let repo = up.repo("registry.test", "app");
        let mut dice = Dice(seed);
        let images = (0..4u64).map(|n| {
            let sizes: Vec<usize> = (0..3).map(|_| *dice.one_of(&SIZES)).collect();
            repo.image(&format!("v{n}"), seed * 100 + n, &sizes)
        });
        let images = images.collect();
        let blobs = (0..8).map(|n| repo.blob(seed * 1000 + n, *dice.one_of(&SIZES)));
        let blobs = blobs.collect();
        let pushed = (0..4).map(|n| Blob::noise(seed * 2000 + n, *dice.one_of(&SIZES)));
        let pushed = pushed.collect();
        let setup = Gateway::before(&up)
            .text("cache", "tag_ttl", "0s")
            .text("cache", "max_size", max_size)
            .text("log", "level", "debug")
            .registry("registry.test", "push = \"allow\"");
        let gateway = setup.clone().start().await;
        // The file that is carried in over and over is made by the gateway itself.
        let carried = repo.image("carried", seed * 100 + 50, &[200 * KIB, 10]);
        gateway.client().pull(&carried).await;
        let export = "/api/v1/export?image=registry.test/app:carried";
        let carried_tar = client::plain(gateway.admin, export).await.bytes().await;
        repo.untag("carried");
        let uploads = On::any("/blobs/uploads/").always();
        up.fault(uploads, Fault::Status(201, Vec::new(), ""));
        let max_size = max_size.trim_end_matches("iB");
        let (digits, unit) = max_size.split_at(max_size.len() - 1);
        let unit = if unit == "G" { 1 << 30 } else { 1 << 20 };
        Self {
            seed,
            max_size: digits.parse::<u64>().expect("digits") * unit,
            up,
            setup,
            world: Arc::new(World {
                repo,
                images,
                blobs,
                pushed,
                carried,
                carried_tar,
                had: Mutex::default(),
                cut: AtomicUsize::new(0),
            }),
            gateway: Some(gateway),
        }
    }

    async fn endure(mut self) {
        let mut dice = Dice(self.seed ^ 0x5EED);
        let mut given = 0;
        let mut logged = String::new();
        for round in 0..ROUNDS {
            eprintln!("KILLS_SEED={} round {round}", self.seed);
            let mut gateway = self.gateway.take().expect("one at a time");
            let clients = (0..CLIENTS).map(|number| {
                let hand = Hand::of(&gateway, number, self.world.clone());
                tokio::spawn(hand.work(Dice(self.seed ^ (round << 8) ^ number)))
            });
            let clients: Vec<_> = clients.collect();
            // Not a wait for anything: the moment itself is what is random here.
            tokio::time::sleep(Duration::from_micros(dice.below(250_000))).await;
            gateway.kill9().await;
            for client in clients {
                given += client.await.expect("a client does not panic");
            }
            assert_all_right(&gateway.cache_dir());
            let held = files(&gateway.cache_dir()).values().sum::<u64>();
            assert!(held <= self.max_size, "{held} of {}", self.max_size);
            let home = gateway.home();
            logged += &gateway.log.whole();
            logged.push('\n');
            drop(gateway);

            let gateway = self.setup.clone().start_in(home).await;
            self.check(&gateway, &logged).await;
            self.gateway = Some(gateway);
        }
        assert!(given > ROUNDS, "hardly anybody got anything: {given}");
        self.verify().await;
    }

    /// The same with SIGTERM: whoever has the head of an answer gets all of it.
    async fn end_in_order(mut self) {
        let mut dice = Dice(self.seed);
        for round in 0..5 {
            eprintln!("KILLS_SEED={} round {round}", self.seed);
            let mut gateway = self.gateway.take().expect("one at a time");
            let clients = (0..CLIENTS).map(|number| {
                let hand = Hand::of(&gateway, number, self.world.clone());
                tokio::spawn(hand.work(Dice(self.seed ^ (round << 8) ^ number)))
            });
            let clients: Vec<_> = clients.collect();
            tokio::time::sleep(Duration::from_micros(dice.below(300_000))).await;
            assert!(gateway.terminate().await.success());
            for client in clients {
                client.await.expect("a client does not panic");
            }
            assert_eq!(self.world.cut.load(Ordering::SeqCst), 0);
            assert_all_right(&gateway.cache_dir());
            let home = gateway.home();
            drop(gateway);
            let gateway = self.setup.clone().start_in(home).await;
            self.check(&gateway, "").await;
            self.gateway = Some(gateway);
        }
        self.verify().await;
    }

    /// After a start; `before` is what the processes before it logged.
    async fn check(&self, gateway: &Gateway, before: &str) {
        let here = files(&gateway.cache_dir());
        for name in here.keys().filter(|name| name.starts_with("partial/")) {
            let left = [".done", ".trash"].iter().any(|end| name.ends_with(end));
            assert!(!left && !name.contains("upload-"), "{name} is left");
        }
        gateway.counts_what_is_there().await;
        let (images, blobs, carried) = {
            let had = self.world.had.lock().expect("no panic there");
            (had.images.clone(), had.blobs.clone(), had.carried)
        };
        // Under pressure what made room is gone, and rightly so.
        let roomy = self.max_size > 1 << 28;
        let is_here = |digest: &str| {
            let hex = digest.rsplit(':').next().unwrap_or_default();
            let here = files(&gateway.cache_dir());
            let mut names = here.keys();
            names.any(|name| name.starts_with("blobs/") && name.ends_with(hex))
        };
        // It went, was fetched once more, and the process died with all of it there and its repository not
        // yet written; so did the next one, which had put it in place. Upstream has to be asked.
        let was_revived = |digest: &str| {
            let mut lines = before.lines();
            lines.any(|line| line.contains("is put in place") && line.contains(digest))
        };
        let mut unproven = Vec::new();
        self.up.stop().await;
        let client = gateway.client();
        for digest in blobs.iter().filter(|digest| roomy || is_here(digest)) {
            let reply = client.get(&self.world.repo.blob_url(digest)).send().await;
            if !roomy && reply.status != 200 {
                let here = is_here(digest);
                assert!(!here || was_revived(digest), "{digest} is not served");
                unproven.push(digest);
                continue;
            }
            if reply.status != 200 {
                let about = before.lines().filter(|line| line.contains(digest));
                let about: Vec<&str> = about.collect();
                eprintln!("what was logged of {digest}:\n{}", about.join("\n"));
            }
            reply.verified(digest).await;
        }
        if roomy {
            for number in images {
                client.pull(&self.world.images[number]).await;
            }
        }
        if carried {
            client.pull(&self.world.carried).await;
        }
        self.up.start_again().await;
        for digest in unproven.into_iter().filter(|digest| is_here(digest)) {
            let reply = client.get(&self.world.repo.blob_url(digest)).send().await;
            reply.verified(digest).await;
        }
        gateway.counts_what_is_there().await;
    }

    /// `cache verify`, in effect.
    async fn verify(mut self) {
        let gateway = self.gateway.take().expect("it runs");
        let verify = "/api/v1/cache/verification";
        let began = client::direct(gateway.admin, Method::POST, verify, &[]).await;
        assert_eq!(began.status, 202);
        let mut ended = serde_json::Value::Null;
        while ended["ended"].is_null() {
            let text = client::plain(gateway.admin, verify).await.text().await;
            ended = serde_json::from_str(&text).expect("JSON");
            tokio::task::yield_now().await;
        }
        assert_eq!(ended["damaged"], serde_json::json!([]), "{ended}");
        assert_eq!(ended["missing"], 0, "{ended}");
        assert_eq!(ended["unreadable"], 0, "{ended}");
        eventually("no download is left", || {
            let names = files(&gateway.cache_dir());
            let mut partial = names.keys().filter(|name| name.starts_with("partial/"));
            partial.all(|name| name.starts_with("partial/blobs-"))
        })
        .await;
    }
}

/// One client at work, until its gateway is gone.
struct Hand {
    proxy: SocketAddr,
    admin: SocketAddr,
    client: Client,
    number: u64,
    world: Arc<World>,
}

// === impl Hand ===

impl Hand {
    fn of(gateway: &Gateway, number: u64, world: Arc<World>) -> Self {
        Self {
            proxy: gateway.proxy,
            admin: gateway.admin,
            client: gateway.client(),
            number,
            world,
        }
    }

    /// How often it was given something whole.
    async fn work(self, mut dice: Dice) -> u64 {
        let mut given = 0;
        while let Some(whole) = self.act(&mut dice).await {
            given += u64::from(whole);
        }
        given
    }

    /// Does one thing; `None` when there is nobody to do it with any more.
    async fn act(&self, dice: &mut Dice) -> Option<bool> {
        let world = &self.world;
        match dice.below(20) {
            0..8 => self.blob(dice.one_of(&world.blobs)).await,
            8..12 => {
                let number = dice.below(world.images.len() as u64) as usize;
                self.image(number).await
            }
            12..14 => self.part(dice.one_of(&world.blobs), dice).await,
            14..16 => self.push(dice.one_of(&world.pushed)).await,
            16..18 => {
                let tag = dice.below(world.images.len() as u64);
                let pin = format!("/api/v1/image/pin?name=registry.test/app:v{tag}");
                // Pinned for a moment only: what is pinned for good leaves no room for the rest.
                let pinned = format!("{{\"pinned\":{}}}", dice.below(2) == 0);
                self.steer(Method::PUT, &pin, "application/json", pinned.into())
                    .await?;
                let unpinned = "{\"pinned\":false}".into();
                self.steer(Method::PUT, &pin, "application/json", unpinned)
                    .await?;
                Some(false)
            }
            _ if self.number == 0 => self.carry(dice.below(2) == 0).await,
            _ => self.blob(dice.one_of(&world.blobs)).await,
        }
    }

    async fn blob(&self, blob: &Blob) -> Option<bool> {
        let url = self.world.repo.blob_url(&blob.digest);
        let (status, bytes) = self.ask(Method::GET, &url, &[], Bytes::new()).await?;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&bytes));
        assert!(bytes == blob.bytes, "other bytes than {}", blob.digest);
        self.had().blobs.insert(blob.digest.clone());
        Some(true)
    }

    async fn part(&self, blob: &Blob, dice: &mut Dice) -> Option<bool> {
        let url = self.world.repo.blob_url(&blob.digest);
        let from = dice.below(blob.len() as u64) as usize;
        let range = format!("bytes={from}-");
        let with = [("range", range.as_str())];
        let (status, bytes) = self.ask(Method::GET, &url, &with, Bytes::new()).await?;
        assert_eq!(status, 206);
        assert!(bytes == blob.bytes[from..], "other bytes from {from} on");
        Some(true)
    }

    async fn image(&self, number: usize) -> Option<bool> {
        let image = &self.world.images[number];
        let with = [("accept", image::OCI_MANIFEST)];
        let url = image.by_tag();
        let (status, bytes) = self.ask(Method::GET, &url, &with, Bytes::new()).await?;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&bytes));
        assert_eq!(content::sha256(&bytes), image.manifest.digest);
        for blob in image.blobs() {
            self.blob(blob).await?;
        }
        let url = image.by_digest();
        let (status, _) = self.ask(Method::GET, &url, &with, Bytes::new()).await?;
        assert_eq!(status, 200);
        // What a tag stands for is written with whatever is written next.
        let pin = format!("/api/v1/image/pin?name=registry.test/app:v{number}");
        let unpinned = "{\"pinned\":false}".into();
        self.steer(Method::PUT, &pin, "application/json", unpinned)
            .await?;
        self.had().images.insert(number);
        Some(true)
    }

    async fn push(&self, blob: &Blob) -> Option<bool> {
        let url = format!("blobs/uploads/?digest={}", blob.digest);
        let url = self.world.repo.url(&url);
        let (status, bytes) = self
            .ask(Method::POST, &url, &[], blob.bytes.clone())
            .await?;
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&bytes));
        self.had().blobs.insert(blob.digest.clone());
        Some(true)
    }

    /// Carries an image in, and out again. Only one client does, so that it knows which it was.
    async fn carry(&self, stays: bool) -> Option<bool> {
        let import = "/api/v1/import?name=registry.test/app:carried";
        let tar = self.world.carried_tar.clone();
        self.had().carried = false;
        let (status, bytes) = self
            .steer(Method::POST, import, "application/x-tar", tar)
            .await?;
        // Where everything else is being read there may be no room.
        let taken = status == 200;
        assert!(
            taken || status == 507 || status == 400,
            "{status}: {}",
            String::from_utf8_lossy(&bytes)
        );
        self.had().carried = taken;
        if !stays {
            self.had().carried = false;
            let gone = "/api/v1/image?name=registry.test/app:carried";
            self.steer(Method::DELETE, gone, "", Bytes::new()).await?;
        }
        Some(taken)
    }

    fn had(&self) -> std::sync::MutexGuard<'_, Had> {
        self.world.had.lock().expect("no panic there")
    }

    /// A request through the proxy, to its end.
    async fn ask(
        &self,
        method: Method,
        url: &str,
        with: &[(&str, &str)],
        body: Bytes,
    ) -> Option<(u16, Bytes)> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let path = url.strip_prefix("https://registry.test")?;
        let mut socket = TcpStream::connect(self.proxy).await.ok()?;
        let connect = "CONNECT registry.test:443 HTTP/1.1\r\nHost: registry.test:443\r\n\r\n";
        socket.write_all(connect.as_bytes()).await.ok()?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.ok()?);
        }
        let stream = self.client.tls_over(socket, "registry.test").await.ok()?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "registry.test");
        for (name, value) in with {
            request = request.header(*name, *value);
        }
        let (answer, cut) = exchange(TokioIo::new(stream), request, body).await;
        self.world.cut.fetch_add(usize::from(cut), Ordering::SeqCst);
        answer
    }

    /// A request to the admin listener.
    async fn steer(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Option<(u16, Bytes)> {
        let socket = TcpStream::connect(self.admin).await.ok()?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.admin.to_string());
        if !content_type.is_empty() {
            request = request.header("content-type", content_type);
        }
        // The admin listener is cut off with the process, and while that ends it says so.
        let answer = exchange(TokioIo::new(socket), request, body).await.0;
        answer.filter(|(status, _)| *status != 503)
    }
}

/// One request and its whole answer; or whether the answer was cut.
async fn exchange<S>(
    stream: S,
    request: http::request::Builder,
    body: Bytes,
) -> (Option<(u16, Bytes)>, bool)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let Ok((mut sender, connection)) = http1::handshake(stream).await else {
        return (None, false);
    };
    let connection = tokio::spawn(connection);
    let request = request.body(Full::new(body)).expect("a request");
    let Ok(response) = sender.send_request(request).await else {
        return (None, false);
    };
    let status = response.status().as_u16();
    let body = response.into_body().collect().await;
    connection.abort();
    match body {
        Ok(body) => (Some((status, body.to_bytes())), false),
        Err(_) => (None, true),
    }
}

/// Every file under a digest is that digest's.
fn assert_all_right(cache: &Path) {
    for name in files(cache).keys() {
        if name.starts_with("blobs/") || name.starts_with("manifests/") {
            let bytes = std::fs::read(cache.join(name)).expect("a file");
            let hex = name.rsplit('/').next().unwrap_or_default();
            assert_eq!(content::sha256(&bytes), format!("sha256:{hex}"), "{name}");
        }
    }
}

/// A die that falls the same way for the same seed.
struct Dice(u64);

// === impl Dice ===

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        // SplitMix64: any seed will do, zero and neighbours included.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % n
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}
