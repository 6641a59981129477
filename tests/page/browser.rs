//! Chromium, driven by a script in `scripts/`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::{Gateway, within};

/// Runs a script to its end with the page of `gateway`; what else it has to know is `facts`.
pub async fn run(script: &str, gateway: &Gateway, facts: Value) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = root.join("target/browser/node_modules");
    assert!(
        packages.is_dir(),
        "there is no {}: scripts/test installs it",
        packages.display()
    );
    let child = Command::new("unshare")
        // Whatever the browser starts is gone when this process is.
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
            "node",
        ])
        .arg(root.join("tests/page/scripts").join(script))
        .env("NODE_PATH", packages)
        .env("PAGE", format!("http://{}", gateway.admin))
        .env("FACTS", facts.to_string())
        .env("SHOTS", shots())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("unshare and node");
    let output = within(110, child.wait_with_output()).await.expect("an end");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{script}: {}\n{said}",
        output.status
    );
}

/// Where screenshots are kept.
fn shots() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/screenshots");
    std::fs::create_dir_all(&dir).expect("a folder");
    dir
}
