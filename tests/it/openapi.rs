//! The JSON API is what its OpenAPI document says: schemathesis asks for everything in it, rightly and
//! wrongly, and compares the answers.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::support::{Gateway, Upstream, within};

#[tokio::test]
async fn the_api_is_what_its_document_says() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 95, &[1_000]);
    let gateway = Gateway::before(&up).start().await;
    gateway.client().pull(&image).await;
    let home = gateway.home();
    let child =
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/schemathesis"))
            .arg("run")
            .arg(format!("http://{}/api/v1/openapi.json", gateway.admin))
            .args(["--checks", "all", "--max-examples", "12", "--seed", "1"])
            .args(["--phases", "examples,coverage,fuzzing", "--no-color"])
            // What an image's name is, or a digest, no schema says: what is none is refused.
            .args(["--exclude-checks", "positive_data_acceptance"])
            // It never ends.
            .args(["--exclude-path", "/api/v1/events"])
            // It takes a tar, which schemathesis cannot write; other tests send real ones.
            .args(["--exclude-path", "/api/v1/import"])
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("schemathesis, of scripts/test");
    let output = within(110, child.wait_with_output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
}
