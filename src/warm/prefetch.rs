//! `[[prefetch]]`: images that are refreshed before anybody asks.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::{Options, Platforms, Warm};
use crate::cache::index::now_seconds;
use crate::oci::name::ImageName;

/// One `[[prefetch]]` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefetchConfig {
    pub images: Vec<ImageName>,
    pub platforms: Platforms,
    /// Never zero.
    pub interval: Duration,
}

// === impl Warm ===

impl Warm {
    /// Pulls the entry's images now and after every interval. `number` is the entry's, from one. Never
    /// ends.
    pub async fn keep_warm(self: Arc<Self>, number: usize, entry: PrefetchConfig) {
        let options = Options {
            platforms: entry.platforms,
            refresh: true,
            ..Options::default()
        };
        // What was said last of each image, so that a change is told once.
        let mut said: Vec<Option<String>> = vec![None; entry.images.len()];
        loop {
            let mut all_well = true;
            for (image, said) in entry.images.iter().zip(&mut said) {
                let now = match self.pull(image, &options, |_| {}).await {
                    Ok(pulled) => {
                        let now = pulled.digest.to_string();
                        if said.as_ref() != Some(&now) {
                            info!(%image, digest = now, fetched = pulled.fetched, "prefetched");
                        }
                        now
                    }
                    Err(e) => {
                        all_well = false;
                        self.metrics.prefetch_failed(number);
                        let now = e.to_string();
                        if said.as_ref() != Some(&now) {
                            warn!(%image, error = now, "an image of [[prefetch]] could not be pulled");
                        }
                        now
                    }
                };
                *said = Some(now);
            }
            if all_well {
                self.metrics.prefetched(number, now_seconds());
            }
            tokio::time::sleep(jittered(entry.interval)).await;
        }
    }
}

/// A little less than the interval, and differently each time: gateways that were started together
/// must not ask together for ever.
fn jittered(interval: Duration) -> Duration {
    let mut random = [0];
    // Without randomness the interval itself is as good.
    let _ = getrandom::fill(&mut random);
    interval - interval.mul_f64(JITTER * f64::from(random[0]) / 256.0)
}

const JITTER: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jitter_takes_a_tenth_at_most() {
        let hour = Duration::from_secs(3600);
        for _ in 0..100 {
            let wait = jittered(hour);
            assert!(wait <= hour && wait > hour.mul_f64(0.89), "{wait:?}");
        }
    }
}
