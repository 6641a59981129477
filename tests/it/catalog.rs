//! What the cache holds, by the word of its catalog: listed, removed, pruned and verified.

use std::time::{Duration, Instant};

use pierhead::cache::catalog::Filter;
use pierhead::cache::index::{TagRecord, now_seconds, tag_key};
use pierhead::cache::put::PutError;

use crate::shelf::{MIB, digest, id, import, is_here, keep, of, open, put};
use crate::support::{Blob, Upstream, image};

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
