//! What the API says of images: the catalog's rows, in words that last.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::cache::catalog::{
    self, BlobRow, ImageDetail, ImageRow, PlatformRow, Removed, RepositoryRow,
};

/// A page of images.
#[derive(Debug, Serialize, ToSchema)]
pub struct Images {
    pub(super) images: Vec<Image>,
    /// Where the next page begins; null on the last.
    pub(super) next: Option<String>,
}

/// One image that a tag stands for, or that is here by its digest.
#[derive(Debug, Serialize, ToSchema)]
pub struct Image {
    /// In full: `docker.io/library/alpine:3`.
    pub(super) name: String,
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) tag: Option<String>,
    pub(super) digest: String,
    pub(super) media_type: String,
    /// Bytes of configurations and layers, as far as they are known.
    pub(super) size: u64,
    /// Bytes of those that are cached.
    pub(super) cached_size: u64,
    /// Whether the manifest is cached.
    pub(super) cached: bool,
    /// Seconds since the epoch when the manifest came; null where it is not cached.
    pub(super) since: Option<u64>,
    /// Seconds since the epoch of upstream's last word on the tag.
    pub(super) confirmed: u64,
    pub(super) pinned: bool,
}

/// A page of repositories.
#[derive(Debug, Serialize, ToSchema)]
pub struct Repositories {
    pub(super) repositories: Vec<Repository>,
    pub(super) next: Option<String>,
}

/// One repository that something is known of.
#[derive(Debug, Serialize, ToSchema)]
pub struct Repository {
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) tags: u64,
    pub(super) pinned: u64,
}

/// An image in parts.
#[derive(Debug, Serialize, ToSchema)]
pub struct Detail {
    pub(super) name: String,
    pub(super) digest: String,
    pub(super) media_type: String,
    /// Seconds since the epoch; null for an image that was asked for by digest.
    pub(super) confirmed: Option<u64>,
    /// Seconds since the epoch when the manifest came.
    pub(super) since: Option<u64>,
    pub(super) pinned: bool,
    /// The images of an index.
    pub(super) platforms: Vec<Platform>,
    pub(super) config: Option<Blob>,
    pub(super) layers: Vec<Blob>,
    /// What the configuration says; null where it is not cached.
    pub(super) about: Option<About>,
    /// The manifest as it is stored.
    #[schema(value_type = Object)]
    pub(super) manifest: serde_json::Value,
}

/// One image of an index.
#[derive(Debug, Serialize, ToSchema)]
pub struct Platform {
    /// `linux/arm64/v8`; null for an attestation.
    pub(super) platform: Option<String>,
    pub(super) digest: String,
    pub(super) media_type: String,
    /// Whether the manifest is cached.
    pub(super) cached: bool,
    /// Bytes of configuration and layers; zero as long as the manifest is not cached.
    pub(super) size: u64,
    pub(super) cached_size: u64,
}

/// A configuration or a layer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Blob {
    pub(super) digest: String,
    pub(super) media_type: String,
    pub(super) size: u64,
    pub(super) cached: bool,
    /// How many other cached manifests refer to it.
    pub(super) shared_by: u64,
}

/// What a configuration says of its image. Environment variables are left out.
#[derive(Debug, Serialize, ToSchema)]
pub struct About {
    /// When it was built, as it is written there (RFC 3339).
    pub(super) created: Option<String>,
    pub(super) platform: String,
    pub(super) entrypoint: Vec<String>,
    pub(super) command: Vec<String>,
    pub(super) user: String,
    pub(super) working_directory: String,
    pub(super) ports: Vec<String>,
    pub(super) labels: BTreeMap<String, String>,
    /// What made each layer, lowest first.
    pub(super) made_by: Vec<String>,
}

/// A blob, and who has it in common.
#[derive(Debug, Serialize, ToSchema)]
pub struct Shared {
    /// Bytes.
    pub(super) size: Option<u64>,
    /// Seconds since the epoch when it came, and when it was last used.
    pub(super) since: Option<u64>,
    pub(super) last_use: Option<u64>,
    /// Digests of the cached manifests that refer to it.
    pub(super) manifests: Vec<String>,
    /// Images whose tags lead to it, in order.
    pub(super) images: Vec<String>,
    /// There are more of them.
    pub(super) more: bool,
}

/// What was taken out.
#[derive(Debug, Serialize, ToSchema)]
pub struct Freed {
    pub(super) tags: u64,
    pub(super) manifests: u64,
    pub(super) blobs: u64,
    /// On disk.
    pub(super) bytes: u64,
}

// === conversions ===

/// The name of a listed image in full.
pub(in crate::admin) fn full_name(row: &ImageRow) -> String {
    let (registry, repository) = (&row.registry, &row.repository);
    match &row.tag {
        Some(tag) => format!("{registry}/{repository}:{tag}"),
        None => format!("{registry}/{repository}@{}", row.digest),
    }
}

impl From<ImageRow> for Image {
    fn from(row: ImageRow) -> Self {
        Self {
            name: full_name(&row),
            registry: row.registry,
            repository: row.repository,
            tag: row.tag,
            digest: row.digest,
            media_type: row.media_type,
            size: row.total_size,
            cached_size: row.cached_size,
            cached: row.cached,
            since: row.since,
            confirmed: row.confirmed,
            pinned: row.pinned,
        }
    }
}

impl From<RepositoryRow> for Repository {
    fn from(row: RepositoryRow) -> Self {
        Self {
            registry: row.registry,
            repository: row.repository,
            tags: row.tags,
            pinned: row.pinned,
        }
    }
}

impl From<ImageDetail> for Detail {
    fn from(detail: ImageDetail) -> Self {
        Self {
            name: detail.image.to_string(),
            digest: detail.digest.to_string(),
            media_type: detail.media_type,
            confirmed: detail.confirmed,
            since: detail.since,
            pinned: detail.pinned,
            platforms: detail.platforms.into_iter().map(Platform::from).collect(),
            config: detail.config.map(Blob::from),
            layers: detail.layers.into_iter().map(Blob::from).collect(),
            about: detail.about.map(About::from),
            manifest: serde_json::from_slice(&detail.bytes).unwrap_or_default(),
        }
    }
}

impl From<PlatformRow> for Platform {
    fn from(row: PlatformRow) -> Self {
        Self {
            platform: row.platform.map(|platform| platform.to_string()),
            digest: row.digest.to_string(),
            media_type: row.media_type,
            cached: row.cached,
            size: row.total_size,
            cached_size: row.cached_size,
        }
    }
}

impl From<BlobRow> for Blob {
    fn from(row: BlobRow) -> Self {
        Self {
            digest: row.digest.to_string(),
            media_type: row.media_type,
            size: row.size,
            cached: row.cached,
            shared_by: row.shared_by,
        }
    }
}

impl From<catalog::About> for About {
    fn from(about: catalog::About) -> Self {
        Self {
            created: about.created,
            platform: about.platform,
            entrypoint: about.entrypoint,
            command: about.command,
            user: about.user,
            working_directory: about.working_directory,
            ports: about.ports,
            labels: about.labels,
            made_by: about.made_by,
        }
    }
}

impl From<catalog::Shared> for Shared {
    fn from(shared: catalog::Shared) -> Self {
        let manifests = shared.manifests.iter();
        Self {
            size: shared.size,
            since: shared.since,
            last_use: shared.last_use,
            manifests: manifests.map(ToString::to_string).collect(),
            images: shared.images,
            more: shared.more,
        }
    }
}

impl From<Removed> for Freed {
    fn from(removed: Removed) -> Self {
        Self {
            tags: removed.tags,
            manifests: removed.manifests,
            blobs: removed.blobs,
            bytes: removed.bytes,
        }
    }
}
