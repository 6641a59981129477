//! Pulls that were asked for here: started, followed.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Admin, Body, Problem};
use crate::oci::manifest;
use crate::oci::name::ImageName;
use crate::warm::{Job, JobId, JobState, Options, Platforms};

/// What to pull.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// As in `docker pull`.
    pub image: String,
    /// `linux/amd64`, `linux/arm64/v8`, …; none: all.
    #[serde(default)]
    pub platforms: Vec<String>,
    /// Ask upstream for the tag whatever `tag_ttl` says.
    #[serde(default)]
    pub refresh: bool,
    /// Signatures and bills of material too (OCI referrers).
    #[serde(default)]
    pub referrers: bool,
}

/// One pull, now.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pull {
    id: u64,
    image: String,
    state: PullState,
    /// Why it failed.
    error: Option<String>,
    /// What the image is, once it is known to the end.
    digest: Option<String>,
    manifests: usize,
    blobs: usize,
    blobs_done: usize,
    /// Bytes of all blobs known so far, and those of them that are here.
    bytes: u64,
    bytes_done: u64,
    /// Bytes that were not here before; known at the end.
    fetched: Option<u64>,
    /// What is on its way.
    active: Vec<Active>,
    /// Seconds since the epoch.
    started: u64,
    ended: Option<u64>,
}

/// A blob on its way.
#[derive(Debug, Serialize, ToSchema)]
pub struct Active {
    digest: String,
    bytes: u64,
    done: u64,
}

/// Where a pull is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PullState {
    Waiting,
    Running,
    Done,
    Failed,
}

/// The recent pulls, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pulls {
    pulls: Vec<Pull>,
}

/// The recent pulls that were asked for here, the newest first.
#[utoipa::path(get, path = "/pulls", tag = "pulls", responses((status = 200, body = Pulls)))]
pub(super) async fn pulls(State(admin): State<Arc<Admin>>) -> Json<Pulls> {
    let jobs = admin.warm.jobs();
    Json(Pulls {
        pulls: jobs.into_iter().map(Pull::from).collect(),
    })
}

/// Pulls an image into the cache, or makes sure it is there.
#[utoipa::path(post, path = "/pulls", tag = "pulls", request_body = Wanted,
    responses((status = 202, body = Pull), (status = 400, body = Problem, content_type = "application/problem+json"), (status = 403, body = Problem, content_type = "application/problem+json"), (status = 415, body = Problem, content_type = "application/problem+json"), (status = 422, body = Problem, content_type = "application/problem+json"), (status = 429, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn start(
    State(admin): State<Arc<Admin>>,
    Body(wanted): Body<Wanted>,
) -> Result<(StatusCode, Json<Pull>), Problem> {
    let job = admin.start_pull(&wanted)?;
    Ok((StatusCode::ACCEPTED, Json(job.into())))
}

/// One pull.
#[utoipa::path(get, path = "/pulls/{id}", tag = "pulls", params(("id" = u64, Path, description = "as answered when it was started")),
    responses((status = 200, body = Pull), (status = 400, body = String, content_type = "text/plain"), (status = 404, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn pull(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<u64>,
) -> Result<Json<Pull>, Problem> {
    let job = admin.warm.job(JobId(id));
    let job = job.ok_or_else(|| Problem::not_found(format!("there is no pull {id} any more")))?;
    Ok(Json(job.into()))
}

// === impl Admin ===

impl Admin {
    pub(in crate::admin) fn start_pull(&self, wanted: &Wanted) -> Result<Job, Problem> {
        let image: ImageName = wanted.image.parse().map_err(Problem::bad)?;
        self.warm.image_id(&image).map_err(Problem::bad)?;
        let options = Options {
            platforms: platforms(&wanted.platforms)?,
            refresh: wanted.refresh,
            referrers: wanted.referrers,
            credentials: None,
        };
        let id = self
            .warm
            .start(image, options)
            .map_err(|busy| Problem::new(StatusCode::TOO_MANY_REQUESTS, busy.to_string()))?;
        self.warm
            .job(id)
            .ok_or_else(|| Problem::failed("the pull is gone already"))
    }
}

/// Platforms as they are written; none: all.
pub(in crate::admin) fn platforms(written: &[String]) -> Result<Platforms, Problem> {
    if written.is_empty() {
        return Ok(Platforms::All);
    }
    let parsed: Result<Vec<manifest::Platform>, _> =
        written.iter().map(|text| text.parse()).collect();
    Ok(Platforms::Only(parsed.map_err(Problem::bad)?))
}

impl From<Job> for Pull {
    fn from(job: Job) -> Self {
        let (state, error, pulled) = match job.state {
            JobState::Waiting => (PullState::Waiting, None, None),
            JobState::Running => (PullState::Running, None, None),
            JobState::Done(pulled) => (PullState::Done, None, Some(pulled)),
            JobState::Failed(error) => (PullState::Failed, Some(error.to_string()), None),
        };
        let active = job.progress.active.into_iter();
        Self {
            id: job.id.0,
            image: job.image.to_string(),
            state,
            error,
            digest: pulled.as_ref().map(|pulled| pulled.digest.to_string()),
            manifests: job.progress.manifests,
            blobs: job.progress.blobs,
            blobs_done: job.progress.blobs_done,
            bytes: job.progress.total,
            bytes_done: job.progress.done,
            fetched: pulled.map(|pulled| pulled.fetched),
            active: active
                .map(|(digest, (done, bytes))| Active {
                    digest: digest.to_string(),
                    bytes,
                    done,
                })
                .collect(),
            started: job.asked,
            ended: job.ended,
        }
    }
}
