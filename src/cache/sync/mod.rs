//! What the tasks of a download lock, watch and start threads with: the system's, or, in tests with the
//! feature `model`, that of a checker which tries in what orders the tasks may run.

#[cfg(all(test, feature = "model"))]
mod model;
#[cfg(all(test, feature = "model"))]
pub(super) use model::*;

#[cfg(not(all(test, feature = "model")))]
pub(super) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicUsize, Ordering},
};
#[cfg(not(all(test, feature = "model")))]
pub(super) use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle, spawn_blocking, yield_now},
    time::{Sleep, sleep},
};

/// Whether orders are tried: what is usually many is few then, so that there are fewer of them.
pub(super) const MODEL: bool = cfg!(all(test, feature = "model"));
