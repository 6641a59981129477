//! A disk that fails beneath a running gateway: no pull fails for it, nothing wrong is served, what is
//! counted stays right, and everything is as before once the disk works again.
//!
//! The faults are made by `tests/support/shim.c`, preloaded into the real binary.

use std::time::Duration;

use hyper::Method;

use crate::access::private;
use crate::support::gateway::LAST_LINES;
use crate::support::shim::{Call, Errno, Of, Shim, files};
use crate::support::{Gateway, Image, Repo, Upstream, within};

const KIB: usize = 1024;

/// A gateway with a shim beneath it, and images without end.
struct Bench {
    up: Upstream,
    repo: Repo,
    shim: Shim,
    gateway: Gateway,
    seed: u64,
    weather: Weather,
}

/// What goes wrong at this time, for whoever reads why a test failed.
struct Weather(String);

// === impl Bench ===

impl Bench {
    async fn set_up(seed: u64) -> Self {
        let up = Upstream::start().await;
        let repo = up.repo("registry.test", "app");
        let shim = Shim::compile();
        let gateway = shim.beneath(Gateway::before(&up)).start().await;
        Self {
            up,
            repo,
            shim,
            gateway,
            seed,
            weather: Weather("nothing goes wrong".to_owned()),
        }
    }

    /// One that nobody has asked for yet.
    fn image(&mut self) -> Image {
        self.seed += 1;
        let tag = format!("v{}", self.seed);
        let sizes = [10, 40 * KIB, 600 * KIB];
        self.repo.image(&tag, self.seed, &sizes)
    }

    async fn pull(&self, image: &Image) {
        within(60, self.gateway.client().pull(image)).await;
    }

    /// What is pulled now is in the cache, and all is counted.
    async fn works_again(&mut self, after: &str) {
        let image = self.image();
        self.pull(&image).await;
        for blob in image.blobs() {
            let hex = blob.digest.trim_start_matches("sha256:");
            let is_it = |name: &str| name.starts_with("blobs/") && name.ends_with(hex);
            let here = || {
                files(&self.gateway.cache_dir())
                    .keys()
                    .any(|name| is_it(name.as_str()))
            };
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            let kept = tokio::time::timeout(Duration::from_secs(30), async {
                while !here() {
                    ticks.tick().await;
                }
            });
            let kept = kept.await.is_ok();
            assert!(kept, "{hex} is not kept again {}", self.told(after));
        }
        self.pull(&image).await;
        for blob in image.blobs() {
            let asked = self.up.count(Method::GET, &blob.digest);
            assert_eq!(asked, 1, "{}", self.told(after));
        }
        self.gateway.counts_what_is_there_after(after).await;
    }

    fn told(&self, after: &str) -> String {
        let log = self.gateway.log.last(LAST_LINES);
        format!("after {after}; the last it said:\n{log}")
    }
}

impl Drop for Weather {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- at that time: {}", self.0);
        }
    }
}

/// Every fault of the table, one after the other, beneath one process. `PIERHEAD_DISK_SEED` lets other
/// calls fail.
async fn through(table: &[(Call, Errno)], of: Of, seed: u64) {
    let mut bench = Bench::set_up(seed).await;
    let warm = bench.image();
    bench.pull(&warm).await;
    let seed = match std::env::var("PIERHEAD_DISK_SEED") {
        Ok(other) => other.parse().expect("a number"),
        Err(_) => seed,
    };
    for (call, errno) in table {
        for every in [1, 3] {
            let what = format!("{call:?} of {of:?}: {errno:?}, one of {every} by seed {seed}");
            bench.weather.0.clone_from(&what);
            let image = bench.image();
            bench.shim.fail(*call, *errno, of, every, seed);
            bench.pull(&image).await;
            bench.pull(&warm).await;
            bench.pull(&image).await;
            bench.shim.heal();
            bench.pull(&image).await;
            bench.works_again(&what).await;
        }
    }
    bench.gateway = bench.gateway.restart().await;
    bench.pull(&warm).await;
    bench.gateway.counts_what_is_there().await;
}

const WRITES: [(Call, Errno); 9] = [
    (Call::Write, Errno::Enospc),
    (Call::Write, Errno::Eio),
    (Call::Write, Errno::Edquot),
    (Call::Sync, Errno::Eio),
    (Call::Sync, Errno::Enospc),
    (Call::Open, Errno::Emfile),
    (Call::Open, Errno::Enfile),
    (Call::Open, Errno::Erofs),
    (Call::Resize, Errno::Enospc),
];

#[tokio::test]
async fn no_fault_of_the_objects_files_fails_a_pull() {
    through(&WRITES, Of::Objects, 1000).await;
}

#[tokio::test]
async fn no_fault_of_the_index_fails_a_pull() {
    through(&WRITES, Of::Index, 2000).await;
}

#[tokio::test]
async fn no_fault_of_all_files_at_once_fails_a_pull() {
    through(&WRITES, Of::All, 3000).await;
}

#[tokio::test]
async fn what_cannot_be_put_in_place_is_no_failed_pull() {
    let renames = [(Call::Rename, Errno::Eio), (Call::Rename, Errno::Erofs)];
    through(&renames, Of::All, 4000).await;
}

#[tokio::test]
async fn an_index_that_cannot_be_read_costs_questions_and_no_pull() {
    through(&[(Call::Read, Errno::Eio)], Of::Index, 5000).await;
}

/// In the process that heard it, and in the next one.
#[tokio::test]
async fn a_refusal_that_the_index_could_not_take_holds() {
    let (up, registry, image) = private().await;
    let shim = Shim::compile();
    let setup = Gateway::before(&up).text("cache", "tag_ttl", "0s");
    let mut gateway = shim.beneath(setup).start().await;
    let of = |gateway: &Gateway, name: &str| {
        let client = gateway.client();
        client.basic(name, &format!("{}-secret", &name[..1]))
    };
    of(&gateway, "alice").pull(&image).await;
    of(&gateway, "carol").pull(&image).await;
    shim.fail(Call::Write, Errno::Eio, Of::Index, 1, 0);
    let _ = registry.private_repo("team/app", &["carol"]);
    let unwritten = "the cache index could not be written";
    let before = gateway.log.all(unwritten).len();
    let alice = of(&gateway, "alice");
    let reply = alice.ask_manifest(&image.repo, &image.tag).await;
    assert_eq!(reply.status, 403);
    gateway.log.nth(unwritten, before + 1).await;
    for heals in [true, false] {
        up.stop().await;
        for url in [
            image.by_tag(),
            image.by_digest(),
            image.repo.blob_url(&image.layers[0].digest),
        ] {
            let reply = of(&gateway, "alice").get(&url).send().await;
            assert!(reply.status >= 400, "{url}: {}", reply.status);
        }
        if heals {
            shim.heal();
            up.start_again().await;
            // What is told the index now is written, and what it could not take comes first.
            let fresh = image.repo.image("v2", 77, &[10]);
            of(&gateway, "carol").pull(&fresh).await;
            gateway.terminate().await;
            gateway = gateway.restart().await;
        }
    }
    of(&gateway, "carol").pull(&image).await;
}

#[tokio::test]
async fn reads_and_writes_that_do_half_of_it_change_nothing() {
    let mut bench = Bench::set_up(6000).await;
    bench.shim.halve(Of::All);
    for _ in 0..3 {
        bench.works_again("half of everything").await;
    }
}

#[tokio::test]
async fn a_slow_disk_holds_up_what_is_kept_and_no_other_client() {
    let mut bench = Bench::set_up(7000).await;
    let warm = bench.image();
    bench.pull(&warm).await;
    bench.shim.slow(Of::Objects, 50_000);
    let cold = bench.image();
    let client = bench.gateway.client();
    let pulling = tokio::spawn({
        let cold = cold.clone();
        async move { client.pull(&cold).await }
    });
    for _ in 0..5 {
        bench.pull(&warm).await;
    }
    within(60, pulling).await.unwrap();
    bench.shim.heal();
    bench.works_again("a slow disk").await;
}

#[tokio::test]
async fn a_cached_manifest_that_cannot_be_read_is_fetched_anew() {
    let mut bench = Bench::set_up(8000).await;
    let image = bench.image();
    bench.pull(&image).await;
    bench.gateway = bench.gateway.restart().await;
    bench.shim.fail(Call::Read, Errno::Eio, Of::Objects, 1, 0);
    bench
        .gateway
        .client()
        .manifest(&image.repo, &image.manifest.digest)
        .await;
    bench.shim.heal();
    bench.works_again("a manifest that could not be read").await;
}

#[tokio::test]
async fn a_cached_blob_that_cannot_be_read_ends_short_and_is_fetched_anew() {
    let mut bench = Bench::set_up(8500).await;
    let blob = bench.repo.blob(8501, 3_000_000);
    let url = bench.repo.blob_url(&blob.digest);
    let get = || async { bench.gateway.client().get(&url).send().await };
    get().await.verified(&blob.digest).await;
    // Out of memory, so that it has to be read from the disk.
    let hex = blob.digest.trim_start_matches("sha256:");
    let files = bench.gateway.cache_files().into_iter();
    for (path, _) in files.filter(|(path, _)| path.ends_with(hex)) {
        let of = format!("of={}", path.display());
        let dropped = std::process::Command::new("dd")
            .args([
                of.as_str(),
                "oflag=nocache",
                "conv=notrunc,fdatasync",
                "count=0",
            ])
            .output();
        assert!(dropped.expect("dd").status.success());
    }
    bench.shim.fail(Call::Read, Errno::Eio, Of::Objects, 1, 0);
    let rest = get().await.rest().await;
    assert!(!rest.whole || rest.bytes == blob.bytes);
    let cut = !rest.whole;
    // Whoever asks again is not given the same file, though the disk still fails.
    get().await.verified(&blob.digest).await;
    bench.shim.heal();
    get().await.verified(&blob.digest).await;
    let asked = bench.up.count(Method::GET, &blob.digest);
    assert_eq!(asked > 1, cut, "asked for {asked} times");
    bench.works_again("a blob that could not be read").await;
}

/// The object is there and cannot be opened, so it is fetched anew; then it is in its place again, and
/// nothing can be promised of that.
#[tokio::test]
async fn what_was_replaced_and_could_not_stay_is_not_counted() {
    let mut bench = Bench::set_up(8700).await;
    let image = bench.image();
    bench.pull(&image).await;
    bench.works_again("nothing").await;
    let blob = &image.layers[0];
    let url = image.repo.blob_url(&blob.digest);
    let calls = [
        "the object is opened",
        "it may have landed since",
        "what counts of a download",
        "the download",
        "is synced",
        "its folder is opened",
        "the mark is made",
        "the folder is synced",
    ];
    let these = &[1, 2, calls.len() as u32];
    let of = Of::Objects;
    bench
        .shim
        .fail_these(&[Call::Open, Call::Sync], Errno::Eio, of, these);
    let get = || async { bench.gateway.client().get(&url).send().await };
    get().await.verified(&blob.digest).await;
    let log = &bench.gateway.log;
    log.line("a verified blob could not be kept").await;
    bench.shim.heal();
    bench.gateway.counts_what_is_there().await;
    get().await.verified(&blob.digest).await;
    let asked = bench.up.count(Method::GET, &blob.digest);
    assert_eq!(asked, 3, "it was gone");
    bench.works_again("an object that could not stay").await;
}

#[tokio::test]
async fn without_a_descriptor_left_clients_wait_and_nothing_else_happens() {
    let mut bench = Bench::set_up(9000).await;
    let image = bench.image();
    bench.pull(&image).await;
    let pid = bench.gateway.pid();
    let limit = |most: &str| {
        let set = std::process::Command::new("prlimit")
            .args(["--pid", &pid.to_string(), &format!("--nofile={most}:")])
            .status();
        assert!(set.expect("prlimit").success());
    };
    let metrics = bench.gateway.metrics().await;
    let usual = metrics
        .lines()
        .find_map(|line| line.strip_prefix("process_max_fds "));
    let usual = usual.expect("the metric").to_owned();
    // Fewer than are open: every new one fails, sockets as well as files.
    limit("8");
    let client = bench.gateway.client();
    let waiting = tokio::spawn(async move { client.pull(&image).await });
    bench.gateway.log.line("could not be accepted").await;
    limit(&usual);
    within(60, waiting).await.unwrap();
    bench.works_again("descriptors had run out").await;
}
