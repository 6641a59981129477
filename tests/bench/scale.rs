//! How much of each work is done.

use std::time::Duration;

/// Numbers of things, and sizes in bytes.
#[derive(Clone, Debug)]
pub struct Scale {
    pub runs: usize,
    /// The longest that one peer may take for one work.
    pub limit: Duration,
    /// Requests for a manifest, over all connections.
    pub manifests: usize,
    /// The blob that each of [`WARM_CLIENTS`] reads.
    pub warm: usize,
    pub cold: usize,
    /// The blob that [`CROWD`] clients want at once.
    pub crowd: usize,
    /// Blobs whose first byte is waited for, half of them in each of two ways, and their size.
    pub firsts: usize,
    pub first: usize,
    pub connections: usize,
    /// Hosts that were never seen before.
    pub hosts: usize,
    pub tunnel: usize,
    pub idle: usize,
    /// Idle connections of a large site; half as many tunnels.
    pub many: usize,
    /// Each of the twelve layers of the image that is far away.
    pub far: usize,
    /// Clients that want one cold image at once, and the bytes of that.
    pub crowds: usize,
    pub wide: usize,
    /// Objects in caches that grow.
    pub growth: &'static [u64],
}

/// Connections that ask for the manifest.
pub const MANIFEST_CLIENTS: usize = 32;
/// Connections that read the warm blob.
pub const WARM_CLIENTS: usize = 8;
/// Clients that want one cold blob.
pub const CROWD: usize = 32;
/// Clients that open connections, each one after the other.
pub const OPENERS: usize = 4;

const MIB: usize = 1 << 20;

// === impl Scale ===

impl Scale {
    /// What the README's table is made of.
    pub fn full() -> Self {
        Self {
            runs: 3,
            limit: Duration::from_secs(180),
            manifests: 100_000,
            warm: 128 * MIB,
            cold: 512 * MIB,
            crowd: 256 * MIB,
            firsts: 18,
            first: 32 * MIB,
            connections: 4_000,
            hosts: 2_000,
            tunnel: 1024 * MIB,
            idle: 2_000,
            many: 10_000,
            far: 16 * MIB,
            crowds: 200,
            wide: 1024 * MIB,
            growth: &[1_000, 100_000, 1_000_000],
        }
    }

    /// A look that takes seconds: enough to see that all of it works, and the order of magnitude.
    pub fn quick() -> Self {
        Self {
            runs: 1,
            limit: Duration::from_secs(30),
            manifests: 20_000,
            warm: 32 * MIB,
            cold: 128 * MIB,
            crowd: 64 * MIB,
            firsts: 10,
            first: 8 * MIB,
            connections: 1_000,
            hosts: 500,
            tunnel: 512 * MIB,
            idle: 500,
            many: 1_000,
            far: 4 * MIB,
            crowds: 40,
            wide: 64 * MIB,
            growth: &[1_000, 10_000],
        }
    }

    /// For counting instructions: one blob.
    pub fn counts() -> Self {
        Self {
            warm: 64 << 10,
            cold: 64 << 10,
            crowd: 64 << 10,
            firsts: 2,
            first: 64 << 10,
            ..Self::quick()
        }
    }

    /// The most bytes that one blob has.
    pub fn largest(&self) -> usize {
        let all_firsts = self.firsts * self.first;
        self.cold.max(self.warm).max(self.crowd).max(all_firsts)
    }
}

/// `bytes` in GiB.
pub fn gib(bytes: usize) -> f64 {
    bytes as f64 / (1024 * MIB) as f64
}

/// How work and its amount are called: `512 MiB`, `1 GiB`.
pub fn size(bytes: usize) -> String {
    match bytes / MIB {
        mib if mib >= 1024 && mib % 1024 == 0 => format!("{} GiB", mib / 1024),
        mib => format!("{mib} MiB"),
    }
}
