//! What the cache holds: listed, looked into, pinned, removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Admin, Body, Problem, Query};
use crate::cache::catalog::{
    self, BlobRow, Filter, ImageDetail, ImageId, ImageRow, PinError, PlatformRow, Removed,
    RepositoryRow,
};
use crate::oci::digest::Digest;
use crate::oci::name::ImageName;

/// What to list.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Listing {
    /// One registry, as people write it (`ghcr.io`).
    pub registry: Option<String>,
    /// One repository, in full (`library/alpine`).
    pub repository: Option<String>,
    /// Text somewhere in `registry/repository:tag`.
    pub q: Option<String>,
    /// `next` of the page before.
    pub after: Option<String>,
    /// Rows of a page.
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<usize>,
}

/// A page of images.
#[derive(Debug, Serialize, ToSchema)]
pub struct Images {
    images: Vec<Image>,
    /// Where the next page begins; null on the last.
    next: Option<String>,
}

/// One image that a tag stands for, or that is here by its digest.
#[derive(Debug, Serialize, ToSchema)]
pub struct Image {
    /// In full: `docker.io/library/alpine:3`.
    name: String,
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: String,
    media_type: String,
    /// Bytes of configurations and layers, as far as they are known.
    size: u64,
    /// Bytes of those that are cached.
    cached_size: u64,
    /// Whether the manifest is cached.
    cached: bool,
    /// Seconds since the epoch when the manifest came; null where it is not cached.
    since: Option<u64>,
    /// Seconds since the epoch of upstream's last word on the tag.
    confirmed: u64,
    pinned: bool,
}

/// A page of repositories.
#[derive(Debug, Serialize, ToSchema)]
pub struct Repositories {
    repositories: Vec<Repository>,
    next: Option<String>,
}

/// One repository that something is known of.
#[derive(Debug, Serialize, ToSchema)]
pub struct Repository {
    registry: String,
    repository: String,
    tags: u64,
    pinned: u64,
}

/// One image.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Named {
    /// The image, as in `docker pull`.
    pub name: String,
}

/// An image in parts.
#[derive(Debug, Serialize, ToSchema)]
pub struct Detail {
    name: String,
    digest: String,
    media_type: String,
    /// Seconds since the epoch; null for an image that was asked for by digest.
    confirmed: Option<u64>,
    /// Seconds since the epoch when the manifest came.
    since: Option<u64>,
    pinned: bool,
    /// The images of an index.
    platforms: Vec<Platform>,
    config: Option<Blob>,
    layers: Vec<Blob>,
    /// What the configuration says; null where it is not cached.
    about: Option<About>,
    /// The manifest as it is stored.
    #[schema(value_type = Object)]
    manifest: serde_json::Value,
}

/// One image of an index.
#[derive(Debug, Serialize, ToSchema)]
pub struct Platform {
    /// `linux/arm64/v8`; null for an attestation.
    platform: Option<String>,
    digest: String,
    media_type: String,
    /// Whether the manifest is cached.
    cached: bool,
    /// Bytes of configuration and layers; zero as long as the manifest is not cached.
    size: u64,
    cached_size: u64,
}

/// A configuration or a layer.
#[derive(Debug, Serialize, ToSchema)]
pub struct Blob {
    digest: String,
    media_type: String,
    size: u64,
    cached: bool,
    /// How many other cached manifests refer to it.
    shared_by: u64,
}

/// What a configuration says of its image. Environment variables are left out.
#[derive(Debug, Serialize, ToSchema)]
pub struct About {
    /// When it was built, as it is written there (RFC 3339).
    created: Option<String>,
    platform: String,
    entrypoint: Vec<String>,
    command: Vec<String>,
    user: String,
    working_directory: String,
    ports: Vec<String>,
    labels: BTreeMap<String, String>,
    /// What made each layer, lowest first.
    made_by: Vec<String>,
}

/// A blob by its digest.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Digested {
    /// `sha256:…`
    pub digest: String,
}

/// A blob, and who has it in common.
#[derive(Debug, Serialize, ToSchema)]
pub struct Shared {
    /// Bytes.
    size: Option<u64>,
    /// Seconds since the epoch when it came, and when it was last used.
    since: Option<u64>,
    last_use: Option<u64>,
    /// Digests of the cached manifests that refer to it.
    manifests: Vec<String>,
    /// Images whose tags lead to it, in order.
    images: Vec<String>,
    /// There are more of them.
    more: bool,
}

/// Whether an image stays whatever happens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    pinned: bool,
}

/// What was taken out.
#[derive(Debug, Serialize, ToSchema)]
pub struct Freed {
    tags: u64,
    manifests: u64,
    blobs: u64,
    /// On disk.
    bytes: u64,
}

/// Images that are cached, by registry, repository and tag.
#[utoipa::path(get, path = "/images", tag = "images", params(Listing),
    responses((status = 200, body = Images), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn images(
    State(admin): State<Arc<Admin>>,
    Query(listing): Query<Listing>,
) -> Result<Json<Images>, Problem> {
    let page = admin.cache.images(&listing.filter()?).await;
    Ok(Json(Images {
        images: page.rows.into_iter().map(Image::from).collect(),
        next: page.next,
    }))
}

/// Repositories that something is known of.
#[utoipa::path(get, path = "/repositories", tag = "images", params(Listing),
    responses((status = 200, body = Repositories), (status = 400, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn repositories(
    State(admin): State<Arc<Admin>>,
    Query(listing): Query<Listing>,
) -> Result<Json<Repositories>, Problem> {
    let page = admin.cache.repositories(&listing.filter()?).await;
    Ok(Json(Repositories {
        repositories: page.rows.into_iter().map(Repository::from).collect(),
        next: page.next,
    }))
}

/// One image: its platforms, its configuration and layers, and which of them are cached.
#[utoipa::path(get, path = "/image", tag = "images", params(Named),
    responses((status = 200, body = Detail), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn image(
    State(admin): State<Arc<Admin>>,
    Query(named): Query<Named>,
) -> Result<Json<Detail>, Problem> {
    let id = admin.image_id(&named.name)?;
    let found = admin.cache.image(&id).await;
    let found = found.ok_or_else(|| Problem::not_found(format!("{id} is not cached")))?;
    Ok(Json(found.into()))
}

/// A cached blob, and the images that share it.
#[utoipa::path(get, path = "/blob", tag = "images", params(Digested),
    responses((status = 200, body = Shared), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn blob(
    State(admin): State<Arc<Admin>>,
    Query(wanted): Query<Digested>,
) -> Result<Json<Shared>, Problem> {
    Ok(Json(admin.shared(&wanted.digest).await?.into()))
}

/// Forgets an image, pinned or not: its tag, and what no other cached image needs.
#[utoipa::path(delete, path = "/image", tag = "images", params(Named),
    responses((status = 200, body = Freed), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 403, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn remove(
    State(admin): State<Arc<Admin>>,
    Query(named): Query<Named>,
) -> Result<Json<Freed>, Problem> {
    Ok(Json(admin.remove(&named.name).await?.into()))
}

/// Pins an image, or unpins it. What is pinned is never evicted, and served as long as upstream is away.
#[utoipa::path(put, path = "/image/pin", tag = "images", params(Named), request_body = Pin,
    responses((status = 204), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 403, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 415, body = Problem, content_type = "application/problem+json"), (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn pin(
    State(admin): State<Arc<Admin>>,
    Query(named): Query<Named>,
    Body(pin): Body<Pin>,
) -> Result<StatusCode, Problem> {
    admin.pin(&named.name, pin.pinned).await?;
    Ok(StatusCode::NO_CONTENT)
}

// === impl Admin ===

impl Admin {
    /// Under which id the cache keeps what people call `name`.
    pub(in crate::admin) fn image_id(&self, name: &str) -> Result<ImageId, Problem> {
        let name: ImageName = name.parse().map_err(Problem::bad)?;
        self.warm.image_id(&name).map_err(Problem::bad)
    }

    /// A blob that is here, or that something here refers to.
    pub(in crate::admin) async fn shared(&self, digest: &str) -> Result<catalog::Shared, Problem> {
        let digest: Digest = digest.parse().map_err(Problem::bad)?;
        let shared = self.cache.shared(&digest).await;
        if shared.size.is_none() && shared.manifests.is_empty() {
            return Err(Problem::not_found(format!("no cached image has {digest}")));
        }
        Ok(shared)
    }

    pub(in crate::admin) async fn pin(&self, name: &str, pinned: bool) -> Result<(), Problem> {
        let id = self.image_id(name)?;
        self.cache.pin(&id, pinned).await.map_err(|e| match e {
            PinError::Unknown(_) => Problem::not_found(e),
            PinError::Index(_) => Problem::failed(e),
        })
    }

    pub(in crate::admin) async fn remove(&self, name: &str) -> Result<Removed, Problem> {
        let id = self.image_id(name)?;
        if self.cache.image(&id).await.is_none() {
            return Err(Problem::not_found(format!("{id} is not cached")));
        }
        self.cache.remove(&id).await.map_err(Problem::failed)
    }
}

// === impl Listing ===

impl Listing {
    pub(in crate::admin) fn filter(&self) -> Result<Filter, Problem> {
        if self.limit.is_some_and(|n| !(1..=Filter::MOST).contains(&n)) {
            let most = Filter::MOST;
            return Err(Problem::bad(format!("limit is 1 to {most}")));
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Ok(Filter {
            registry: given(&self.registry),
            repository: given(&self.repository),
            text: given(&self.q),
            after: given(&self.after),
            limit: self.limit.unwrap_or_default(),
        })
    }
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
