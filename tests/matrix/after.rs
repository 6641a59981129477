//! What is left when everything has ended: only what is right, and accounted for.

use std::{os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use crate::support::{Gateway, client, content};

/// What the gateway had open when it had served nobody.
pub struct Before {
    tasks: f64,
    files: f64,
}

// === impl Before ===

impl Before {
    pub async fn of(gateway: &Gateway) -> Self {
        let metrics = gateway.metrics().await;
        Self {
            tasks: value(&metrics, "pierhead_runtime_tasks"),
            files: value(&metrics, "process_open_fds"),
        }
    }
}

/// No download, connection, task or file is left; every file is what its name says; and the ledger
/// is exact.
pub async fn nothing_is_left(gateway: &Gateway, before: &Before) {
    let mut last = String::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..300 {
        ticks.tick().await;
        last = left(gateway, before).await;
        if last.is_empty() {
            break;
        }
    }
    assert!(last.is_empty(), "left behind: {last}");
    let (mut files, mut objects) = (0_u64, 0);
    let mut partial = 0;
    for (path, len) in gateway.cache_files() {
        let folder = |name: &str| path.starts_with(gateway.cache_dir().join(name));
        if folder("blobs") || folder("manifests") {
            files += 1;
            objects += on_disk(len);
            assert_right(&path);
        } else if folder("partial") {
            let name = path.to_string_lossy();
            assert!(!name.ends_with(".done"), "a mark is left: {name}");
            partial += on_disk(len);
        }
    }
    eprintln!("{objects} bytes of objects, {partial} of broken downloads");
    let reply = client::plain(gateway.admin, "/api/v1/status").await;
    let status: serde_json::Value = serde_json::from_str(&reply.text().await).expect("JSON");
    let used = status["cache_used"].as_u64().expect("a number");
    // The index is counted as of its last commit, by the blocks that it takes.
    let index = std::fs::metadata(gateway.cache_dir().join("index.redb")).expect("an index");
    let least = objects + partial + SMALL_FILES;
    // A file in many pieces takes a block for the list of them, too.
    let most = least + on_disk(index.len()).max(index.blocks() * 512);
    assert!(
        (least..=most).contains(&used),
        "the ledger drifted: {used} is not within {least} and {most}"
    );
    let reply = client::plain(gateway.admin, "/api/v1/cache").await;
    let cache: serde_json::Value = serde_json::from_str(&reply.text().await).expect("JSON");
    assert_eq!(
        cache["objects"].as_u64(),
        Some(files),
        "objects that are known"
    );
}

async fn left(gateway: &Gateway, before: &Before) -> String {
    let metrics = gateway.metrics().await;
    let mut left = String::new();
    for (name, most) in [
        ("pierhead_downloads_active", 0.0),
        ("pierhead_followers", 0.0),
        ("pierhead_connections", 0.0),
        ("pierhead_tunnels", 0.0),
        // The pool of connections to upstreams has one task of its own once it was used.
        ("pierhead_runtime_tasks", before.tasks + 2.0),
        ("process_open_fds", before.files + 1.0),
    ] {
        let now = value(&metrics, name);
        if now > most {
            left.push_str(&format!("{name} {now}, not {most}; "));
        }
    }
    left
}

fn value(metrics: &str, name: &str) -> f64 {
    let mut lines = metrics.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("no {name} in:\n{metrics}"));
    value.parse().expect("a number")
}

fn assert_right(path: &Path) {
    let name = path
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let folder = path.parent().and_then(Path::parent).expect("an algorithm");
    let algorithm = folder
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    let bytes = std::fs::read(path).expect("it is there");
    let digest = format!("{algorithm}:{name}");
    assert_eq!(content::digest_like(&digest, &bytes), digest, "{path:?}");
}

/// Bytes that are counted for the few files beside the index.
const SMALL_FILES: u64 = 8192;

fn on_disk(len: u64) -> u64 {
    len.div_ceil(4096) * 4096
}
