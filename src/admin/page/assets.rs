//! What the page is made of, for everybody: there is nothing to be learned from it.

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Admin;

/// The files, all in the binary.
pub fn assets() -> Router<Arc<Admin>> {
    let mut router = Router::new();
    for (path, media_type, bytes) in FILES {
        router = router.route(path, get(move || asset(media_type, bytes)));
    }
    router
}

async fn asset(media_type: &'static str, bytes: &'static [u8]) -> Response {
    (
        [
            (header::CONTENT_TYPE, media_type),
            // A new build may bring another one under the same name.
            (header::CACHE_CONTROL, "max-age=300"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ],
        bytes,
    )
        .into_response()
}

const FILES: [(&str, &str, &[u8]); 4] = [
    (
        "/assets/style.css",
        "text/css; charset=utf-8",
        include_bytes!("../assets/style.css"),
    ),
    (
        "/assets/page.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../assets/page.js"),
    ),
    (
        "/assets/htmx.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../assets/htmx.min.js"),
    ),
    (
        "/assets/icon.svg",
        "image/svg+xml",
        include_bytes!("../assets/icon.svg"),
    ),
];
