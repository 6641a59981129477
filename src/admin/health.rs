//! Is it there, does it want requests, and what does it count.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use std::sync::Arc;

use super::Admin;

pub(super) async fn healthz() -> impl IntoResponse {
    json(
        StatusCode::OK,
        format!(
            "{{\"status\":\"ok\",\"version\":\"{}\"}}\n",
            env!("CARGO_PKG_VERSION")
        ),
    )
}

pub(super) async fn readyz(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    if admin.drain.has_begun() {
        return json(
            StatusCode::SERVICE_UNAVAILABLE,
            "{\"status\":\"draining\"}\n".to_owned(),
        );
    }
    json(StatusCode::OK, "{\"status\":\"ready\"}\n".to_owned())
}

pub(super) async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        admin.metrics.encode(),
    )
}

fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}
