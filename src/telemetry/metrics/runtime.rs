//! What the runtime is doing.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::runtime::Handle;

/// The tokio runtime that the scrape is answered in.
#[derive(Debug)]
pub(super) struct Runtime;

// === impl Runtime ===

impl Collector for Runtime {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Ok(runtime) = Handle::try_current() else {
            return Ok(());
        };
        let metrics = runtime.metrics();
        for (name, help, value) in [
            (
                "runtime_workers",
                "Threads that run tasks",
                metrics.num_workers(),
            ),
            (
                "runtime_tasks",
                "Tasks that have not ended: connections, tunnels, downloads",
                metrics.num_alive_tasks(),
            ),
            (
                "runtime_queued_tasks",
                "Tasks that wait in the queue all threads share",
                metrics.global_queue_depth(),
            ),
        ] {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
