//! `[[prefetch]]`.
use super::{Platforms, Warm};
use crate::oci::name::ImageName;
use std::sync::Arc;
use std::time::Duration;

/// One `[[prefetch]]` entry.
#[derive(Clone, Debug)]
pub struct PrefetchConfig {
    pub images: Vec<ImageName>,
    pub platforms: Platforms,
    pub interval: Duration,
}
impl Warm {
    /// Keeps images warm. Never ends.
    pub async fn keep_warm(self: Arc<Self>, entries: Vec<PrefetchConfig>) {
        todo!("{entries:?}")
    }
}
