//! What the cache holds, by the word of its catalog; what is pinned, removed, verified and imported.
//!
//! The cache room is used as a command uses it that finds no gateway running.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use pierhead::cache::catalog::{Filter, ImageId, PinError};
use pierhead::cache::index::{TagRecord, now_seconds, tag_key};
use pierhead::cache::put::PutError;
use pierhead::cache::space::Bounds;
use pierhead::cache::{Cache, CacheConfig, Manifest};
use pierhead::oci::digest::Digest;
use pierhead::telemetry::metrics::Metrics;

use crate::access::private;
use crate::support::{Blob, Gateway, Image, Upstream, eventually, image};

const LAYER: usize = 200_000;
const MIB: u64 = 1 << 20;

async fn open(dir: &Path, max_size: u64) -> Arc<Cache> {
    let config = CacheConfig {
        dir: dir.to_owned(),
        bounds: Bounds {
            max_size,
            min_free: 0,
        },
        parallel: 4,
    };
    let cache = Cache::open(&config, Arc::new(Metrics::new())).unwrap();
    cache.settle().await;
    cache
}

/// Lets go of the directory, for somebody else to open it.
async fn close(cache: Arc<Cache>, dir: &Path) {
    cache.index().flush().await.unwrap();
    let index = std::fs::File::open(dir.join("index.redb")).unwrap();
    let lock = std::fs::File::open(dir.join("lock")).unwrap();
    drop(cache);
    eventually("the index is let go", || {
        let free = index.try_lock().is_ok() && lock.try_lock().is_ok();
        let _ = (index.unlock(), lock.unlock());
        free
    })
    .await;
}

fn id(origin: &str, repository: &str, reference: &str) -> ImageId {
    ImageId {
        origin: origin.into(),
        repository: repository.parse().unwrap(),
        reference: reference.parse().unwrap(),
    }
}

fn of(image: &Image) -> ImageId {
    id(&image.repo.host, &image.repo.name, &image.tag)
}

fn digest(text: &str) -> Digest {
    text.parse().unwrap()
}

async fn put(cache: &Arc<Cache>, blob: &Blob) -> Result<bool, PutError> {
    let size = blob.len() as u64;
    cache
        .put_blob(&digest(&blob.digest), size, &blob.bytes[..])
        .await
}

async fn keep(cache: &Arc<Cache>, manifest: &image::Manifest) {
    let kept = Manifest {
        digest: digest(&manifest.digest),
        media_type: manifest.media_type.as_str().into(),
        bytes: manifest.bytes.clone(),
    };
    cache.keep_manifest(&kept).await;
}

/// Carries an image in, as `image` names it.
async fn import(cache: &Arc<Cache>, image: &Image) {
    for blob in image.blobs() {
        put(cache, blob).await.unwrap();
    }
    keep(cache, &image.manifest).await;
    let root = digest(&image.manifest.digest);
    cache.import_image(&of(image), &root).await.unwrap();
}

async fn is_here(cache: &Arc<Cache>, blob: &Blob) -> bool {
    cache.blob(&digest(&blob.digest)).await.is_some()
}

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

#[tokio::test]
async fn images_are_listed_page_by_page_and_found_by_any_part_of_their_name() {
    let up = Upstream::start().await;
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 100 * MIB).await;
    let mut expected = Vec::new();
    for (host, name) in [
        ("a.test", "app"),
        ("a.test", "lib/base"),
        ("b.test:5000", "app"),
    ] {
        for tag in ["v1", "v2", "v3"] {
            let image = up.repo(host, name).image(tag, 86, &[1000]);
            import(&cache, &image).await;
            expected.push(format!("{host}/{name}:{tag}"));
        }
    }
    cache.index().flush().await.unwrap();
    for limit in 1..=10 {
        let mut filter = Filter {
            limit,
            ..Filter::default()
        };
        let mut found = Vec::new();
        loop {
            let page = cache.images(&filter).await;
            assert!(page.rows.len() <= limit);
            found.extend(page.rows.iter().map(|row| {
                let tag = row.tag.as_deref().unwrap_or_default();
                format!("{}/{}:{tag}", row.registry, row.repository)
            }));
            filter.after = page.next;
            if filter.after.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "pages of {limit}");
    }
    for (registry, repository, text, count) in [
        (Some("a.test"), None, None, 6),
        (Some("b.test:5000"), Some("app"), None, 3),
        (None, Some("app"), None, 6),
        (None, Some("app"), Some("V2"), 2),
        (None, None, Some("base:v3"), 1),
        (Some("c.test"), None, None, 0),
    ] {
        let filter = Filter {
            registry: registry.map(str::to_owned),
            repository: repository.map(str::to_owned),
            text: text.map(str::to_owned),
            ..Filter::default()
        };
        let page = cache.images(&filter).await;
        assert_eq!(page.rows.len(), count, "{filter:?}");
        assert!(page.rows.iter().all(|row| row.pinned && row.cached));
        assert!(
            page.rows
                .iter()
                .all(|row| row.total_size == row.cached_size)
        );
    }
    let repositories = cache.repositories(&Filter::default()).await.rows;
    let shown: Vec<_> = repositories
        .iter()
        .map(|row| {
            (
                row.registry.as_str(),
                row.repository.as_str(),
                row.tags,
                row.pinned,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("a.test", "app", 3, 3),
            ("a.test", "lib/base", 3, 3),
            ("b.test:5000", "app", 3, 3)
        ]
    );
    let registries = cache.registries().await;
    let shown: Vec<_> = registries
        .iter()
        .map(|row| (row.origin.as_str(), row.repositories, row.tags))
        .collect();
    assert_eq!(shown, [("a.test", 2, 6), ("b.test:5000", 1, 3)]);
    let stats = cache.stats().await;
    // One seed: it is the same image everywhere.
    assert_eq!((stats.manifests, stats.blobs, stats.objects), (1, 2, 3));
    assert_eq!((stats.tags, stats.repositories, stats.pinned), (9, 3, 9));
}

#[tokio::test]
async fn an_image_shows_its_platforms_its_layers_and_who_shares_them() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let (one, two) = (
        repo.image("one", 87, &[1000, 2000]),
        repo.image("two", 88, &[3000]),
    );
    let shared = image::Manifest::image(image::OCI_MANIFEST, &two.config, &one.layers);
    let index = image::Manifest::index(image::OCI_INDEX, &[&one.manifest, &two.manifest]);
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 100 * MIB).await;
    for blob in one.blobs() {
        put(&cache, blob).await.unwrap();
    }
    for manifest in [&one.manifest, &shared, &index] {
        keep(&cache, manifest).await;
    }
    let name = id("registry.test", "app", "both");
    cache
        .import_image(&name, &digest(&index.digest))
        .await
        .unwrap();
    cache.index().flush().await.unwrap();

    let detail = cache.image(&name).await.unwrap();
    assert_eq!(detail.digest.as_str(), index.digest);
    let platforms: Vec<_> = detail
        .platforms
        .iter()
        .map(|row| (row.platform.as_ref().unwrap().to_string(), row.cached))
        .collect();
    let expected = [
        ("linux/amd64".to_owned(), true),
        ("linux/arm64".to_owned(), false),
    ];
    assert_eq!(platforms, expected);
    let (config, layers) = (one.config.len() as u64, 3000);
    assert_eq!(detail.platforms[0].total_size, config + layers);
    assert_eq!(detail.platforms[0].cached_size, config + layers);

    let by_digest = id("registry.test", "app", &one.manifest.digest);
    let detail = cache.image(&by_digest).await.unwrap();
    assert_eq!(detail.config.unwrap().shared_by, 0);
    assert!(
        detail
            .layers
            .iter()
            .all(|layer| layer.cached && layer.shared_by == 1)
    );
    let missing = id("registry.test", "app", &two.manifest.digest);
    assert!(cache.image(&missing).await.is_none());
}

#[tokio::test]
async fn a_removed_image_leaves_what_others_need() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let (one, base) = (
        repo.image("one", 89, &[1000, 2000]),
        repo.image("base", 90, &[3000]),
    );
    let both = image::Manifest::image(image::OCI_MANIFEST, &base.config, &one.layers[..1]);
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 100 * MIB).await;
    import(&cache, &one).await;
    import(&cache, &base).await;
    keep(&cache, &both).await;
    let name = id("registry.test", "app", "both");
    cache
        .import_image(&name, &digest(&both.digest))
        .await
        .unwrap();
    cache.index().flush().await.unwrap();

    let reading = cache.blob(&digest(&one.layers[1].digest)).await.unwrap();
    let removed = cache.remove(&of(&one)).await.unwrap();
    assert_eq!((removed.tags, removed.manifests, removed.blobs), (1, 1, 2));
    assert!(
        is_here(&cache, &one.layers[0]).await,
        "another image needs it"
    );
    assert!(!is_here(&cache, &one.layers[1]).await);
    assert!(cache.image(&of(&one)).await.is_none());
    assert!(
        cache
            .manifest(&digest(&one.manifest.digest))
            .await
            .is_none()
    );
    let mut bytes = vec![0; one.layers[1].len()];
    std::os::unix::fs::FileExt::read_exact_at(&*reading.file(), &mut bytes, 0).unwrap();
    assert_eq!(bytes, one.layers[1].bytes, "a reader lost its bytes");

    let repository = "app".parse().unwrap();
    let removed = cache
        .remove_repository("registry.test", &repository)
        .await
        .unwrap();
    assert_eq!(removed.tags, 2);
    let stats = cache.stats().await;
    assert_eq!(
        (stats.objects, stats.manifests, stats.tags, stats.pinned),
        (0, 0, 0, 0)
    );
}

#[tokio::test]
async fn what_was_not_used_is_pruned_but_for_what_is_pinned() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 91, &[1000]);
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 100 * MIB).await;
    import(&cache, &image).await;
    let loose: Vec<_> = (0..100)
        .map(|seed| Blob::noise(1000 + seed, 5000))
        .collect();
    for blob in &loose {
        put(&cache, blob).await.unwrap();
    }
    let removed = cache.prune(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(removed.blobs, 0, "all of it was used a moment ago");
    let open = cache.blob(&digest(&loose[0].digest)).await.unwrap();
    let removed = cache.prune(Duration::ZERO).await.unwrap();
    assert_eq!(removed.blobs, 99, "one is being read, and two are pinned");
    assert_eq!(open.size(), 5000);
    for blob in image.blobs() {
        assert!(is_here(&cache, blob).await);
    }
}

#[tokio::test]
async fn a_damaged_object_is_found_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 100 * MIB).await;
    let blobs: Vec<_> = (0..3)
        .map(|seed| Blob::noise(2000 + seed, 70_000))
        .collect();
    for blob in &blobs {
        put(&cache, blob).await.unwrap();
    }
    let path = |blob: &Blob| {
        let hex = blob.digest.strip_prefix("sha256:").unwrap();
        dir.path().join("blobs/sha256").join(&hex[..2]).join(hex)
    };
    let mut bytes = std::fs::read(path(&blobs[1])).unwrap();
    bytes[5] ^= 1;
    std::fs::write(path(&blobs[1]), bytes).unwrap();
    std::fs::remove_file(path(&blobs[2])).unwrap();
    let seen = std::sync::Mutex::new(Vec::new());
    let found = cache
        .verify(|checked| {
            seen.lock()
                .unwrap()
                .push((checked.damaged, checked.done, checked.of))
        })
        .await;
    assert_eq!(found.objects, 3);
    assert_eq!(found.damaged, [digest(&blobs[1].digest)]);
    assert_eq!(
        (found.missing, found.unreadable, found.bytes),
        (1, 0, 70_000)
    );
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.iter().filter(|one| one.0).count(), 1);
    assert_eq!(seen.last().map(|one| (one.1, one.2)), Some((3, 3)));
    assert!(is_here(&cache, &blobs[0]).await && !is_here(&cache, &blobs[1]).await);
    assert!(put(&cache, &blobs[1]).await.unwrap(), "it can be put anew");
}

#[tokio::test]
async fn a_blob_that_is_not_its_digests_is_not_put() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 100 * MIB).await;
    let (right, wrong) = (Blob::noise(3000, 5000), Blob::noise(3001, 5000));
    let named = digest(&right.digest);
    let put = |size, bytes| cache.put_blob(&named, size, bytes);
    assert!(matches!(
        put(5000, &wrong.bytes[..]).await,
        Err(PutError::Mismatch { .. })
    ));
    assert!(matches!(
        put(4000, &right.bytes[..]).await,
        Err(PutError::Size { .. })
    ));
    assert!(matches!(
        put(6000, &right.bytes[..]).await,
        Err(PutError::Size { .. })
    ));
    assert!(!is_here(&cache, &right).await);
    assert!(put(5000, &right.bytes[..]).await.unwrap());
    assert!(
        !put(5000, &right.bytes[..]).await.unwrap(),
        "it is here already"
    );
}

/// KiB that this process holds.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_hundred_thousand_tags_are_looked_through_while_one_types() {
    let home = tempfile::tempdir().unwrap();
    let cache = open(home.path(), 1 << 30).await;
    let blob = Blob::of("one manifest for all of them");
    for n in 0..100_000 {
        let repository = format!("team-{:02}/app-{:05}", n / 2000, n / 10);
        let key = tag_key("registry.test", &repository, &format!("v{n}"), "import");
        let record = TagRecord {
            digest: blob.digest.clone(),
            media_type: image::OCI_MANIFEST.to_owned(),
            size: 28,
            confirmed: now_seconds(),
        };
        cache.index().set_tag(key, Some(record)).await;
    }
    cache.index().flush().await.unwrap();
    let before = resident();
    let started = Instant::now();
    // The whole of it is walked through: nothing else fits.
    let text = Some("APP-09999:V99999".to_owned());
    let found = cache
        .images(&Filter {
            text,
            ..Filter::default()
        })
        .await;
    let searched = started.elapsed();
    assert_eq!(found.rows.len(), 1, "{found:?}");
    assert_eq!(found.rows[0].tag.as_deref(), Some("v99999"));
    let started = Instant::now();
    let first = cache.repositories(&Filter::default()).await;
    let listed = started.elapsed();
    assert_eq!(first.rows.len(), Filter::USUAL);
    assert_eq!(cache.origins().await, ["registry.test"]);
    let grown = resident().saturating_sub(before);
    println!("searched in {searched:?}, listed in {listed:?}, grew by {grown} KiB");
    // Of an unoptimized build on a machine that does other things.
    assert!(searched < Duration::from_secs(3), "{searched:?}");
    assert!(listed < Duration::from_secs(3), "{listed:?}");
    assert!(grown < 64 << 10, "{grown} KiB");
}
