//! What the kernel says of this process, under the names that every exporter gives it.

use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use rustix::process::{Resource, getrlimit};

/// Reads `/proc/self` at each scrape; what cannot be read is left out.
#[derive(Debug)]
pub(super) struct Process {
    /// Seconds since 1970, with their fraction. Metrics are made when the process has just begun.
    started: f64,
}

// === impl Process ===

impl Process {
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started: now.map_or(0.0, |since| since.as_secs_f64()),
        }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut gauge = |name, help, unit: Option<&Unit>, value: f64| {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, unit, gauge.metric_type())?;
            gauge.encode(metric)
        };
        let seconds = Some(&Unit::Seconds);
        let bytes = Some(&Unit::Bytes);
        gauge(
            "process_start_time",
            "When the process began, in seconds since 1970",
            seconds,
            self.started,
        )?;
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // The listing holds one itself.
            let open = open.count().saturating_sub(1);
            gauge(
                "process_open_fds",
                "File descriptors that are open",
                None,
                open as f64,
            )?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            gauge(
                "process_max_fds",
                "File descriptors that may be open",
                None,
                most as f64,
            )?;
        }
        let page = rustix::param::page_size() as f64;
        let sizes = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let mut pages = sizes.split(' ').map_while(|n| n.parse::<f64>().ok());
        if let (Some(all), Some(resident)) = (pages.next(), pages.next()) {
            gauge(
                "process_virtual_memory",
                "Address space in use",
                bytes,
                all * page,
            )?;
            gauge(
                "process_resident_memory",
                "Memory in use",
                bytes,
                resident * page,
            )?;
        }
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        if let Some(ticks) = processor_ticks(&stat) {
            let spent = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
            let counter = ConstCounter::new(spent);
            let metric = encoder.encode_descriptor(
                "process_cpu",
                "Processor time spent",
                seconds,
                counter.metric_type(),
            )?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

/// User and system time of proc_pid_stat(5). The second field, a name in parentheses, may hold
/// anything; what follows the last parenthesis begins with the third.
fn processor_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 900 0 0 0 12 30 0 0 20 0 1 0 100 9 9";
        assert_eq!(processor_ticks(stat), Some(42));
        assert_eq!(processor_ticks(""), None);
    }
}
