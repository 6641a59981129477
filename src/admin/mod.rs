//! The separate listener of those who run the gateway: health and metrics.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::telemetry::metrics::Metrics;
use crate::wire::drain::Drain;

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    drain: Drain,
}

/// Serves until the drain begins.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, drain: Drain) {
    let shared = Shared {
        metrics,
        drain: drain.clone(),
    };
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .with_state(shared);
    let ending = async move { drain.begun().await };
    if let Err(e) = axum::serve(listener, router)
        .with_graceful_shutdown(ending)
        .await
    {
        tracing::error!(error = %e, "the admin listener ended");
    }
}

async fn healthz() -> impl IntoResponse {
    json(
        StatusCode::OK,
        format!(
            "{{\"status\":\"ok\",\"version\":\"{}\"}}\n",
            env!("CARGO_PKG_VERSION")
        ),
    )
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    if shared.drain.has_begun() {
        return json(
            StatusCode::SERVICE_UNAVAILABLE,
            "{\"status\":\"draining\"}\n".to_owned(),
        );
    }
    json(StatusCode::OK, "{\"status\":\"ready\"}\n".to_owned())
}

async fn metrics_text(State(shared): State<Shared>) -> impl IntoResponse {
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
