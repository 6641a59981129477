//! What the cache holds, in the words of those who run it: registries, repositories, images.
//!
//! Everything here is the operator's view: it asks no upstream and no proof of access. Lists are read
//! from the index in ranges, a page at a time, and never by loading what is listed.

mod about;
mod detail;
mod image;
mod list;
mod remove;
mod shared;
mod verify;

pub use self::about::About;
pub use self::detail::{BlobRow, ImageDetail, PlatformRow};
pub use self::image::{ImageId, ImportError, PinError};
pub use self::remove::Removed;
pub use self::shared::Shared;
pub use self::verify::{Checked, Verified};

/// What to list. Everything that is `None` is not asked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// As shown (`ghcr.io`), or an origin.
    pub registry: Option<String>,
    /// In full.
    pub repository: Option<String>,
    /// Somewhere in `registry/repository:tag`, in any case of letters.
    pub text: Option<String>,
    /// [`Page::next`] of the page before.
    pub after: Option<String>,
    /// Rows of a page; zero means [`Filter::USUAL`], and no page has more than [`Filter::MOST`].
    pub limit: usize,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub rows: Vec<T>,
    /// Where the next page begins; `None`: this is the last. Means nothing to anybody else.
    pub next: Option<String>,
}

/// One image that a tag stands for, or that is pinned by its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRow {
    /// The registry as the cache keeps it apart from others.
    pub origin: String,
    /// The registry as people write it.
    pub registry: String,
    pub repository: String,
    /// `None`: it is here by its digest alone.
    pub tag: Option<String>,
    pub digest: String,
    pub media_type: String,
    /// Bytes of the manifest.
    pub size: u64,
    /// Bytes of all its configurations and layers, as far as the manifests that say so are here.
    pub total_size: u64,
    /// Bytes of those that are here.
    pub cached_size: u64,
    /// Whether the manifest is here.
    pub cached: bool,
    /// Seconds since the epoch when the manifest came; `None` where it is not here.
    pub since: Option<u64>,
    /// Seconds since the epoch of upstream's last word on the tag.
    pub confirmed: u64,
    pub pinned: bool,
}

/// One repository that something is known of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryRow {
    pub origin: String,
    pub registry: String,
    pub repository: String,
    pub tags: u64,
    pub pinned: u64,
}

/// One registry that something is known of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryRow {
    pub origin: String,
    pub registry: String,
    pub repositories: u64,
    pub tags: u64,
}

/// The cache in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub objects: u64,
    pub blobs: u64,
    pub manifests: u64,
    /// On disk, downloads under way and the index with them.
    pub bytes: u64,
    /// `cache.max_size`.
    pub max_bytes: u64,
    pub tags: u64,
    pub repositories: u64,
    /// Pinned images.
    pub pinned: u64,
    /// Seconds since the epoch when the object that would go first was last used.
    pub oldest_use: Option<u64>,
}

// === impl Filter ===

impl Filter {
    /// Rows of a page where nobody says.
    pub const USUAL: usize = 100;
    /// Rows of the largest page.
    pub const MOST: usize = 1000;
}

/// An origin as people write it.
pub fn registry_of(origin: &str) -> &str {
    origin.strip_prefix("http://").unwrap_or(origin)
}
