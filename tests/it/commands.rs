//! `pull` and `cache`: at a running gateway, and in the directory of one that does not run. The two ways
//! are held against each other.

use hyper::Method;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::desk::{Desk, LAYER, name, two_platforms};
use crate::support::{Gateway, Upstream};

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
async fn a_single_image_of_another_platform_is_refused_before_its_layers_come() {
    let up = Upstream::start().await;
    // Its configuration says linux/amd64.
    let image = up.repo("registry.test", "app").image("v1", 33, &[LAYER]);
    let gateway = Gateway::before(&up).start().await;
    let desk = Desk::at(&gateway);
    let other = ["pull", "--platform", "linux/arm64", &name(&image)];
    let wrong = desk.run(&other).await.fails(1);
    let words =
        "is one image, for linux/amd64, and does not match the specified platform: linux/arm64";
    assert!(wrong.contains(words), "{wrong}");
    assert_eq!(up.count(Method::GET, &image.layers[0].digest), 0);
    // It leaves its variant out, which says nothing against one.
    for platform in ["linux/amd64", "linux/amd64/v3"] {
        let args = ["pull", "--platform", platform, &name(&image)];
        let said = desk.run(&args).await.ok();
        assert!(said.contains("2 blobs"), "{said}");
    }
    assert_eq!(up.count(Method::GET, &image.layers[0].digest), 1);
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
async fn an_index_that_cannot_be_read_is_no_empty_cache() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 62, &[10]);
    let desk = Desk::ashore(&Gateway::before(&up));
    desk.run(&["pull", &name(&image)]).await.ok();
    let index = desk.file("cache/index.redb");
    let kept = desk.file("kept");
    std::fs::rename(&index, &kept).unwrap();
    // Whoever runs the tests could read a file whatever its mode; a folder is none to anybody.
    std::fs::create_dir(&index).unwrap();
    for args in [
        &["cache", "ls"][..],
        &["cache", "show", &name(&image)],
        &["cache", "stats"],
    ] {
        let wrong = desk.run(args).await.fails(1);
        for word in ["the cache index cannot be read: ", "index.redb: "] {
            assert!(wrong.contains(word), "{args:?}: {wrong}");
        }
    }
    std::fs::remove_dir(&index).unwrap();
    std::fs::rename(&kept, &index).unwrap();
    let listed = desk.run(&["cache", "ls"]).await.ok();
    assert!(listed.contains(&name(&image)), "{listed}");
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
