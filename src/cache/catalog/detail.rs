//! One image, opened.
use super::ImageId;
use crate::cache::Cache;
use crate::oci::digest::Digest;
use crate::oci::manifest::Platform;
use bytes::Bytes;

/// An image in parts.
#[derive(Clone, Debug)]
pub struct ImageDetail {
    pub image: ImageId,
    pub digest: Digest,
    pub media_type: String,
    /// Seconds since the epoch of upstream's last word; `None` for an image that was asked for by digest.
    pub confirmed: Option<u64>,
    pub pinned: bool,
    /// The manifest as it is stored.
    pub bytes: Bytes,
    /// The images of an index; empty for an image.
    pub platforms: Vec<PlatformRow>,
    /// The configuration, where it is an image.
    pub config: Option<BlobRow>,
    pub layers: Vec<BlobRow>,
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

impl Cache {
    /// One image, if its manifest is here. By tag: what upstream said last.
    pub async fn image(&self, image: &ImageId) -> Option<ImageDetail> {
        todo!("{image}")
    }
}
