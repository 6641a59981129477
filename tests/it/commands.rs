//! `pull`, `cache`, `export` and `import`: at a running gateway, and in the directory of one that does not
//! run. The two ways are held against each other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use hyper::Method;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    Blob, Gateway, Image, Manifest, Repo, Setup, Upstream, client, gateway, image, within,
};

const LAYER: usize = 300_000;

/// A place to run commands in, by a configuration of its own.
struct Desk {
    home: Arc<TempDir>,
    config: String,
    env: Vec<(&'static str, String)>,
}

/// What a command left.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

// === impl Desk ===

impl Desk {
    /// One whose gateway does not run yet.
    fn ashore(setup: &Setup) -> Self {
        let home = tempfile::Builder::new().prefix("pierhead-it-").tempdir();
        let home = Arc::new(home.unwrap());
        let config = setup.write(&home);
        Self::of(home, &config)
    }

    fn at(gateway: &Gateway) -> Self {
        Self::of(gateway.home(), &gateway.config_file())
    }

    fn of(home: Arc<TempDir>, config: &Path) -> Self {
        let config = config.to_str().unwrap().to_owned();
        let env = Vec::new();
        Self { home, config, env }
    }

    fn env(mut self, name: &'static str, value: &str) -> Self {
        self.env.push((name, value.to_owned()));
        self
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs `pierhead` with these words, and `--config` behind them.
    async fn run(&self, args: &[&str]) -> Ran {
        let with_config = [args, &["--config", &self.config]].concat();
        self.run_bare(&with_config).await
    }

    async fn run_bare(&self, args: &[&str]) -> Ran {
        let mut command = tokio::process::Command::from(gateway::command());
        command
            .args(args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = within(60, command.output()).await.unwrap();
        output.into()
    }

    /// The JSON that a command prints, which must succeed.
    async fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(&[args, &["--json"]].concat()).await;
        serde_json::from_str(&ran.ok()).unwrap()
    }
}

// === impl Ran ===

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Ran {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self.out
    }

    /// The complaint, which must come with this exit code.
    #[track_caller]
    fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self.err
    }
}

fn name(image: &Image) -> String {
    format!("{}/{}:{}", image.repo.host, image.repo.name, image.tag)
}

/// An index of two platforms under a tag.
fn two_platforms(repo: &Repo, seed: u64) -> (Image, Image, Manifest) {
    let (amd64, arm64) = (
        repo.image("amd64", seed, &[LAYER, 10]),
        repo.image("arm64", seed + 1, &[LAYER, 11]),
    );
    let index = Manifest::index(image::OCI_INDEX, &[&amd64.manifest, &arm64.manifest]);
    repo.tag("both", &[&index]);
    (amd64, arm64, index)
}

#[tokio::test]
async fn pull_fills_a_running_gateway_for_its_clients() {
    let up = Upstream::start().await;
    let image = up
        .repo("registry.test", "team/app")
        .image("v1", 11, &[LAYER, 10]);
    let gateway = Gateway::before(&up).start().await;
    let desk = Desk::at(&gateway);
    let said = desk.run(&["pull", &name(&image)]).await;
    assert!(
        said.err.contains("pulling registry.test/team/app:v1"),
        "{}",
        said.err
    );
    let said = said.ok();
    for word in [
        "registry.test/team/app:v1",
        &image.manifest.digest,
        "3 blobs",
    ] {
        assert!(said.contains(word), "no {word} in {said}");
    }
    let gets = up.blob_gets();
    gateway.client().pull(&image).await;
    assert_eq!(up.blob_gets(), gets, "upstream was asked again");
    let again = desk.run(&["pull", &name(&image)]).await.ok();
    assert!(again.contains("all of it was here"), "{again}");
}

#[tokio::test]
async fn pull_without_a_gateway_fills_the_directory_for_the_one_that_starts_later() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 21, &[LAYER]);
    let setup = Gateway::before(&up);
    let desk = Desk::ashore(&setup);
    desk.run(&["pull", &name(&image)]).await.ok();
    assert!(!desk.file("ca").exists(), "the CA is none of its business");
    let gets = up.blob_gets();
    let gateway = setup.start_in(desk.home.clone()).await;
    gateway.client().pull(&image).await;
    assert_eq!(up.blob_gets(), gets, "upstream was asked again");
}

#[tokio::test]
async fn pull_takes_a_list_and_one_platform_and_one_that_fails_stops_no_other() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let (amd64, arm64, index) = two_platforms(&repo, 31);
    let gateway = Gateway::before(&up).start().await;
    let desk = Desk::at(&gateway);
    let list = "registry.test/app:gone # was there\n\nregistry.test/app:both\n";
    std::fs::write(desk.file("list"), list).unwrap();
    let ran = desk
        .run(&[
            "pull",
            "--list",
            "list",
            "--platform",
            "linux/arm64",
            "--json",
        ])
        .await;
    let json: Value = serde_json::from_str(&ran.out).unwrap();
    let wrong = ran.fails(1);
    assert!(wrong.contains("1 of 2 images"), "{wrong}");
    assert!(wrong.contains("registry.test/app:gone: "), "{wrong}");
    let pulls = json["pulls"].as_array().unwrap();
    let done = pulls.iter().find(|pull| pull["state"] == "done").unwrap();
    assert_eq!(done["digest"], index.digest.as_str());
    assert!(pulls.iter().any(|pull| pull["state"] == "failed"), "{json}");
    assert_eq!(up.count(Method::GET, &arm64.layers[0].digest), 1);
    assert_eq!(up.count(Method::GET, &amd64.layers[0].digest), 0);
}

#[tokio::test]
async fn what_means_nothing_is_a_usage_error_and_asks_nobody() {
    let desk = Desk::ashore(&Gateway::alone());
    for (args, word) in [
        (&["pull"][..], "name an image"),
        (&["pull", "https://ghcr.io/org/app"], "is an address"),
        (&["pull", "alpine", "--platform", "linux"], "no platform"),
        (&["cache", "prune", "--unused-for", "soon"], "30d"),
        (&["cache", "rm"], "name an image"),
        (
            &["cache", "ls", "--gateway", "ftp://x"],
            "http://127.0.0.1:3129",
        ),
        (
            &["cache", "ls", "--gateway", "http://ops:secret@x"],
            "PIERHEAD_GATEWAY",
        ),
        (&["export", "alpine", "-o", "/"], "names no file"),
    ] {
        let wrong = desk.run(args).await.fails(2);
        assert!(wrong.contains(word), "{args:?}: {wrong}");
        assert!(!wrong.contains("secret"), "{wrong}");
    }
    assert!(!desk.file("cache").exists());
    std::fs::write(&desk.config, "[cache]\nmax_sise = 1").unwrap();
    desk.run(&["cache", "ls"]).await.fails(78);
}

#[tokio::test]
async fn the_directory_tells_the_same_as_the_gateway_that_ran_on_it() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let (_, arm64, _) = two_platforms(&repo, 41);
    let mut gateway = Gateway::before(&up).start().await;
    let desk = Desk::at(&gateway);
    desk.run(&["pull", "registry.test/app:both"]).await.ok();
    desk.run(&["pull", &name(&arm64)]).await.ok();
    desk.run(&["cache", "pin", &name(&arm64)]).await.ok();
    let questions: [&[&str]; 5] = [
        &["cache", "ls"],
        &["cache", "ls", "ARM", "--registry", "registry.test"],
        &["cache", "show", "registry.test/app:both"],
        &["cache", "show", "registry.test/app:arm64"],
        &["cache", "stats"],
    ];
    let mut told = Vec::new();
    for question in questions {
        told.push((desk.json(question).await, desk.run(question).await.ok()));
    }
    let all = told[0].0["images"].as_array().unwrap();
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(told[1].0["images"][0]["name"], "registry.test/app:arm64");
    assert!(told[1].1.contains("pinned"), "{}", told[1].1);
    assert!(told[2].1.contains("linux/arm64"), "{}", told[2].1);
    assert!(told[3].1.contains(&arm64.layers[0].digest), "{}", told[3].1);
    gateway.terminate().await;
    for (question, (json, text)) in questions.iter().zip(&told) {
        let mut now = desk.json(question).await;
        if question.contains(&"stats") {
            // The index itself grows and shrinks, and an end writes it.
            now["bytes"] = json["bytes"].clone();
            assert_eq!(&now, json, "{question:?}");
            continue;
        }
        assert_eq!(&now, json, "{question:?}");
        let (now, ago) = (desk.run(question).await.ok(), "ago");
        let plain = |text: &str| text.split(ago).map(|part| part.len() / 9).sum::<usize>();
        assert_eq!(now.lines().count(), text.lines().count(), "{now}\n{text}");
        assert!(plain(&now).abs_diff(plain(text)) < 9, "{now}\n{text}");
    }
}

#[tokio::test]
async fn what_is_removed_is_gone_and_what_is_pinned_is_not_pruned() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let (kept, gone) = (
        repo.image("kept", 51, &[LAYER]),
        repo.image("gone", 52, &[LAYER]),
    );
    let gateway = Gateway::before(&up).start().await;
    let desk = Desk::at(&gateway);
    desk.run(&["pull", &name(&kept), &name(&gone)]).await.ok();
    let said = desk.run(&["cache", "rm", &name(&gone)]).await.ok();
    assert!(said.contains("1 tag, 1 manifest, 2 blobs gone"), "{said}");
    assert_eq!(gateway.copies_of(&gone.layers[0].bytes), 0);
    let wrong = desk.run(&["cache", "rm", &name(&gone)]).await.fails(1);
    assert!(
        wrong.contains("registry.test/app:gone is not cached"),
        "{wrong}"
    );
    let wrong = desk.run(&["cache", "show", &name(&gone)]).await.fails(1);
    assert!(wrong.contains("is not cached"), "{wrong}");

    desk.run(&["cache", "pin", &name(&kept)]).await.ok();
    let said = desk
        .run(&["cache", "prune", "--unused-for", "0s"])
        .await
        .ok();
    assert!(said.contains("nothing"), "{said}");
    assert_eq!(gateway.copies_of(&kept.layers[0].bytes), 1);
    desk.run(&["cache", "unpin", &name(&kept)]).await.ok();
    let freed = desk.json(&["cache", "prune", "--unused-for=0s"]).await;
    assert_eq!(freed["blobs"], 2, "{freed}");
    assert_eq!(gateway.copies_of(&kept.layers[0].bytes), 0);
}

#[tokio::test]
async fn verify_finds_what_was_damaged_and_says_so_with_its_exit_code() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 61, &[LAYER]);
    let mut gateway = Gateway::before(&up).start().await;
    let desk = Desk::at(&gateway);
    desk.run(&["pull", &name(&image)]).await.ok();
    desk.run(&["cache", "verify"]).await.ok();
    let files = gateway.cache_files();
    let blob = files
        .iter()
        .find(|(_, size)| *size == LAYER as u64)
        .unwrap();
    let mut bytes = std::fs::read(&blob.0).unwrap();
    bytes[LAYER / 2] ^= 1;
    std::fs::write(&blob.0, bytes).unwrap();
    gateway.terminate().await;
    let ran = desk.run(&["cache", "verify"]).await;
    let line = format!("{}  was damaged; it is removed", image.layers[0].digest);
    assert!(ran.out.contains(&line), "{}", ran.out);
    let wrong = ran.fails(1);
    assert!(wrong.contains("1 damaged"), "{wrong}");
    desk.run(&["cache", "verify"]).await.ok();
}

#[tokio::test]
async fn a_directory_has_one_master_and_a_killed_one_leaves_no_lock() {
    let up = Upstream::start().await;
    let mut gateway = Gateway::before(&up).start().await;
    let desk = Desk::at(&gateway);
    let wrong = desk.run(&["serve"]).await.fails(1);
    assert!(
        wrong.contains("in use by another pierhead (process "),
        "{wrong}"
    );
    assert!(wrong.contains("give each its own cache.dir"), "{wrong}");
    gateway.kill9().await;
    // What the dead one noted of itself misleads nobody.
    assert!(gateway.cache_dir().join("admin.token").exists());
    desk.run(&["cache", "stats"]).await.ok();

    let held = pierhead::store::Store::open(&gateway.cache_dir()).unwrap();
    let wrong = desk.run(&["cache", "stats"]).await.fails(1);
    let own = format!("process {} has the cache directory", std::process::id());
    assert!(wrong.contains(&own), "{wrong}");
    assert!(wrong.contains("--gateway"), "{wrong}");
    drop(held);
    desk.run(&["cache", "stats"]).await.ok();
}

#[tokio::test]
async fn a_directory_of_another_user_is_left_to_that_user() {
    let desk = Desk::ashore(&Gateway::alone());
    let wrong = desk.run(&["cache", "ls"]).await.fails(1);
    assert!(wrong.contains("there is no cache directory"), "{wrong}");
    assert!(wrong.contains("--gateway http://"), "{wrong}");
    std::fs::create_dir(desk.file("cache")).unwrap();
    // Only root can give a directory away.
    let given = std::os::unix::fs::chown(desk.file("cache"), Some(65534), None);
    assert!(given.is_ok(), "scripts/test runs this as root: {given:?}");
    let wrong = desk.run(&["cache", "ls"]).await.fails(1);
    assert!(wrong.contains("sudo -u '#65534' pierhead"), "{wrong}");
    assert!(!desk.file("cache/lock").exists());
}

#[tokio::test]
async fn a_gateway_with_admin_users_is_asked_with_a_login_that_no_process_list_shows() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 71, &[10]);
    let users = tempfile::tempdir().unwrap();
    let file = users.path().join("htpasswd");
    let made = std::process::Command::new("htpasswd")
        .args(["-cbB", "-C", "4", file.to_str().unwrap(), "ops", "s3cret"])
        .output();
    assert!(made.unwrap().status.success());
    let gateway = Gateway::before(&up)
        .text("admin", "users_file", file.to_str().unwrap())
        .start()
        .await;
    let (address, image) = (gateway.admin.to_string(), name(&image));
    let named = ["pull", &image, "--gateway", &address];
    // From another machine, as it were: nothing is known of the gateway's directory.
    let elsewhere = || Desk::ashore(&Gateway::alone());
    let wrong = elsewhere().run_bare(&named).await.fails(1);
    assert!(wrong.contains("PIERHEAD_LOGIN=NAME:PASSWORD"), "{wrong}");
    let desk = elsewhere().env("PIERHEAD_LOGIN", "ops:wrong");
    desk.run_bare(&named).await.fails(1);
    let desk = elsewhere().env("PIERHEAD_LOGIN", "ops:s3cret");
    desk.run_bare(&named).await.ok();
    let url = format!("http://ops:s3cret@{address}");
    let desk = elsewhere().env("PIERHEAD_GATEWAY", &url);
    desk.run_bare(&["cache", "show", &image]).await.ok();
    // Who may read the directory needs none.
    Desk::at(&gateway).run(&["cache", "rm", &image]).await.ok();

    let desk = elsewhere();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    let wrong = desk
        .run_bare(&["cache", "ls", "--gateway", &address])
        .await
        .fails(1);
    assert!(
        wrong.contains(&format!("no gateway answers at http://{address}")),
        "{wrong}"
    );
}

#[tokio::test]
async fn an_export_is_the_same_from_both_ways_and_another_gateway_serves_it_without_upstream() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let (_, arm64, index) = two_platforms(&repo, 81);
    let mut gateway = Gateway::before(&up).start().await;
    let desk = Desk::at(&gateway);
    let both = "registry.test/app:both";
    let wrong = desk.run(&["export", both, "-o", "a.tar"]).await.fails(1);
    assert!(wrong.contains("pull it first"), "{wrong}");
    desk.run(&["pull", both]).await.ok();
    desk.run(&["export", both, "-o", "a.tar"]).await.ok();
    let piped = desk.run(&["export", both, "-o", "-"]).await;
    let piped = piped.out.len();
    gateway.terminate().await;
    up.stop().await;
    desk.run(&["export", both, "-o", "b.tar"]).await.ok();
    let tar = std::fs::read(desk.file("a.tar")).unwrap();
    assert!(piped > LAYER, "nothing came through the pipe");
    assert_eq!(tar, std::fs::read(desk.file("b.tar")).unwrap());
    let left = std::fs::read_dir(desk.home.path()).unwrap();
    let parts = left.filter(|one| {
        let name = one.as_ref().unwrap().file_name();
        name.to_string_lossy().contains(".part-")
    });
    assert_eq!(parts.count(), 0);

    let other = Gateway::before(&up).start().await;
    let there = Desk::at(&other);
    let file = desk.file("a.tar").to_str().unwrap().to_owned();
    let said = there.run(&["import", &file]).await.ok();
    assert!(
        said.contains(&format!("{both}  {}", index.digest)),
        "{said}"
    );
    let client = other.client();
    assert_eq!(client.manifest(&repo, "both").await, index.digest);
    client.pull_digest(&arm64).await;
    let known = there.json(&["import", &file]).await;
    assert_eq!(known["added"], 0, "{known}");
}

#[tokio::test]
async fn a_directory_imports_what_its_gateway_serves_later() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 85, &[LAYER]);
    let setup = Gateway::before(&up);
    let desk = Desk::ashore(&setup);
    desk.run(&["pull", &name(&image)]).await.ok();
    let by_digest = format!("registry.test/app@{}", image.manifest.digest);
    desk.run(&["export", &name(&image), &by_digest, "-o", "a.tar"])
        .await
        .ok();
    up.stop().await;
    let there = Desk::ashore(&setup);
    let file = desk.file("a.tar").to_str().unwrap().to_owned();
    there.run(&["import", &file]).await.ok();
    let listed = there.json(&["cache", "ls"]).await;
    assert_eq!(listed["images"].as_array().unwrap().len(), 2, "{listed}");
    let gateway = setup.start_in(there.home.clone()).await;
    gateway.client().pull(&image).await;
}

#[tokio::test]
async fn of_a_spoiled_file_nothing_is_kept() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let image = repo.image("v1", 91, &[LAYER, 5_000_000, 20]);
    let source = Gateway::before(&up).start().await;
    let desk = Desk::at(&source);
    desk.run(&["pull", &name(&image)]).await.ok();
    desk.run(&["export", &name(&image), "-o", "good.tar"])
        .await
        .ok();
    let good = std::fs::read(desk.file("good.tar")).unwrap();
    let target = Gateway::before(&up).start().await;
    let there = Desk::at(&target);
    let at = |bytes: &[u8]| {
        let begin = &bytes[..bytes.len().min(64)];
        let mut windows = good.windows(begin.len());
        windows.position(|window| window == begin).unwrap()
    };
    let flipped = |at: usize| {
        let mut bad = good.clone();
        bad[at] ^= 1;
        bad
    };
    let large = &image.layers[1].bytes;
    let cases = [
        (
            "a byte of a large layer",
            flipped(at(large) + 4_000_000),
            "damaged",
        ),
        (
            "a byte of the last layer",
            flipped(at(&image.layers[2].bytes)),
            "damaged",
        ),
        (
            "a byte of the manifest",
            flipped(at(&image.manifest.bytes) + 70),
            "damaged",
        ),
        (
            "cut in a layer",
            good[..at(large) + 1_000_000].to_vec(),
            "ends in the middle",
        ),
        ("a header", flipped(at(large) - 400), "no tar"),
        ("no tar at all", b"this is a letter".repeat(100), "no tar"),
    ];
    for (what, bytes, word) in cases {
        std::fs::write(desk.file("bad.tar"), bytes).unwrap();
        let file = desk.file("bad.tar").to_str().unwrap().to_owned();
        let wrong = there.run(&["import", &file]).await.fails(1);
        assert!(
            wrong.contains(word) && wrong.contains("bad.tar"),
            "{what}: {wrong}"
        );
        for blob in image.blobs() {
            assert_eq!(target.copies_of(&blob.bytes), 0, "{what}: {}", blob.digest);
        }
        assert_eq!(target.copies_of(&image.manifest.bytes), 0, "{what}");
        let listed = there.json(&["cache", "ls"]).await;
        assert_eq!(listed["images"].as_array().unwrap().len(), 0, "{what}");
    }
    // What was here before stays, whatever the file says of it.
    there.run(&["pull", &name(&image)]).await.ok();
    std::fs::write(desk.file("bad.tar"), flipped(at(large) + 5)).unwrap();
    let file = desk.file("bad.tar").to_str().unwrap().to_owned();
    there.run(&["import", &file]).await.fails(1);
    there.run(&["cache", "verify"]).await.ok();
    assert_eq!(target.copies_of(large), 1);
}

/// Passes connections on to `to`, and cuts the first of them after so many bytes of its answers.
async fn cutter(to: SocketAddr, after: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move {
                let (mut near_in, mut near_out) = near.into_split();
                let (far_in, mut far_out) = far.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut near_in, &mut far_out).await });
                let _ = tokio::io::copy(&mut far_in.take(after), &mut near_out).await;
                let _ = near_out.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test]
async fn an_export_that_broke_off_goes_on_where_it_stopped() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let image = repo.image("v1", 95, &[3_000_000, 3_000_000]);
    let other = repo.image("v2", 96, &[LAYER]);
    let gateway = Gateway::before(&up).start().await;
    let desk = Desk::at(&gateway);
    desk.run(&["pull", &name(&image), &name(&other)]).await.ok();
    desk.run(&["export", &name(&image), "-o", "whole.tar"])
        .await
        .ok();
    let whole = std::fs::read(desk.file("whole.tar")).unwrap();
    let address = cutter(gateway.admin, 4_000_000).await.to_string();
    let broken = [
        "export",
        &name(&image),
        "-o",
        "out.tar",
        "--gateway",
        &address,
    ];
    let wrong = desk.run_bare(&broken).await.fails(1);
    assert!(
        wrong.contains("the same command again goes on there"),
        "{wrong}"
    );
    assert!(!desk.file("out.tar").exists());
    let parts = || {
        let all = std::fs::read_dir(desk.home.path()).unwrap().flatten();
        let mut parts = all.filter(|one| one.file_name().to_string_lossy().contains(".part-"));
        parts.next().map(|one| one.metadata().unwrap().len())
    };
    let first = parts().unwrap();
    assert!((3_000_000..4_000_000).contains(&first), "{first}");
    let said = desk.run(&["export", &name(&image), "-o", "out.tar"]).await;
    assert!(said.err.contains("goes on at"), "{}", said.err);
    said.ok();
    assert_eq!(parts(), None);
    assert_eq!(std::fs::read(desk.file("out.tar")).unwrap(), whole);

    // Other images under the same name of a file are another tar.
    desk.run_bare(&broken).await.fails(1);
    let said = desk.run(&["export", &name(&other), "-o", "out.tar"]).await;
    assert!(said.err.contains("begins anew"), "{}", said.err);
    said.ok();
    assert_eq!(parts(), None);
    desk.run(&["export", &name(&other), "-o", "fresh.tar"])
        .await
        .ok();
    let fresh = std::fs::read(desk.file("fresh.tar")).unwrap();
    assert_eq!(std::fs::read(desk.file("out.tar")).unwrap(), fresh);
}

#[tokio::test]
async fn an_entity_tag_names_the_very_bytes() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let (_, _, _) = two_platforms(&repo, 101);
    let gateway = Gateway::before(&up).start().await;
    let desk = Desk::at(&gateway);
    desk.run(&["pull", "registry.test/app:both"]).await.ok();
    let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
    for query in [
        "image=registry.test/app:both",
        "image=registry.test/app:both&platform=linux/amd64",
        "image=registry.test/app:both&platform=linux/arm64",
        "image=registry.test/app:both&platform=linux/arm64&platform=linux/amd64",
        "image=registry.test/app:both&referrers=true",
    ] {
        let reply = client::plain(gateway.admin, &format!("/api/v1/export?{query}")).await;
        assert_eq!(reply.status, 200, "{query}");
        let etag = reply.header("etag").to_owned();
        let bytes = reply.rest().await.bytes.to_vec();
        for (known, of) in &seen {
            assert_eq!(*known == etag, *of == bytes, "{query}");
        }
        seen.push((etag, bytes));
    }
    let kinds: std::collections::HashSet<_> = seen.iter().map(|(etag, _)| etag).collect();
    assert!(kinds.len() >= 3, "{kinds:?}");
}

#[tokio::test]
async fn what_is_about_an_image_is_carried_with_it_and_listed_where_nobody_can_be_asked() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let image = repo.image("v1", 111, &[LAYER]);
    let blob = repo.blob(112, 5000);
    repo.put(&Blob::of("{}"));
    let (signature, bill) = (
        Manifest::about(&image.manifest, "application/x-signature", &blob),
        Manifest::about(&image.manifest, "application/x-bill", &blob),
    );
    repo.put_manifest(&signature).put_manifest(&bill);
    let source = Gateway::before(&up).start().await;
    let desk = Desk::at(&source);
    desk.run(&["pull", "--referrers", &name(&image)]).await.ok();
    desk.run(&["export", &name(&image), "-o", "bare.tar"])
        .await
        .ok();
    let all = ["export", "--referrers", &name(&image), "-o", "all.tar"];
    desk.run(&all).await.ok();
    up.stop().await;

    let island = Gateway::before(&up).start().await;
    let there = Desk::at(&island);
    let file = |name: &str| desk.file(name).to_str().unwrap().to_owned();
    there.run(&["import", &file("bare.tar")]).await.ok();
    let list = |query: &str| {
        let url = repo.url(&format!("referrers/{}{query}", image.manifest.digest));
        let client = island.client();
        async move {
            let reply = client.get(&url).send().await;
            assert_eq!(reply.status, 200);
            let index: Value = serde_json::from_str(&reply.text().await).unwrap();
            index["manifests"].as_array().unwrap().clone()
        }
    };
    assert_eq!(list("").await.len(), 0);
    there.run(&["import", &file("all.tar")]).await.ok();
    assert_eq!(list("").await.len(), 2);
    let bills = list("?artifactType=application/x-bill").await;
    assert_eq!(bills.len(), 1, "{bills:?}");
    assert_eq!(bills[0]["digest"], bill.digest.as_str());
    assert_eq!(bills[0]["artifactType"], "application/x-bill");
    let client = island.client();
    client.manifest(&repo, &signature.digest).await;
    let reply = client.get(&repo.blob_url(&blob.digest)).send().await;
    reply.verified(&blob.digest).await;
    // They go with what they are about.
    there.run(&["cache", "rm", &name(&image)]).await.ok();
    let stats = there.json(&["cache", "stats"]).await;
    assert_eq!(stats["objects"], 0, "{stats}");
}
