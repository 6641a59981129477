//! The separate listener of those who run the gateway: health and metrics.

mod health;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::telemetry::metrics::Metrics;
use crate::wire::drain::Drain;
use crate::wire::pace::{Paced, Patience};

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    drain: Drain,
}

/// Serves until the drain begins.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    patience: Arc<ArcSwap<Patience>>,
    drain: Drain,
) {
    let shared = Shared {
        metrics,
        drain: drain.clone(),
    };
    let router = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .with_state(shared);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = drain.begun() => return,
            accepted = listener.accept() => accepted,
        };
        // Without a place, or a descriptor, it closes: whoever asks will ask again.
        let (Ok((socket, _)), Ok(place)) = (accepted, places.clone().try_acquire_owned()) else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        let ending = drain.clone();
        let patience = **patience.load();
        drain.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(patience.idle)
                .serve_connection(TokioIo::new(Paced::new(socket, patience)), service);
            tokio::pin!(connection);
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = ending.begun() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(e) = result {
                tracing::debug!(error = %e, "an admin connection ended");
            }
            drop(place);
        });
    }
}

const MOST_CONNECTIONS: usize = 256;
const BREATH: Duration = Duration::from_millis(10);
