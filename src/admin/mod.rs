//! The separate listener of those who run the gateway: health, metrics, the JSON API, the page.

mod api;
mod door;
mod health;
mod page;
pub mod steering;
pub mod token;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, Uri};
use axum::routing::get;
use axum::{Extension, Json, Router, middleware};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower_service::Service;

use self::api::Problem;
use self::api::cache::Verifying;
use self::door::Peer;
use self::steering::Steering;
use self::token::Token;
use crate::cache::Cache;
use crate::telemetry::metrics::Metrics;
use crate::upstream::Upstream;
use crate::users::Users;
use crate::warm::Warm;
use crate::wire::drain::Drain;
use crate::wire::idle::Idle;
use crate::wire::pace::{Paced, Patience};
use crate::wire::shares::Shares;

/// What the listener shows and steers.
pub struct Admin {
    pub cache: Arc<Cache>,
    pub warm: Arc<Warm>,
    pub upstream: Arc<Upstream>,
    pub metrics: Arc<Metrics>,
    pub steering: Arc<dyn Steering>,
    /// `admin.users_file`.
    pub users: Arc<ArcSwap<Users>>,
    pub token: Token,
    pub drain: Drain,
    /// Seconds since the epoch.
    pub started: u64,
    verifying: Verifying,
}

/// What an [`Admin`] is made of.
pub struct Parts {
    pub cache: Arc<Cache>,
    pub warm: Arc<Warm>,
    pub upstream: Arc<Upstream>,
    pub metrics: Arc<Metrics>,
    pub steering: Arc<dyn Steering>,
    pub users: Arc<ArcSwap<Users>>,
    pub token: Token,
    pub drain: Drain,
}

// === impl Admin ===

impl Admin {
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            cache: parts.cache,
            warm: parts.warm,
            upstream: parts.upstream,
            metrics: parts.metrics,
            steering: parts.steering,
            users: parts.users,
            token: parts.token,
            drain: parts.drain,
            started: now(),
            verifying: Verifying::default(),
        })
    }

    /// A connection from within this process, which may change things.
    pub fn connect(self: &Arc<Self>, patience: Patience) -> DuplexStream {
        let (near, far) = tokio::io::duplex(IN_PROCESS);
        let own = SocketAddr::from(([127, 0, 0, 1], 0));
        let router = self.router().layer(Extension(Peer(own)));
        let ending = self.drain.clone();
        self.drain.spawn(answer(far, router, ending, patience));
        near
    }

    /// Everything the listener answers.
    fn router(self: &Arc<Self>) -> Router {
        let (api, document) = api::routes();
        let described = Json(document);
        let guarded = api
            .route(
                "/api/v1/openapi.json",
                get(move || async move { described.clone() }),
            )
            .merge(page::routes())
            .fallback(nothing_there)
            // A file of images is as large as it is; every other body is small.
            .layer(DefaultBodyLimit::max(LARGEST_BODY))
            .layer(middleware::from_fn_with_state(self.clone(), door::guard));
        watched()
            .merge(page::assets())
            .merge(guarded)
            .with_state(self.clone())
    }

    /// What it answers while the gateway drains.
    fn last_router(self: &Arc<Self>) -> Router {
        let ending = || async {
            let why = "the gateway is ending; it answers /healthz, /readyz and /metrics until then";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)
        };
        watched().fallback(ending).with_state(self.clone())
    }
}

async fn nothing_there(uri: Uri) -> Problem {
    Problem::not_found(format!(
        "there is no {}; the page is at / and /api/v1/openapi.json describes the API",
        uri.path()
    ))
}

/// What asks for nothing but how it goes.
fn watched() -> Router<Arc<Admin>> {
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
}

/// Serves until the drain begins, and those who watch until the process ends: a drain has metrics, too. Where
/// the socket was `passed`, who comes then is the next process's.
pub async fn serve(
    listener: TcpListener,
    passed: bool,
    admin: Arc<Admin>,
    patience: Arc<ArcSwap<Patience>>,
) {
    let (router, last) = (admin.router(), admin.last_router());
    let drain = admin.drain.clone();
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let places_of = Shares::new(MOST_OF_ONE);
    loop {
        let accepted = tokio::select! {
            () = drain.begun(), if passed => return,
            accepted = listener.accept() => accepted,
        };
        // Without a place, or a descriptor, it closes: whoever asks will ask again.
        let (Ok((socket, from)), Ok(place)) = (accepted, places.clone().try_acquire_owned()) else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let Some(share) = places_of.take(from.ip()) else {
            continue;
        };
        let (drain, patience) = (drain.clone(), **patience.load());
        let serving = |router, ending| async move {
            answer(socket, router, ending, patience).await;
            drop((place, share));
        };
        match drain.has_begun() {
            false => {
                let router = router.clone().layer(Extension(Peer(from)));
                drain.spawn(serving(router, drain.clone()));
            }
            // The process waits for none of these.
            true => drop(tokio::spawn(serving(last.clone(), Drain::default()))),
        }
    }
}

/// Answers the requests of one connection.
async fn answer<S>(socket: S, router: Router, ending: Drain, patience: Patience)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = Paced::new(socket, patience);
    let pace = socket.pace().clone();
    // A transfer of images, or of events, takes as long as it takes.
    let service = service_fn(move |request: http::Request<Incoming>| {
        // Who vanishes in the middle of what it brings gives back what that holds. Who makes it on the
        // way, as `docker save` does, may be silent for long.
        let silence = patience.idle.max(SILENCE);
        let request = request.map(|body| Idle::new(body, silence, "the client"));
        let (busy, answer) = (pace.busy(), Service::call(&mut router.clone(), request));
        async move {
            let answer = answer.await?;
            Ok::<_, Infallible>(answer.map(|body| {
                body.map_frame(move |frame| {
                    // Until the last byte has gone.
                    let _ = &busy;
                    frame
                })
            }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.idle)
        .serve_connection(TokioIo::new(socket), service);
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
}

/// Seconds since the epoch.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

const MOST_CONNECTIONS: usize = 256;
/// Of these, one client's: a monitor that leaks connections keeps nobody else out.
const MOST_OF_ONE: usize = 64;
/// Bytes on their way between the two ends.
const IN_PROCESS: usize = 256 << 10;
const BREATH: Duration = Duration::from_millis(10);
/// Of a body.
const SILENCE: Duration = Duration::from_secs(3600);
const LARGEST_BODY: usize = 1 << 20;
