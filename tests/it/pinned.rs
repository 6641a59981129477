//! What is imported and what is pinned: who may see it, and what it is kept from.

use hyper::Method;
use pierhead::cache::catalog::PinError;
use pierhead::cache::put::PutError;

use crate::access::private;
use crate::shelf::{MIB, close, digest, id, import, is_here, of, open, put};
use crate::support::{Blob, Gateway, Upstream};

const LAYER: usize = 200_000;

#[tokio::test]
async fn an_imported_private_image_is_served_offline_to_anybody() {
    let (up, _, image) = private().await;
    let other = image.repo.image("other", 99, &[LAYER]);
    let mut gateway = Gateway::before(&up)
        .text("cache", "offline_for", "0s")
        .start()
        .await;
    let alice = gateway.client().basic("alice", "a-secret");
    alice.pull(&other).await;
    up.stop().await;
    gateway.terminate().await;
    let dir = gateway.cache_dir();
    let cache = open(&dir, 100 * MIB).await;
    import(&cache, &image).await;
    close(cache, &dir).await;

    let gateway = gateway.restart().await;
    gateway.client().pull(&image).await;
    gateway.client().basic("bob", "wrong").pull(&image).await;
    // It came by a caller's own login, and nobody carried it in.
    for url in [
        other.by_tag(),
        other.by_digest(),
        other.repo.blob_url(&other.layers[0].digest),
    ] {
        let reply = gateway.client().get(&url).send().await;
        assert!(reply.status >= 400, "{url}: {}", reply.status);
    }
    // Neither is it anybody's in another repository.
    let elsewhere = up
        .registry("registry.test")
        .repo("team/else")
        .blob_url(&image.layers[0].digest);
    let reply = gateway.client().get(&elsewhere).send().await;
    assert!(reply.status >= 400, "{}", reply.status);

    // As soon as upstream can be asked, it decides.
    up.start_again().await;
    let gateway = gateway.restart().await;
    let reply = gateway.client().get(&image.by_digest()).send().await;
    assert!(matches!(reply.status, 401 | 403), "{}", reply.status);
}

#[tokio::test]
async fn what_is_unpinned_is_nobodys_import_any_more() {
    let (up, _, image) = private().await;
    let mut gateway = Gateway::before(&up).start().await;
    up.stop().await;
    gateway.terminate().await;
    let dir = gateway.cache_dir();
    let cache = open(&dir, 100 * MIB).await;
    import(&cache, &image).await;
    assert!(cache.is_pinned(&of(&image)));
    cache.pin(&of(&image), false).await.unwrap();
    close(cache, &dir).await;
    let gateway = gateway.restart().await;
    for url in [image.by_tag(), image.by_digest()] {
        let reply = gateway.client().get(&url).send().await;
        assert!(reply.status >= 400, "{url}: {}", reply.status);
    }
}

#[tokio::test]
async fn a_pinned_tag_is_served_when_offline_for_is_over() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let (pinned, other) = (repo.image("a", 81, &[LAYER]), repo.image("b", 82, &[LAYER]));
    let mut gateway = Gateway::before(&up)
        .text("cache", "offline_for", "0s")
        .text("cache", "tag_ttl", "0s")
        .start()
        .await;
    gateway.client().pull(&pinned).await;
    gateway.client().pull(&other).await;
    up.stop().await;
    gateway.terminate().await;
    let dir = gateway.cache_dir();
    let cache = open(&dir, 100 * MIB).await;
    let unknown = cache.pin(&id("registry.test", "app", "none"), true).await;
    assert!(matches!(unknown, Err(PinError::Unknown(_))));
    cache.pin(&of(&pinned), true).await.unwrap();
    // As keeping house does: what counts for nothing any more goes.
    cache.index().prune(u64::MAX).await;
    close(cache, &dir).await;

    let gateway = gateway.restart().await;
    gateway.client().pull(&pinned).await;
    let reply = gateway.client().ask_manifest(&repo, &other.tag).await;
    assert!(reply.status >= 500, "{}", reply.status);
}

/// What she stands on may be older than any grant that is remembered.
#[tokio::test]
async fn whom_upstream_refuses_does_not_see_what_is_pinned_either() {
    let (up, registry, image) = private().await;
    let mut gateway = Gateway::before(&up)
        .text("cache", "offline_for", "0s")
        .text("cache", "tag_ttl", "0s")
        .start()
        .await;
    let alice = |gateway: &Gateway| gateway.client().basic("alice", "a-secret");
    alice(&gateway).pull(&image).await;
    gateway.terminate().await;
    let dir = gateway.cache_dir();
    let cache = open(&dir, 100 * MIB).await;
    cache.pin(&of(&image), true).await.unwrap();
    cache.index().prune(u64::MAX).await;
    close(cache, &dir).await;

    up.stop().await;
    let gateway = gateway.restart().await;
    alice(&gateway).pull(&image).await;
    up.start_again().await;
    let mut gateway = gateway.restart().await;
    let _ = registry.private_repo("team/app", &["carol"]);
    let reply = alice(&gateway).get(&image.by_digest()).send().await;
    assert_eq!(reply.status, 403);
    up.stop().await;
    for _ in 0..2 {
        for url in [
            image.by_tag(),
            image.by_digest(),
            image.repo.blob_url(&image.layers[0].digest),
        ] {
            let reply = alice(&gateway).get(&url).send().await;
            assert!(reply.status >= 400, "{url}: {}", reply.status);
        }
        gateway.terminate().await;
        gateway = gateway.restart().await;
    }
}

#[tokio::test]
async fn what_is_pinned_is_not_evicted_and_a_cache_full_of_it_takes_no_more() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let big = 600 * 1024;
    let image = repo.image("v1", 83, &[big]);
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 3 * MIB).await;
    import(&cache, &image).await;
    // A new process knows it before it makes room.
    close(cache, dir.path()).await;
    let cache = open(dir.path(), 3 * MIB).await;
    for seed in 900..910 {
        assert!(put(&cache, &Blob::noise(seed, big)).await.unwrap());
    }
    for blob in image.blobs() {
        assert!(is_here(&cache, blob).await, "a pinned blob was evicted");
    }
    let root = digest(&image.manifest.digest);
    assert!(cache.manifest(&root).await.is_some());

    let huge = Blob::noise(911, 3 * 1024 * 1024 - big);
    assert!(matches!(put(&cache, &huge).await, Err(PutError::NoRoom(_))));
    cache.pin(&of(&image), false).await.unwrap();
    cache.remove(&of(&image)).await.unwrap();
    for blob in image.blobs() {
        assert!(!is_here(&cache, blob).await);
    }
}

#[tokio::test]
async fn a_download_passes_through_a_cache_that_is_full_of_pinned_images() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let image = repo.image("v1", 84, &[1_500_000]);
    let mut gateway = Gateway::before(&up)
        .text("cache", "max_size", "3MiB")
        .start()
        .await;
    gateway.client().pull(&image).await;
    gateway.terminate().await;
    let dir = gateway.cache_dir();
    let cache = open(&dir, 3 * MIB).await;
    cache.pin(&of(&image), true).await.unwrap();
    close(cache, &dir).await;
    let gateway = gateway.restart().await;
    let other = repo.blob(85, 2_000_000);
    for _ in 0..2 {
        let asked = up.count(Method::GET, &other.digest);
        let client = gateway.client();
        let reply = client.get(&repo.blob_url(&other.digest)).send().await;
        reply.verified(&other.digest).await;
        let now = up.count(Method::GET, &other.digest);
        assert!(now > asked, "it was kept, though all else is pinned");
    }
    let gets = up.blob_gets();
    gateway.client().pull(&image).await;
    assert_eq!(up.blob_gets(), gets, "a pinned blob was evicted");
}
