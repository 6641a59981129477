//! What the cache holds: listed, looked into, pinned, removed.

mod shown;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use self::shown::{Detail, Image, Images, Repositories, Repository, Shared};
pub(in crate::admin) use self::shown::{Freed, full_name};
use super::{Admin, Body, Problem, Query};
use crate::cache::catalog::{self, Filter, ImageId, PinError, Removed};
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

/// One image.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Named {
    /// The image, as in `docker pull`.
    pub name: String,
}

/// A blob by its digest.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Digested {
    /// `sha256:…`
    pub digest: String,
}

/// Whether an image stays whatever happens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    pinned: bool,
}

/// Images that are cached, by registry, repository and tag.
#[utoipa::path(get, path = "/images", tag = "images", params(Listing),
    responses((status = 200, body = Images), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 500, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn images(
    State(admin): State<Arc<Admin>>,
    Query(listing): Query<Listing>,
) -> Result<Json<Images>, Problem> {
    let page = admin.cache.images(&listing.filter()?).await;
    admin.has_read_the_index()?;
    Ok(Json(Images {
        images: page.rows.into_iter().map(Image::from).collect(),
        next: page.next,
    }))
}

/// Repositories that something is known of.
#[utoipa::path(get, path = "/repositories", tag = "images", params(Listing),
    responses((status = 200, body = Repositories), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 500, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn repositories(
    State(admin): State<Arc<Admin>>,
    Query(listing): Query<Listing>,
) -> Result<Json<Repositories>, Problem> {
    let page = admin.cache.repositories(&listing.filter()?).await;
    admin.has_read_the_index()?;
    Ok(Json(Repositories {
        repositories: page.rows.into_iter().map(Repository::from).collect(),
        next: page.next,
    }))
}

/// One image: its platforms, its configuration and layers, and which of them are cached.
#[utoipa::path(get, path = "/image", tag = "images", params(Named),
    responses((status = 200, body = Detail), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 500, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn image(
    State(admin): State<Arc<Admin>>,
    Query(named): Query<Named>,
) -> Result<Json<Detail>, Problem> {
    let id = admin.image_id(&named.name)?;
    match admin.cache.image(&id).await {
        Some(found) => Ok(Json(found.into())),
        None => {
            admin.has_read_the_index()?;
            Err(Problem::not_found(format!("{id} is not cached")))
        }
    }
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
    /// Whether what was just read of the index is what there is: an index that cannot be read must not
    /// pass for an empty cache.
    pub(in crate::admin) fn has_read_the_index(&self) -> Result<(), Problem> {
        match self.cache.index().trouble() {
            None => Ok(()),
            Some(why) => Err(Problem::failed(format!(
                "the cache index cannot be read: {why}"
            ))),
        }
    }

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
