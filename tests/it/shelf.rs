//! A cache that is opened as a command opens it that finds no gateway running, and what is put there
//! by hand.

use std::path::Path;
use std::sync::Arc;

use pierhead::cache::catalog::ImageId;
use pierhead::cache::put::PutError;
use pierhead::cache::space::Bounds;
use pierhead::cache::{Cache, CacheConfig, Manifest};
use pierhead::oci::digest::Digest;
use pierhead::telemetry::metrics::Metrics;

use crate::support::{Blob, Image, eventually, image};

pub const MIB: u64 = 1 << 20;

pub async fn open(dir: &Path, max_size: u64) -> Arc<Cache> {
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
pub async fn close(cache: Arc<Cache>, dir: &Path) {
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

pub fn id(origin: &str, repository: &str, reference: &str) -> ImageId {
    ImageId {
        origin: origin.into(),
        repository: repository.parse().unwrap(),
        reference: reference.parse().unwrap(),
    }
}

pub fn of(image: &Image) -> ImageId {
    id(&image.repo.host, &image.repo.name, &image.tag)
}

pub fn digest(text: &str) -> Digest {
    text.parse().unwrap()
}

pub async fn put(cache: &Arc<Cache>, blob: &Blob) -> Result<bool, PutError> {
    let size = blob.len() as u64;
    cache
        .put_blob(&digest(&blob.digest), size, &blob.bytes[..])
        .await
}

pub async fn keep(cache: &Arc<Cache>, manifest: &image::Manifest) {
    let kept = Manifest {
        digest: digest(&manifest.digest),
        media_type: manifest.media_type.as_str().into(),
        bytes: manifest.bytes.clone(),
    };
    cache.keep_manifest(&kept).await;
}

/// Carries an image in, as `image` names it.
pub async fn import(cache: &Arc<Cache>, image: &Image) {
    for blob in image.blobs() {
        put(cache, blob).await.unwrap();
    }
    keep(cache, &image.manifest).await;
    let root = digest(&image.manifest.digest);
    cache.import_image(&of(image), &root).await.unwrap();
}

pub async fn is_here(cache: &Arc<Cache>, blob: &Blob) -> bool {
    cache.blob(&digest(&blob.digest)).await.is_some()
}
