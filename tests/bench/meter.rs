//! What the peer under measurement uses, read from `/proc`.
//!
//! One peer runs at a time, and it is all that this process has started: its processes are this
//! process's descendants, however many a peer has.

use std::{collections::HashMap, fs, path::Path, time::Duration};

/// The processes of the peer that runs now.
#[derive(Debug)]
pub struct Meter {
    processes: Vec<u32>,
}

/// `USER_HZ`, the unit of `/proc/PID/stat`: the same on every machine that Rust's Linux runs on.
const TICKS_PER_SECOND: u64 = 100;
/// A peer that uses no tick for so long has finished what it was asked.
const QUIET: Duration = Duration::from_millis(150);

// === impl Meter ===

impl Meter {
    /// Finds the peer, which must have been started.
    pub fn attach() -> Self {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in fs::read_dir("/proc").expect("Linux").flatten() {
            let pid = entry.file_name().to_string_lossy().parse().ok();
            if let Some(pid) = pid
                && let Some(stat) = stat(pid)
            {
                children.entry(stat.parent).or_default().push(pid);
            }
        }
        let mut processes = Vec::new();
        let mut parents = vec![std::process::id()];
        while let Some(parent) = parents.pop() {
            let found = children.remove(&parent).unwrap_or_default();
            parents.extend(&found);
            processes.extend(found);
        }
        assert!(!processes.is_empty(), "no peer runs");
        Self { processes }
    }

    /// CPU time so far, of all threads, in user and kernel mode, to 10 ms.
    pub fn cpu(&self) -> Duration {
        let all = self.processes.iter().filter_map(|pid| stat(*pid));
        let ticks: u64 = all.map(|stat| stat.ticks).sum();
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    }

    /// The same, once the peer has come to rest.
    pub async fn settled_cpu(&self) -> Duration {
        let mut before = self.cpu();
        // Thirty seconds at most: one that never rests is measured as it is.
        for _ in 0..200 {
            tokio::time::sleep(QUIET).await;
            let now = self.cpu();
            if now == before {
                break;
            }
            before = now;
        }
        before
    }

    /// Memory in use, in KiB.
    pub fn rss(&self) -> u64 {
        self.sum("VmRSS:")
    }

    /// The most memory that was ever in use, in MiB.
    pub fn peak_rss_mib(&self) -> f64 {
        self.sum("VmHWM:") as f64 / 1024.0
    }

    /// A field of `/proc/PID/status` in KiB, over all processes.
    fn sum(&self, field: &str) -> u64 {
        let one = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix(field))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.processes.iter().filter_map(one).sum()
    }
}

struct Stat {
    parent: u32,
    ticks: u64,
}

/// `None` when there is no such process any more.
fn stat(pid: u32) -> Option<Stat> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The name may hold anything, parentheses too; the state is the first field behind it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        ticks: number(11)? + number(12)?,
    })
}
