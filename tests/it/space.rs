//! The cache is bounded, and a cache without room is no failed pull.

use std::path::Path;

use hyper::Method;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::desk::Desk;
use crate::support::{
    Blob, Client, Fault, Gate, Gateway, On, Repo, Upstream, client, eventually, within,
};

const MIB: usize = 1024 * 1024;

async fn upstream() -> (Upstream, Repo) {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    (up, repo)
}

async fn fetch(client: &Client, repo: &Repo, blob: &Blob) {
    let reply = client.get(&repo.blob_url(&blob.digest)).send().await;
    reply.verified(&blob.digest).await;
}

#[tokio::test]
async fn the_least_recently_used_goes_first() {
    let (up, repo) = upstream().await;
    let blobs: Vec<_> = (1..=8).map(|seed| repo.blob(seed, MIB)).collect();
    let gateway = Gateway::before(&up)
        .text("cache", "max_size", "4MiB")
        .start()
        .await;
    let client = gateway.client();
    for blob in &blobs {
        fetch(&client, &repo, blob).await;
        let held = gateway.cached_bytes();
        assert!(held <= 4 * MIB as u64, "{held} bytes are in the cache");
    }
    let last = blobs.last().unwrap();
    fetch(&client, &repo, last).await;
    assert_eq!(
        up.count(Method::GET, &last.digest),
        1,
        "the newest one was thrown out"
    );
    fetch(&client, &repo, &blobs[0]).await;
    assert_eq!(
        up.count(Method::GET, &blobs[0].digest),
        2,
        "the oldest one was kept"
    );
}

#[tokio::test]
async fn what_is_used_again_stays() {
    let (up, repo) = upstream().await;
    let blobs: Vec<_> = (11..=18).map(|seed| repo.blob(seed, MIB)).collect();
    let gateway = Gateway::before(&up)
        .text("cache", "max_size", "5MiB")
        .start()
        .await;
    let client = gateway.client();
    let (favourite, others) = blobs.split_first().unwrap();
    fetch(&client, &repo, favourite).await;
    for blob in others {
        fetch(&client, &repo, blob).await;
        fetch(&client, &repo, favourite).await;
    }
    assert_eq!(up.count(Method::GET, &favourite.digest), 1);
}

#[tokio::test]
async fn a_blob_larger_than_the_cache_passes_through() {
    let (up, repo) = upstream().await;
    let small = repo.blob(21, MIB);
    let large = repo.blob(22, 6 * MIB);
    let gateway = Gateway::before(&up)
        .text("cache", "max_size", "3MiB")
        .start()
        .await;
    let client = gateway.client();
    fetch(&client, &repo, &small).await;
    for _ in 0..2 {
        fetch(&client, &repo, &large).await;
        let held = gateway.cached_bytes();
        assert!(held <= 3 * MIB as u64, "{held} bytes are in the cache");
    }
    eventually("nothing of it is left", || {
        gateway.copies_of(&large.bytes) == 0
    })
    .await;
}

#[tokio::test]
async fn a_corrupt_blob_that_passes_through_ends_short_too() {
    let (up, repo) = upstream().await;
    let large = repo.blob(23, 6 * MIB);
    up.fault(
        On::get(&large.digest).always(),
        Fault::Corrupt(5 * MIB as u64),
    );
    let gateway = Gateway::before(&up)
        .text("cache", "max_size", "3MiB")
        .start()
        .await;
    let reply = gateway
        .client()
        .get(&repo.blob_url(&large.digest))
        .send()
        .await;
    let rest = within(60, reply.rest()).await;
    assert!(!rest.whole, "the client was told that this is the blob");
}

#[tokio::test]
async fn a_part_that_nobody_asked_for_does_not_pass_through_as_the_first() {
    let (up, repo) = upstream().await;
    let large = repo.blob(24, 6 * MIB);
    let gateway = Gateway::before(&up)
        .text("cache", "max_size", "3MiB")
        .start()
        .await;
    let client = gateway.client();
    for (range, end) in [(None, large.len()), (Some("bytes=0-999"), 1000)] {
        // The first request is the download's, which finds no room.
        up.fault(On::get(&large.digest).after(1), Fault::OtherRange);
        let mut ask = client.get(&repo.blob_url(&large.digest));
        if let Some(range) = range {
            ask = ask.header("range", range);
        }
        let got = within(60, ask.send().await.bytes()).await;
        assert!(got == large.bytes[..end], "{range:?}: {} bytes", got.len());
    }
}

#[tokio::test]
async fn what_is_being_read_is_not_thrown_out_under_its_reader() {
    let (up, repo) = upstream().await;
    let read = repo.blob(31, 12 * MIB);
    let gateway = Gateway::before(&up)
        .text("cache", "max_size", "16MiB")
        .start()
        .await;
    let client = gateway.client();
    fetch(&client, &repo, &read).await;
    let slow = gateway.client().window(16 * 1024);
    let mut slow = slow.get(&repo.blob_url(&read.digest)).send().await;
    slow.read(100).await;
    for seed in 32..42 {
        fetch(&client, &repo, &repo.blob(seed, MIB)).await;
    }
    assert_eq!(slow.bytes().await, read.bytes[100..]);
}

#[tokio::test]
async fn what_is_being_downloaded_counts_and_is_not_thrown_out() {
    let (up, repo) = upstream().await;
    let long = repo.blob(51, 3 * MIB);
    let gate = Gate::new();
    up.fault(
        On::get(&long.digest),
        Fault::StallAt(2 * MIB as u64, gate.clone()),
    );
    let gateway = Gateway::before(&up)
        .text("cache", "max_size", "4MiB")
        .start()
        .await;
    let client = gateway.client();
    let waiting = client.get(&repo.blob_url(&long.digest)).send().await;
    gate.arrived(1).await;
    for seed in 52..58 {
        fetch(&client, &repo, &repo.blob(seed, MIB)).await;
        let held = gateway.cached_bytes();
        assert!(held <= 4 * MIB as u64, "{held} bytes are in the cache");
    }
    gate.open();
    waiting.verified(&long.digest).await;
    assert_eq!(up.count(Method::GET, &long.digest), 1);
}

#[tokio::test]
async fn without_the_free_space_that_is_asked_for_everything_passes_through() {
    let (up, repo) = upstream().await;
    let image = repo.image("latest", 61, &[3 * MIB, 10]);
    let gateway = Gateway::before(&up)
        .text("cache", "min_free", "900TiB")
        .start()
        .await;
    for _ in 0..2 {
        gateway.client().pull(&image).await;
    }
    let layer = &image.layers[0].bytes;
    eventually("nothing of it is kept", || gateway.copies_of(layer) == 0).await;
}

#[tokio::test]
async fn a_full_disk_is_no_failed_pull() {
    let disk = Tmpfs::mount(8);
    let (up, repo) = upstream().await;
    let small = repo.image("small", 71, &[MIB]);
    let large = repo.image("large", 72, &[12 * MIB, 100]);
    let setup = Gateway::before(&up)
        .cache_in(disk.path())
        .text("cache", "max_size", "1GiB");
    let gateway = setup.start().await;
    gateway.client().pull(&small).await;
    let pulls = (0..3).map(|_| {
        let (client, large) = (gateway.client(), large.clone());
        tokio::spawn(async move { client.pull(&large).await })
    });
    for pull in pulls.collect::<Vec<_>>() {
        within(120, pull).await.unwrap();
    }
    gateway.client().pull(&small).await;
}

#[tokio::test]
async fn a_disk_that_fills_under_a_download_changes_nothing_for_its_clients() {
    let disk = Tmpfs::mount(8);
    let (up, repo) = upstream().await;
    let blob = repo.blob(81, 5 * MIB);
    let gate = Gate::new();
    up.fault(
        On::get(&blob.digest),
        Fault::StallAt(2 * MIB as u64, gate.clone()),
    );
    let gateway = Gateway::before(&up).cache_in(disk.path()).start().await;
    let url = repo.blob_url(&blob.digest);
    let mut first = gateway.client().get(&url).send().await;
    gate.arrived(1).await;
    first.read(MIB).await;
    let second = gateway.client().get(&url).send().await;
    disk.fill();
    gate.open();
    assert_eq!(within(60, first.bytes()).await, blob.bytes[MIB..]);
    within(60, second.verified(&blob.digest)).await;
}

#[tokio::test]
async fn a_disk_that_fills_under_a_download_changes_nothing_for_parts_of_it() {
    let disk = Tmpfs::mount(8);
    let (up, repo) = upstream().await;
    let blob = repo.blob(82, 5 * MIB);
    let gate = Gate::new();
    up.fault(
        On::get(&blob.digest),
        Fault::StallAt(2 * MIB as u64, gate.clone()),
    );
    let gateway = Gateway::before(&up).cache_in(disk.path()).start().await;
    let url = repo.blob_url(&blob.digest);
    let mut first = gateway.client().get(&url).send().await;
    gate.arrived(1).await;
    first.read(MIB).await;
    // Of what is there, of what is not, and of both.
    let parts = [
        (0, MIB),
        (MIB, 3 * MIB),
        (MIB + 7, 5 * MIB),
        (4 * MIB, 4 * MIB + 10),
        (5 * MIB - 1, 5 * MIB),
    ];
    let mut replies = Vec::new();
    for (from, to) in parts {
        let client = gateway.client();
        let range = format!("bytes={from}-{}", to - 1);
        let reply = client.get(&url).header("range", &range).send().await;
        assert_eq!(reply.status, 206, "{range}");
        replies.push(reply);
    }
    disk.fill();
    gate.open();
    for ((from, to), reply) in parts.into_iter().zip(replies) {
        let got = within(60, reply.bytes()).await;
        assert!(
            got == blob.bytes[from..to],
            "{from}..{to}: {} bytes",
            got.len()
        );
    }
    assert_eq!(within(60, first.bytes()).await, blob.bytes[MIB..]);
}

#[tokio::test]
async fn a_full_disk_is_no_reason_not_to_start() {
    let disk = Tmpfs::mount(8);
    let (up, repo) = upstream().await;
    let (held, cold) = (repo.image("a", 73, &[MIB]), repo.image("b", 74, &[MIB]));
    let mut gateway = Gateway::before(&up).cache_in(disk.path()).start().await;
    gateway.client().pull(&held).await;
    gateway.terminate().await;
    disk.fill();
    let gateway = gateway.restart().await;
    let gets = up.blob_gets();
    gateway.client().pull(&held).await;
    assert_eq!(up.blob_gets(), gets, "what was here is gone");
    gateway.client().pull(&cold).await;

    // The index has no file: that is told, with what to do about it.
    let gateway = gateway
        .restart_as(|setup| {
            std::fs::remove_file(disk.path().join("index.redb")).unwrap();
            disk.fill();
            setup
        })
        .await;
    gateway.client().pull(&held).await;
    let listed = client::direct(gateway.admin, Method::GET, "/api/v1/images", &[]).await;
    assert_eq!(listed.status, 500);
    let told = listed.text().await;
    assert!(told.contains("make room on its file system"), "{told}");

    // Commands find the gateway once there is room for saying where it is.
    disk.free();
    eventually("its token is left", || {
        let noted = std::fs::read_to_string(disk.path().join("admin.token"));
        noted.is_ok_and(|noted| noted.starts_with(&gateway.admin.to_string()))
    })
    .await;
}

#[tokio::test]
async fn a_limit_of_a_files_size_is_no_failed_pull() {
    let (up, repo) = upstream().await;
    let (large, small) = (repo.blob(83, 12 * MIB), repo.blob(84, MIB));
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    // As with `ulimit -f`.
    let limit = Rlimit {
        current: Some(4 * MIB as u64),
        maximum: Some(4 * MIB as u64),
    };
    let pid = Pid::from_raw(gateway.pid().cast_signed()).unwrap();
    prlimit(Some(pid), Resource::Fsize, limit).unwrap();
    for _ in 0..2 {
        within(60, fetch(&client, &repo, &large)).await;
        within(60, fetch(&client, &repo, &small)).await;
    }
    assert_eq!(up.count(Method::GET, &small.digest), 1);
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_stops_the_start_by_its_name_and_with_the_mend() {
    let disk = Tmpfs::mount(1);
    disk.freeze();
    let desk = Desk::ashore(&Gateway::alone().cache_in(disk.path()));
    let wrong = desk.run(&["serve"]).await.fails(1);
    let blobs = disk.path().join("blobs").display().to_string();
    for word in ["Read-only", "mount it for writing", &blobs] {
        assert!(wrong.contains(word), "no {word} in {wrong}");
    }

    let desk = Desk::ashore(&Gateway::alone());
    let token = desk.file("cache/admin.token");
    std::fs::create_dir_all(&token).unwrap();
    let wrong = desk.run(&["serve"]).await.fails(1);
    for word in ["remove it", &token.display().to_string()] {
        assert!(wrong.contains(word), "no {word} in {wrong}");
    }
}

/// A file system of a few MiB, unmounted when dropped.
struct Tmpfs(tempfile::TempDir);

// === impl Tmpfs ===

impl Tmpfs {
    /// Only root may; scripts/test runs the tests as root.
    fn mount(mebibytes: usize) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let size = format!("size={mebibytes}m");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "pierhead-it"])
            .arg(dir.path())
            .output()
            .expect("mount(8)");
        let said = String::from_utf8_lossy(&mounted.stderr);
        assert!(mounted.status.success(), "{said}");
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.path().join("ballast")).expect("a file");
        let block = vec![0; 16 * 1024];
        while file.write_all(&block).is_ok() {}
        // Less than a block is left, and may be enough for a small file.
        while file.write_all(&[0]).is_ok() {}
    }

    /// Lets nobody write any more.
    fn freeze(&self) {
        let mounted = std::process::Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(self.path())
            .status();
        assert!(mounted.expect("mount(8)").success());
    }

    /// Gives back what [`Tmpfs::fill`] took.
    fn free(&self) {
        std::fs::remove_file(self.0.path().join("ballast")).expect("it was filled");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status();
    }
}
