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

/// OpenMetrics for who asks for it, as Prometheus does; the text format that was before it for everybody
/// else: a plain `curl` and `promtool` read that one.
pub(super) async fn metrics(
    State(admin): State<Arc<Admin>>,
    headers: HeaderMap,
) -> impl IntoResponse {
    let mut lines = headers.get_all(header::ACCEPT).iter();
    let asked = lines.any(|line| {
        line.to_str()
            .is_ok_and(|line| line.contains("application/openmetrics-text"))
    });
    let (kind, text) = match asked {
        true => (OPENMETRICS, admin.metrics.encode()),
        false => (CLASSIC, admin.metrics.encode_classic()),
    };
    ([(header::CONTENT_TYPE, kind)], text)
}

fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
