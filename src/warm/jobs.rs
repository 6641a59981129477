//! Pulls that were asked for, and what became of them.
use super::{Event, Options, Progress, PullError, Pulled, Warm};
use crate::oci::name::ImageName;
use std::sync::Arc;

/// Names a job of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

/// A pull, now.
#[derive(Clone, Debug)]
pub struct Job {
    pub id: JobId,
    pub image: ImageName,
    pub state: JobState,
    pub progress: Progress,
    /// Seconds since the epoch.
    pub started: u64,
    pub ended: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
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
#[derive(Debug, Default)]
pub(super) struct Jobs {}

impl Warm {
    /// Pulls in a task of its own.
    pub fn start(self: &Arc<Self>, image: ImageName, options: Options) -> Result<JobId, Busy> {
        let _ = (image, options);
        todo!()
    }
    /// The recent pulls, the newest first.
    pub fn jobs(&self) -> Vec<Job> {
        todo!()
    }
    pub fn job(&self, id: JobId) -> Option<Job> {
        todo!("{id:?}")
    }
}
const _: Option<Event> = None;
