//! Is it there, does it want requests, and what does it count.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};

use std::sync::Arc;

use super::Admin;
use crate::telemetry::build;

pub(super) async fn healthz() -> impl IntoResponse {
    json(StatusCode::OK, build::health())
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

/// OpenMetrics, unless the text format that was before it is asked for and OpenMetrics is not.
pub(super) async fn metrics(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let accepts = |media: &str| {
        let mut lines = headers.get_all(header::ACCEPT).iter();
        lines.any(|line| line.to_str().is_ok_and(|line| line.contains(media)))
    };
    let (kind, text) = match accepts("text/plain") && !accepts("application/openmetrics-text") {
        true => (CLASSIC, admin.metrics.encode_classic()),
        false => (OPENMETRICS, admin.metrics.encode()),
    };
    ([(header::CONTENT_TYPE, kind)], text)
}

fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
