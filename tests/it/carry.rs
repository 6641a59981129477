//! `export` and `import`: out of a gateway or its directory, and into another.

use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::desk::{Desk, LAYER, name, two_platforms};
use crate::support::{Blob, Gateway, Manifest, Upstream, client};

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
    let nothing = desk.run(&["import", "-"]).await.fails(1);
    assert!(nothing.contains("/dev/stdin"), "{nothing}");
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
        ("nothing", Vec::new(), "index.json"),
        (
            "a tar that somebody made smaller",
            [b"\x1f\x8b\x08\0", &good[..1000]].concat(),
            "compressed with gzip, and a plain tar is wanted: `gunzip < FILE | pierhead import -`",
        ),
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

#[tokio::test]
async fn a_file_without_a_name_asks_for_one_in_the_words_of_the_command() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 97, &[LAYER]);
    let gateway = Gateway::before(&up).start().await;
    let desk = Desk::at(&gateway);
    desk.run(&["pull", &name(&image)]).await.ok();
    desk.run(&["export", &name(&image), "-o", "out.tar"])
        .await
        .ok();
    let mut nameless = std::fs::read(desk.file("out.tar")).unwrap();
    for key in [
        "org.opencontainers.image.ref.name",
        "io.containerd.image.name",
        "RepoTags",
    ] {
        let wanted = key.as_bytes();
        for at in 0..nameless.len() - wanted.len() {
            if nameless[at..].starts_with(wanted) {
                nameless[at] = b'x';
            }
        }
    }
    std::fs::write(desk.file("nameless.tar"), nameless).unwrap();
    let wrong = desk.run(&["import", "nameless.tar"]).await.fails(1);
    let words = "has a name; give it one, as `pierhead import --name REGISTRY/REPOSITORY:TAG`";
    assert!(wrong.contains(words), "{wrong}");
    let named = ["import", "nameless.tar", "--name", "registry.test/app:mine"];
    let said = desk.run(&named).await.ok();
    assert!(said.contains("registry.test/app:mine"), "{said}");
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
async fn a_link_or_a_pipe_that_is_exported_to_stays_what_it_is() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 98, &[LAYER]);
    let gateway = Gateway::before(&up).start().await;
    let desk = Desk::at(&gateway);
    desk.run(&["pull", &name(&image)]).await.ok();
    let export = async |to: &str| {
        let args = ["export", &name(&image), "-o", to];
        desk.run(&args).await.ok();
        std::fs::symlink_metadata(desk.file(to)).unwrap()
    };
    export("whole.tar").await;
    let whole = std::fs::read(desk.file("whole.tar")).unwrap();

    std::fs::create_dir(desk.file("there")).unwrap();
    std::os::unix::fs::symlink("there/a.tar", desk.file("link.tar")).unwrap();
    let target = desk.file("there/a.tar");
    // To nothing at first.
    for _ in 0..2 {
        assert!(export("link.tar").await.is_symlink());
        assert_eq!(std::fs::read(&target).unwrap(), whole);
        let left = std::fs::read_dir(desk.file("there")).unwrap();
        assert_eq!(left.count(), 1, "a part is left");
        std::fs::write(&target, "an earlier one").unwrap();
    }

    let pipe = desk.file("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let reader = std::thread::spawn(move || std::fs::read(pipe));
    assert!(export("pipe").await.file_type().is_fifo());
    assert_eq!(reader.join().unwrap().unwrap(), whole);
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
