//! One image, opened.

use bytes::Bytes;

use super::ImageId;
use super::about::About;
use super::list::since;
use crate::cache::Cache;
use crate::cache::index::TagRecord;
use crate::cache::index::images::image_name;
use crate::oci::digest::Digest;
use crate::oci::manifest::{Children, Descriptor, Platform};
use crate::oci::reference::Reference;
use crate::store::Key;

/// An image in parts.
#[derive(Clone, Debug)]
pub struct ImageDetail {
    pub image: ImageId,
    pub digest: Digest,
    pub media_type: String,
    /// Seconds since the epoch of upstream's last word; `None` for an image that was asked for by digest.
    pub confirmed: Option<u64>,
    /// Seconds since the epoch when the manifest came.
    pub since: Option<u64>,
    pub pinned: bool,
    /// The manifest as it is stored.
    pub bytes: Bytes,
    /// The images of an index; empty for an image.
    pub platforms: Vec<PlatformRow>,
    /// The configuration, where it is an image.
    pub config: Option<BlobRow>,
    pub layers: Vec<BlobRow>,
    /// What the configuration says, where it is here.
    pub about: Option<About>,
}

/// One image of an index.
#[derive(Clone, Debug)]
pub struct PlatformRow {
    /// `None`: an attestation, or an index within the index.
    pub platform: Option<Platform>,
    pub digest: Digest,
    pub media_type: String,
    /// Bytes of the manifest.
    pub size: u64,
    /// Whether its manifest is here.
    pub cached: bool,
    /// Bytes of its configuration and layers, and of those that are here; zero where the manifest is not.
    pub total_size: u64,
    pub cached_size: u64,
}

/// A configuration or a layer.
#[derive(Clone, Debug)]
pub struct BlobRow {
    pub digest: Digest,
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    pub cached: bool,
    /// How many other cached manifests refer to it.
    pub shared_by: u64,
}

// === impl Cache ===

impl Cache {
    /// One image, if its manifest is here. By tag: what upstream said last.
    pub async fn image(&self, image: &ImageId) -> Option<ImageDetail> {
        let (digest, confirmed) = match &image.reference {
            Reference::Digest(digest) => (digest.clone(), None),
            Reference::Tag(_) => {
                let record = self.newest(image)?;
                (record.digest.parse().ok()?, Some(record.confirmed))
            }
        };
        let manifest = self.manifest(&digest).await?;
        let bytes = manifest.bytes.clone();
        let (image, own) = (image.clone(), Key::manifest(&digest));
        let store = self.store.clone();
        let media_type = manifest.media_type.to_string();
        self.read(move |index| {
            let children = Children::parse(&bytes);
            let blob = |one: &Descriptor| {
                let key = Key::blob(&one.digest);
                let parents = index.parents(&key, MOST_PARENTS);
                BlobRow {
                    digest: one.digest.clone(),
                    media_type: one.media_type.clone(),
                    size: one.size,
                    cached: index.object(&key).is_some(),
                    shared_by: parents.iter().filter(|parent| **parent != own).count() as u64,
                }
            };
            let platform = |one: &Descriptor| {
                let key = Key::manifest(&one.digest);
                let (total_size, cached_size) = index.weigh(&key);
                PlatformRow {
                    platform: one.platform.clone(),
                    digest: one.digest.clone(),
                    media_type: one.media_type.clone(),
                    size: one.size,
                    cached: index.object(&key).is_some(),
                    total_size,
                    cached_size,
                }
            };
            ImageDetail {
                since: since(&store, &own),
                about: children
                    .config
                    .as_ref()
                    .and_then(|config| About::read(&store, &config.digest)),
                pinned: index.pins().is_pinned(&image.name()),
                image,
                digest,
                media_type,
                confirmed,
                platforms: children.manifests.iter().map(platform).collect(),
                config: children.config.as_ref().map(blob),
                layers: children.layers.iter().map(blob).collect(),
                bytes,
            }
        })
        .await
    }

    /// What is cached of what is about a manifest (its referrers).
    pub async fn referrers(&self, manifest: &Digest) -> Vec<Digest> {
        let key = Key::manifest(manifest);
        let found = self.read(move |index| index.referrers(&key)).await;
        let found = found.unwrap_or_default().into_iter();
        found.map(|key| key.digest).collect()
    }

    /// What upstream said last of a tag.
    pub(super) fn newest(&self, image: &ImageId) -> Option<TagRecord> {
        let name = image_name(
            &image.origin,
            image.repository.as_str(),
            image.reference.as_str(),
        );
        let records = self.index.tag_variants(&name, |_| true);
        // Of two of the same second the index tells more.
        let is_index = |record: &TagRecord| {
            record.media_type.contains("index") || record.media_type.contains("list")
        };
        records
            .into_iter()
            .max_by_key(|record| (record.confirmed, is_index(record)))
    }
}

/// Nobody counts further.
const MOST_PARENTS: usize = 1000;
