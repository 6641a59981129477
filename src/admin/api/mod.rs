//! The JSON API under `/api/v1`: what the page and the command line are made of, for scripts.
//!
//! Each handler carries its own part of the OpenAPI document, so the document cannot list what is not
//! there. Errors are problem details (RFC 9457).

#![allow(
    unused_qualifications,
    reason = "the macros that describe handlers write paths out"
)]

pub(super) mod cache;
pub(super) mod carry;
pub(super) mod images;
pub(super) mod live;
pub(super) mod pulls;
pub(super) mod status;

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::OpenApi as Document;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Admin;

/// What went wrong, for a person and for a script (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What it is about, and the mend.
    detail: String,
}

/// A query or a body in the terms of its handler; what cannot be read is a [`Problem`].
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

/// The same, of a body.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(Problem))]
pub struct Body<T>(pub T);

#[derive(OpenApi)]
#[openapi(info(
    title = "pierhead",
    description = "The JSON API of a pierhead gateway, on its admin listener. Reading is open to whoever reaches the listener unless admin.users_file is set (then HTTP Basic); changing takes such a login, or this machine."
))]
struct Described;

// === impl Problem ===

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
        }
    }

    pub fn bad(detail: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail.to_string())
    }

    pub fn not_found(detail: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail.to_string())
    }

    pub fn failed(detail: impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail.to_string())
    }

    /// What a page says of it.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let typed = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.status(), typed, Json(self)).into_response()
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// The routes, and the document that describes them.
pub(super) fn routes() -> (axum::Router<Arc<Admin>>, Document) {
    let (router, mut document) = OpenApiRouter::with_openapi(Described::openapi())
        .nest("/api/v1", all())
        .split_for_parts();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    (router, document)
}

fn all() -> OpenApiRouter<Arc<Admin>> {
    OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(status::reload))
        .routes(routes!(status::registries))
        .routes(routes!(status::switch))
        .routes(routes!(images::images))
        .routes(routes!(images::repositories))
        .routes(routes!(images::image, images::remove))
        .routes(routes!(images::pin))
        .routes(routes!(images::blob))
        .routes(routes!(pulls::pulls, pulls::start))
        .routes(routes!(pulls::pull))
        .routes(routes!(cache::stats))
        .routes(routes!(cache::prune))
        .routes(routes!(cache::verification, cache::verify))
        .routes(routes!(carry::export))
        .routes(routes!(carry::import))
        .routes(routes!(live::live))
        .routes(routes!(live::events))
        .routes(routes!(live::history))
}
