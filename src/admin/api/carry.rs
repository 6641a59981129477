//! Images out as one file, and in again.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query as Raw, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio_util::io::StreamReader;
use utoipa::{IntoParams, ToSchema};

use super::pulls::platforms;
use super::{Admin, Problem, Query};
use crate::admin::door::{self, Rights};
use crate::carry::{Export, ImportError, Missing, Root, Wants, import as take_in};
use crate::oci::name::ImageName;
use crate::oci::range::Wanted;
use crate::oci::reference::Reference;
use crate::warm::Platforms;

/// What to send out.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "describes the query, which may repeat its names")]
pub struct Sending {
    /// An image, as in `docker pull`; may be repeated.
    #[param(required)]
    image: Vec<String>,
    /// `linux/amd64`, …; may be repeated; none: all.
    platform: Vec<String>,
    /// `true`: what is cached about the images too, signatures and bills of material.
    referrers: Option<bool>,
}

/// How to take images in.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Taking {
    /// What the image is called where the file does not say.
    name: Option<String>,
}

/// What came in.
#[derive(Debug, Serialize, ToSchema)]
pub struct Report {
    images: Vec<TakenIn>,
    /// Blobs and manifests that are new here, and their bytes.
    added: u64,
    added_bytes: u64,
    /// Blobs and manifests that were here before.
    known: u64,
    /// What could not be taken in, and why.
    refused: Vec<Refused>,
}

/// An image that is here now, pinned, and for anybody to pull.
#[derive(Debug, Serialize, ToSchema)]
pub struct TakenIn {
    name: String,
    digest: String,
    /// Platforms of its index that the file did not have.
    absent: usize,
}

/// An image that is not here.
#[derive(Debug, Serialize, ToSchema)]
pub struct Refused {
    image: String,
    why: String,
}

/// Cached images as an OCI image layout in a tar. A transfer that broke goes on with `Range`.
#[utoipa::path(get, path = "/export", tag = "carry", params(Sending),
    responses((status = 200, description = "The tar", body = Vec<u8>, content_type = "application/x-tar"), (status = 206, description = "A part of the tar", body = Vec<u8>, content_type = "application/x-tar"), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 403, body = Problem, content_type = "application/problem+json"), (status = 404, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json"), (status = 416, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn export(
    State(admin): State<Arc<Admin>>,
    Extension(rights): Extension<Rights>,
    Raw(query): Raw<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // Names and sizes are anybody's who reaches the listener; what is in private images is not.
    if rights == Rights::Look {
        return Err(Problem::new(StatusCode::FORBIDDEN, door::READ_ONLY));
    }
    let mut roots = Vec::new();
    let mut wanted = Vec::new();
    let mut referrers = false;
    for (key, value) in query {
        match key.as_str() {
            "image" => roots.push(admin.root(&value).await?),
            "platform" => wanted.push(value),
            "referrers" => {
                let wrong = |_| Problem::bad(format!("referrers is true or false, not {value:?}"));
                referrers = value.parse().map_err(wrong)?;
            }
            other => return Err(Problem::bad(format!("there is no parameter {other}"))),
        }
    }
    if roots.is_empty() {
        return Err(Problem::bad("say which images: ?image=NAME&image=NAME"));
    }
    let wants = Wants {
        platforms: match platforms(&wanted)? {
            Platforms::All => Vec::new(),
            Platforms::Only(list) => list,
        },
        referrers,
    };
    let export = Export::plan(&admin.cache, &roots, &wants).await;
    let export = export.map_err(|missing| {
        let first = &missing[0];
        let why = match (first, missing.len()) {
            (Missing::Platform { .. }, _) => first.to_string(),
            (_, 1) => format!("{first}; pull the image first"),
            (_, n) => format!("{first}, and {} more; pull the image first", n - 1),
        };
        Problem::new(StatusCode::CONFLICT, why)
    })?;
    Ok(answer(export, &headers))
}

/// Takes an OCI image layout in a tar into the cache, verified. What comes in is pinned, and served to
/// anybody who may use the gateway, with or without an upstream.
#[utoipa::path(post, path = "/import", tag = "carry", params(Taking),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, body = Report), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 403, body = Problem, content_type = "application/problem+json"), (status = 507, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn import(
    State(admin): State<Arc<Admin>>,
    Query(taking): Query<Taking>,
    request: Request,
) -> Result<Json<Report>, Problem> {
    if let Some(name) = &taking.name {
        admin.image_id(name)?;
    }
    let body = request.into_body().into_data_stream();
    let task = admin.clone();
    let (answer, taken) = oneshot::channel();
    // In a task of its own: of one whose sender goes away nothing must be left.
    tokio::spawn(async move {
        let reader = StreamReader::new(body.map_err(std::io::Error::other));
        tokio::pin!(reader);
        let place = |name: &str| {
            let id = task.image_id(name);
            id.map_err(|problem| problem.detail().to_owned())
        };
        let name = taking.name.as_deref();
        let result = take_in(&task.cache, reader.as_mut(), name, place).await;
        let _ = answer.send(result);
        // Who still sends must not find the connection closed before the answer.
        let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
    });
    let taken = taken.await.map_err(Problem::failed)?;
    let taken = taken.map_err(|e| match e {
        ImportError::NotKept { .. } => {
            Problem::new(StatusCode::INSUFFICIENT_STORAGE, e.to_string())
        }
        _ => Problem::bad(e),
    })?;
    let images = taken.images.into_iter().map(|image| TakenIn {
        name: image.name,
        digest: image.root.to_string(),
        absent: image.absent,
    });
    let refused = taken.refused.into_iter();
    let report = Report {
        images: images.collect(),
        added: taken.added,
        added_bytes: taken.added_bytes,
        known: taken.known,
        refused: refused.map(|(image, why)| Refused { image, why }).collect(),
    };
    if report.images.is_empty() {
        let why = report.refused.first().map_or(
            "no image of the file has a name; give it one, as `pierhead import --name REGISTRY/REPOSITORY:TAG` does (?name= of the API)".to_owned(),
            |refused| format!("{}: {}", refused.image, refused.why),
        );
        return Err(Problem::bad(why));
    }
    Ok(Json(report))
}

// === impl Admin ===

impl Admin {
    async fn root(&self, name: &str) -> Result<Root, Problem> {
        let id = self.image_id(name)?;
        let full: ImageName = name.parse().map_err(Problem::bad)?;
        let digest = match &id.reference {
            Reference::Digest(digest) => digest.clone(),
            Reference::Tag(_) => {
                let found = self.cache.image(&id).await;
                let gone = || Problem::not_found(format!("{full} is not cached; pull it first"));
                found.ok_or_else(gone)?.digest
            }
        };
        Ok(Root {
            name: full.to_string(),
            digest,
        })
    }
}

fn answer(export: Export, headers: &HeaderMap) -> Response {
    let total = export.total();
    let etag = export.etag().to_owned();
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // What was half fetched of another tar is of no use (RFC 9110 section 13.1.5).
    let range =
        text(header::RANGE).filter(|_| text(header::IF_RANGE).is_none_or(|known| known == etag));
    let wanted = Wanted::parse(range, total);
    let (status, start, end) = match wanted {
        Wanted::Full => (StatusCode::OK, 0, total),
        Wanted::Partial { start, end } => (StatusCode::PARTIAL_CONTENT, start, end + 1),
        Wanted::Unsatisfiable => {
            let mut refusal = Problem::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                format!("the tar has {total} bytes"),
            )
            .into_response();
            let length = format!("bytes */{total}");
            if let Ok(length) = length.parse() {
                refusal.headers_mut().insert(header::CONTENT_RANGE, length);
            }
            return refusal;
        }
    };
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/x-tar")
        .header(header::CONTENT_LENGTH, end - start)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, etag)
        .header(
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"images.tar\"",
        );
    if let Some(range) = wanted.content_range(total) {
        response = response.header(header::CONTENT_RANGE, range.to_string());
    }
    let body = Body::new(export.into_body(start, end));
    response
        .body(body)
        .unwrap_or_else(|e| Problem::failed(e).into_response())
}
