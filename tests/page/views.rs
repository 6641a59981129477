//! Every view: what it says, how it looks, and for whom it can be used.

use serde_json::json;

use crate::browser;
use crate::gallery::Gallery;
use crate::support::{Blob, Fault, Gate, Gateway, On, Reply, client};

/// A download that stands until the gate opens, with somebody who follows it.
async fn downloading(gallery: &Gallery, gateway: &Gateway, gate: &Gate) -> (Blob, [Reply; 2]) {
    let blob: Blob = gallery.app.repo.blob(9, 8 << 20);
    let stall = Fault::StallAt(5 << 20, gate.clone());
    gallery.up.fault(On::get(&blob.digest), stall);
    let url = gallery.app.repo.blob_url(&blob.digest);
    let first = gateway.client().get(&url).send().await;
    gate.arrived(1).await;
    let second = gateway.client().get(&url).send().await;
    (blob, [first, second])
}

async fn finished(blob: &Blob, readers: [Reply; 2]) {
    for reader in readers {
        reader.verified(&blob.digest).await;
    }
}

#[tokio::test]
async fn every_view_can_be_read_by_day_by_night_on_a_phone_and_without_scripts() {
    let gallery = Gallery::open().await;
    let gateway = gallery.used().await;
    let gate = Gate::new();
    let (blob, readers) = downloading(&gallery, &gateway, &gate).await;
    let status = client::plain(gateway.admin, "/api/v1/status").await;
    let status: serde_json::Value = serde_json::from_str(&status.text().await).unwrap();
    let facts = json!({
        "image": "docker.io/library/nginx:1.27-alpine",
        "platform": format!("docker.io/library/nginx@{}", gallery.nginx.image.digest),
        "base": gallery.alpine.layers[0].digest,
        "fingerprint": status["ca_fingerprint"],
    });
    browser::run("views.js", &gateway, facts).await;
    gate.open();
    finished(&blob, readers).await;
}

#[tokio::test]
async fn images_are_found_as_one_types_with_a_keyboard_alone() {
    let gallery = Gallery::open().await;
    let gateway = gallery.used().await;
    browser::run("search.js", &gateway, json!({})).await;
}

#[tokio::test]
async fn what_goes_on_is_shown_as_it_goes_on() {
    let gallery = Gallery::open().await;
    gallery.up.page("bell.test", "/ring", "text/plain", b"");
    let gateway = gallery.used().await;
    let gate = Gate::new();
    let (blob, readers) = downloading(&gallery, &gateway, &gate).await;
    let facts = json!({ "bell": gallery.up.addr().to_string() });
    let goes_on = async {
        let rung = |seen: &[_]| {
            seen.iter()
                .any(|one: &crate::support::upstream::Seen| one.path == "/ring")
        };
        gallery.up.until(rung).await;
        gate.open();
        finished(&blob, readers).await;
        gateway.client().try_connect("again.example.com:443").await;
    };
    tokio::join!(browser::run("live.js", &gateway, facts), goes_on);
}
