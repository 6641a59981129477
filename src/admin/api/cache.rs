//! The cache as a whole: counted, pruned, verified.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::images::Freed;
use super::{Admin, Body, Problem};
use crate::cache::catalog::Checked;

/// The cache in numbers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Stats {
    objects: u64,
    blobs: u64,
    manifests: u64,
    /// On disk, with downloads under way and the index.
    bytes: u64,
    max_bytes: u64,
    tags: u64,
    repositories: u64,
    pinned: u64,
    /// Seconds since the epoch when the object that would go first was last used.
    oldest_use: Option<u64>,
}

/// What to take out.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Prune {
    /// What was not used for so long (`30d`, `12h`) goes.
    unused_for: String,
}

/// The last look at every object, or the one under way.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Verification {
    running: bool,
    /// Objects looked at so far, and all of them.
    done: u64,
    of: u64,
    bytes: u64,
    /// Their bytes were not what their names say; they are gone, and fetched anew when asked for.
    damaged: Vec<String>,
    /// The index knew them, and the disk did not.
    missing: u64,
    /// They could not be read.
    unreadable: u64,
    /// Seconds since the epoch; null as long as it runs, and before the first.
    ended: Option<u64>,
}

/// Where the verification that this process runs stands.
#[derive(Debug, Default)]
pub struct Verifying(Mutex<Verification>);

/// The cache in numbers.
#[utoipa::path(get, path = "/cache", tag = "cache",
    responses((status = 200, body = Stats), (status = 500, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn stats(State(admin): State<Arc<Admin>>) -> Result<Json<Stats>, Problem> {
    let stats = admin.cache.stats().await;
    admin.has_read_the_index()?;
    Ok(Json(Stats {
        objects: stats.objects,
        blobs: stats.blobs,
        manifests: stats.manifests,
        bytes: stats.bytes,
        max_bytes: stats.max_bytes,
        tags: stats.tags,
        repositories: stats.repositories,
        pinned: stats.pinned,
        oldest_use: stats.oldest_use,
    }))
}

/// Takes out what was not used for a while, but for what is pinned.
#[utoipa::path(post, path = "/cache/prune", tag = "cache", request_body = Prune,
    responses((status = 200, body = Freed), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 403, body = Problem, content_type = "application/problem+json"), (status = 415, body = Problem, content_type = "application/problem+json"), (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn prune(
    State(admin): State<Arc<Admin>>,
    Body(prune): Body<Prune>,
) -> Result<Json<Freed>, Problem> {
    let unused_for: Duration = humantime::parse_duration(&prune.unused_for)
        .map_err(|e| Problem::bad(format!("unused_for: {e}; say for example \"30d\"")))?;
    let removed = admin.cache.prune(unused_for).await;
    Ok(Json(removed.map_err(Problem::failed)?.into()))
}

/// How the last verification went, or how far the one under way is.
#[utoipa::path(get, path = "/cache/verification", tag = "cache", responses((status = 200, body = Verification)))]
pub(super) async fn verification(State(admin): State<Arc<Admin>>) -> Json<Verification> {
    Json(admin.verifying.now().clone())
}

/// Hashes every object anew, in the background; what is damaged is removed.
#[utoipa::path(post, path = "/cache/verification", tag = "cache",
    responses((status = 202, body = Verification), (status = 403, body = Problem, content_type = "application/problem+json"), (status = 409, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn verify(
    State(admin): State<Arc<Admin>>,
) -> Result<(StatusCode, Json<Verification>), Problem> {
    let begun = {
        let mut now = admin.verifying.now();
        if now.running {
            let why = "a verification is under way already";
            return Err(Problem::new(StatusCode::CONFLICT, why));
        }
        *now = Verification {
            running: true,
            ..Verification::default()
        };
        now.clone()
    };
    let task = admin.clone();
    tokio::spawn(async move {
        let noting = task.clone();
        let verified = task
            .cache
            .verify(move |checked| noting.verifying.note(checked))
            .await;
        let mut now = task.verifying.now();
        now.running = false;
        now.missing = verified.missing;
        now.unreadable = verified.unreadable;
        now.ended = Some(super::super::now());
    });
    Ok((StatusCode::ACCEPTED, Json(begun)))
}

// === impl Verifying ===

impl Verifying {
    fn note(&self, checked: &Checked) {
        let mut now = self.now();
        now.done = checked.done;
        now.of = checked.of;
        now.bytes += checked.size;
        if checked.damaged {
            now.damaged.push(checked.digest.to_string());
        }
    }

    fn now(&self) -> std::sync::MutexGuard<'_, Verification> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
