//! What the buttons do.

use hyper::Method;
use serde_json::json;

use crate::browser;
use crate::gallery::Gallery;

#[tokio::test]
async fn every_action_does_what_it_says() {
    let gallery = Gallery::open().await;
    let repo = gallery.up.repo("registry.test", "tools/fresh");
    let fresh = repo.image("1", 77, &[300_000]);
    let gateway = gallery
        .used_as(
            gallery
                .setup()
                .registry("registry.test", "")
                .resolve("registry.test", gallery.up.addr()),
        )
        .await;
    let facts = json!({
        "image": "docker.io/library/nginx:1.27-alpine",
        "config": gateway.config_file(),
    });
    browser::run("actions.js", &gateway, facts).await;
    // The pull was a real one.
    assert_eq!(gallery.up.count(Method::GET, &fresh.layers[0].digest), 1);
}
