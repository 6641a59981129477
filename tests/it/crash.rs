//! `kill -9`, and what the next start makes of it.

use crate::support::{Fault, Gate, Gateway, On, Upstream, eventually};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn what_was_complete_is_served_after_a_kill() {
    let up = Upstream::start().await;
    let image = up
        .repo("registry.test", "app")
        .image("latest", 1, &[2 * MIB, 10]);
    let gateway = Gateway::before(&up).start().await;
    gateway.client().pull(&image).await;
    let (blobs, manifests) = (up.blob_gets(), up.manifest_gets());
    let gateway = gateway.restart().await;
    gateway.client().pull(&image).await;
    assert_eq!((up.blob_gets(), up.manifest_gets()), (blobs, manifests));
}

#[tokio::test]
async fn what_was_complete_is_served_after_a_kill_with_upstream_away() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 2, &[MIB]);
    let gateway = Gateway::before(&up).start().await;
    gateway.client().pull(&image).await;
    up.stop().await;
    let gateway = gateway.restart().await;
    gateway.client().pull(&image).await;
}

#[tokio::test]
async fn after_an_orderly_end_and_with_upstream_away_a_grant_still_holds() {
    let up = Upstream::start().await;
    let registry = up
        .registry("registry.test")
        .basic()
        .user("alice", "a-secret");
    let image = registry
        .private_repo("app", &["alice"])
        .image("latest", 3, &[1000]);
    let mut gateway = Gateway::before(&up).start().await;
    gateway
        .client()
        .basic("alice", "a-secret")
        .pull(&image)
        .await;
    up.stop().await;
    assert!(gateway.terminate().await.success());
    let gateway = gateway.restart().await;
    gateway
        .client()
        .basic("alice", "a-secret")
        .pull(&image)
        .await;
    let stranger = gateway.client().basic("alice", "guess");
    let layer = image.repo.blob_url(&image.layers[0].digest);
    assert!(stranger.get(&layer).send().await.status >= 400);
}

#[tokio::test]
async fn what_upstream_confirmed_of_another_repository_counts_after_a_kill_right_after_it() {
    let up = Upstream::start().await;
    let first = up.repo("registry.test", "app");
    let blob = first.blob(7, MIB);
    let mut gateway = Gateway::before(&up).start().await;
    let url = first.blob_url(&blob.digest);
    let reply = gateway.client().get(&url).send().await;
    reply.verified(&blob.digest).await;
    // The kill has to come within the moment in which a change of the index is written.
    for name in ["b", "c", "d", "e", "f", "g"] {
        let other = up.repo("registry.test", name);
        other.put(&blob);
        let url = other.blob_url(&blob.digest);
        let reply = gateway.client().get(&url).send().await;
        reply.verified(&blob.digest).await;
        gateway.kill9().await;
        up.stop().await;
        gateway = gateway.restart().await;
        let reply = gateway.client().get(&url).send().await;
        reply.verified(&blob.digest).await;
        up.start_again().await;
    }
}

#[tokio::test]
async fn a_download_that_a_kill_ended_is_right_the_next_time() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(4, 4 * MIB);
    let gate = Gate::new();
    up.fault(
        On::get(&blob.digest),
        Fault::StallAt(3 * MIB as u64, gate.clone()),
    );
    let mut gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    let mut reply = gateway.client().get(&url).send().await;
    gate.arrived(1).await;
    reply.read(MIB).await;
    gateway.kill9().await;
    let rest = reply.rest().await;
    assert!(!rest.whole);
    assert_eq!(rest.bytes, blob.bytes[MIB..MIB + rest.bytes.len()]);

    let gateway = gateway.restart().await;
    for _ in 0..2 {
        gateway
            .client()
            .get(&url)
            .send()
            .await
            .verified(&blob.digest)
            .await;
    }
    eventually("one copy of it is left", || {
        gateway.copies_of(&blob.bytes) == 1
    })
    .await;
}

#[tokio::test]
async fn what_was_left_half_done_does_not_pile_up() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let mut gateway = Gateway::before(&up)
        .text("cache", "max_size", "64MiB")
        .start()
        .await;
    let mut all = Vec::new();
    for seed in 10..13 {
        let blob = repo.blob(seed, 2 * MIB);
        let gate = Gate::new();
        up.fault(
            On::get(&blob.digest),
            Fault::StallAt(MIB as u64, gate.clone()),
        );
        let reply = gateway
            .client()
            .get(&repo.blob_url(&blob.digest))
            .send()
            .await;
        gate.arrived(1).await;
        gateway.kill9().await;
        drop(reply);
        gateway = gateway.restart().await;
        all.push(blob);
    }
    for blob in &all {
        let reply = gateway
            .client()
            .get(&repo.blob_url(&blob.digest))
            .send()
            .await;
        reply.verified(&blob.digest).await;
        eventually("one copy of it is left", || {
            gateway.copies_of(&blob.bytes) == 1
        })
        .await;
    }
}

#[tokio::test]
async fn a_torn_index_is_no_reason_not_to_start() {
    let up = Upstream::start().await;
    let image = up
        .repo("registry.test", "app")
        .image("latest", 5, &[MIB, 10]);
    let mut gateway = Gateway::before(&up).start().await;
    gateway.client().pull(&image).await;
    gateway.kill9().await;
    let files = gateway.cache_files();
    let mut torn = 0;
    for (path, len) in files {
        let name = path.to_string_lossy();
        if name.contains("index") || name.contains("redb") {
            let bytes = std::fs::read(&path).unwrap();
            let half = &bytes[..len as usize / 2];
            let garbage: Vec<u8> = half.iter().map(|byte| byte ^ 0x5A).collect();
            std::fs::write(&path, garbage).unwrap();
            torn += 1;
        }
    }
    assert!(torn > 0, "which file is the index?");
    let gateway = gateway.restart().await;
    gateway.client().pull(&image).await;
    for blob in image.blobs() {
        assert!(gateway.copies_of(&blob.bytes) <= 1);
    }
}

#[tokio::test]
async fn a_cached_file_that_lost_its_tail_is_not_served_as_whole() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(6, 2 * MIB);
    let mut gateway = Gateway::before(&up).start().await;
    let url = repo.blob_url(&blob.digest);
    gateway
        .client()
        .get(&url)
        .send()
        .await
        .verified(&blob.digest)
        .await;
    gateway.kill9().await;
    for (path, len) in gateway.cache_files() {
        if len == 2 * MIB as u64 {
            let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(MIB as u64).unwrap();
        }
    }
    let gateway = gateway.restart().await;
    let rest = gateway.client().get(&url).send().await.rest().await;
    let right = rest.bytes == blob.bytes;
    assert!(
        right || !rest.whole,
        "{} bytes as the whole",
        rest.bytes.len()
    );
    gateway
        .client()
        .get(&url)
        .send()
        .await
        .verified(&blob.digest)
        .await;
}
