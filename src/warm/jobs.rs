//! Pulls that were asked for, and what became of them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::{Options, Progress, PullError, Pulled, Warm};
use crate::cache::index::now_seconds;
use crate::oci::name::ImageName;

/// Names a job of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// A pull, as it stands.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub image: ImageName,
    pub state: JobState,
    pub progress: Progress,
    /// Seconds since the epoch when it was asked for.
    pub asked: u64,
    /// And when it ended.
    pub ended: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Others go first.
    Waiting,
    Running,
    Done(Pulled),
    Failed(PullError),
}

/// Too many pulls wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} pulls are waiting already; ask again when some have ended")]
pub struct Busy(usize);

/// The recent jobs.
#[derive(Debug)]
pub(super) struct Jobs {
    /// The oldest first.
    recent: Mutex<Recent>,
    turns: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Recent {
    jobs: VecDeque<Job>,
    last: u64,
}

// === impl Warm ===

impl Warm {
    /// Pulls in a task of its own, as soon as there is a turn.
    pub fn start(self: &Arc<Self>, image: ImageName, options: Options) -> Result<JobId, Busy> {
        let id = self.jobs.add(image.clone())?;
        let warm = self.clone();
        tokio::spawn(async move {
            // Fails only where the semaphore is closed, which nobody does.
            let _turn = warm.jobs.turns.clone().acquire_owned().await;
            warm.jobs.change(id, |job| job.state = JobState::Running);
            let note = |event| warm.jobs.change(id, |job| job.progress.note(&event));
            let result = warm.pull(&image, &options, note).await;
            match &result {
                Ok(pulled) => {
                    info!(%image, digest = %pulled.digest, fetched = pulled.fetched, "pulled")
                }
                Err(e) => warn!(%image, error = %e, "an image could not be pulled"),
            }
            warm.jobs.change(id, |job| {
                job.ended = Some(now_seconds());
                job.state = match result {
                    Ok(pulled) => JobState::Done(pulled),
                    Err(error) => JobState::Failed(error),
                };
            });
        });
        Ok(id)
    }

    /// The recent pulls, the newest first.
    pub fn jobs(&self) -> Vec<Job> {
        let recent = self.jobs.recent();
        recent.jobs.iter().rev().cloned().collect()
    }

    /// One of them; `None` where it is forgotten already.
    pub fn job(&self, id: JobId) -> Option<Job> {
        let recent = self.jobs.recent();
        recent.jobs.iter().find(|job| job.id == id).cloned()
    }
}

// === impl Jobs ===

impl Default for Jobs {
    fn default() -> Self {
        Self {
            recent: Mutex::default(),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Jobs {
    fn add(&self, image: ImageName) -> Result<JobId, Busy> {
        let mut recent = self.recent();
        if recent.jobs.len() >= MOST {
            // The oldest that has ended is forgotten.
            let ended = recent.jobs.iter().position(|job| job.ended.is_some());
            recent.jobs.remove(ended.ok_or(Busy(MOST))?);
        }
        recent.last += 1;
        let id = JobId(recent.last);
        recent.jobs.push_back(Job {
            id,
            image,
            state: JobState::Waiting,
            progress: Progress::default(),
            asked: now_seconds(),
            ended: None,
        });
        Ok(id)
    }

    fn change(&self, id: JobId, change: impl FnOnce(&mut Job)) {
        let mut recent = self.recent();
        if let Some(job) = recent.jobs.iter_mut().find(|job| job.id == id) {
            change(job);
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const MOST: usize = 100;
/// Pulls at a time.
const AT_ONCE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_has_ended_makes_room_and_what_runs_stays() {
        let jobs = Jobs::default();
        let image: ImageName = "alpine".parse().unwrap();
        let first = jobs.add(image.clone()).unwrap();
        for _ in 1..MOST {
            jobs.add(image.clone()).unwrap();
        }
        assert_eq!(jobs.add(image.clone()), Err(Busy(MOST)));
        jobs.change(JobId(2), |job| job.ended = Some(1));
        let newest = jobs.add(image).unwrap();
        let ids: Vec<JobId> = jobs.recent().jobs.iter().map(|job| job.id).collect();
        assert_eq!(ids.len(), MOST);
        assert!(ids.contains(&first) && ids.contains(&newest) && !ids.contains(&JobId(2)));
    }
}
