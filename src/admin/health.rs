//! Is it there, does it want requests, and what does it count.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Shared;
use crate::telemetry::build;

pub(super) async fn healthz() -> impl IntoResponse {
    json(StatusCode::OK, build::health())
}

pub(super) async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    if shared.drain.has_begun() {
        return json(
            StatusCode::SERVICE_UNAVAILABLE,
            "{\"status\":\"draining\"}\n".to_owned(),
        );
    }
    json(StatusCode::OK, "{\"status\":\"ready\"}\n".to_owned())
}

pub(super) async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        shared.metrics.encode(),
    )
}

fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}
