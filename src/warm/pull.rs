//! One image, pulled.
use super::{Event, PullError, Warm};
use crate::cache::catalog::ImageId;
use crate::oci::digest::Digest;
use crate::oci::manifest::Platform;
use crate::oci::name::ImageName;
use http::HeaderValue;

/// Which images of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Platforms {
    #[default]
    All,
    Only(Vec<Platform>),
}

/// How an image is pulled.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub platforms: Platforms,
    /// Upstream is asked for the tag whatever `tag_ttl` says.
    pub refresh: bool,
    /// What refers to the image comes too: signatures, bills of material.
    pub referrers: bool,
    /// `Authorization` of the one it is pulled for; `None`: in the gateway's own name.
    pub credentials: Option<HeaderValue>,
}

/// What a pull found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub digest: Digest,
    pub media_type: String,
    pub manifests: usize,
    pub blobs: usize,
    /// Bytes of all blobs, and of those that were not here before.
    pub bytes: u64,
    pub fetched: u64,
}

impl Warm {
    /// Pulls an image into the cache, or makes sure that it is there.
    pub async fn pull(
        &self,
        image: &ImageName,
        options: &Options,
        progress: impl Fn(Event) + Send + Sync,
    ) -> Result<Pulled, PullError> {
        let _ = (image, options, progress);
        todo!()
    }
    /// Asks upstream what the tag stands for now, and pulls that.
    pub async fn refresh(
        &self,
        image: &ImageName,
        options: &Options,
        progress: impl Fn(Event) + Send + Sync,
    ) -> Result<Pulled, PullError> {
        let _ = (image, options, progress);
        todo!()
    }
    /// Under which id the cache keeps an image, for [`crate::cache::Cache`]'s catalog.
    pub fn image_id(&self, image: &ImageName) -> Result<ImageId, PullError> {
        todo!("{image}")
    }
}
