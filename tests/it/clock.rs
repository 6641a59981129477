//! A clock that jumps under a running gateway, by years and in both directions.
//!
//! Who asks here does not look at certificates where the gateway's clock is wrong: its leaves are as wrong
//! as its clock, and a client with the right time may well refuse them.

use crate::support::shim::Shim;
use crate::support::{Gateway, Image, Upstream, client, within};

async fn set_up(seed: u64) -> (Upstream, Image, Shim, Gateway) {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let image = repo.image("latest", seed, &[10, 300_000]);
    let shim = Shim::compile();
    let setup = Gateway::before(&up).text("cache", "tag_ttl", "1h");
    let gateway = shim.beneath(setup).start().await;
    (up, image, shim, gateway)
}

fn assert_calm(gateway: &Gateway) {
    assert_eq!(gateway.log.all("panicked"), Vec::<String>::new());
}

#[tokio::test]
async fn a_tag_is_asked_for_anew_whichever_way_the_clock_jumped() {
    let (up, image, shim, gateway) = set_up(1).await;
    gateway.client().pull(&image).await;
    let blobs = up.blob_gets();
    let mut asked = up.manifest_heads() + up.manifest_gets();
    let anybody = gateway.client().blind();
    for days in [400, -1000, 0, 800] {
        shim.set_clock(days);
        anybody.pull(&image).await;
        let now = up.manifest_heads() + up.manifest_gets();
        assert!(now > asked, "not asked for after a jump to {days} days");
        asked = now;
        // And then it is fresh.
        anybody.pull(&image).await;
        assert_eq!(up.manifest_heads() + up.manifest_gets(), asked, "{days}");
    }
    assert_eq!(up.blob_gets(), blobs, "content by digest has no age");
    // Leaves of a wrong time are not kept for the right one.
    shim.set_clock(0);
    gateway.client().pull(&image).await;
    assert_calm(&gateway);
}

#[tokio::test]
async fn with_upstream_away_what_was_confirmed_in_the_future_is_served() {
    let (up, image, shim, gateway) = set_up(2).await;
    gateway.client().pull(&image).await;
    // As a machine without a battery starts, before anybody has told it the time.
    shim.set_clock(-15_000);
    up.stop().await;
    gateway.client().blind().pull(&image).await;
    let gateway = gateway.restart().await;
    gateway.client().blind().pull(&image).await;
    shim.set_clock(0);
    gateway.client().pull(&image).await;
    assert_calm(&gateway);
}

#[tokio::test]
async fn no_time_is_too_odd_to_live_in() {
    let (_up, image, shim, mut gateway) = set_up(3).await;
    gateway.client().pull(&image).await;
    // As long ago as the kernel lets a clock be set, and when the CA has ended long since.
    for days in [-20_700, 73_000] {
        shim.set_clock(days);
        let anybody = gateway.client().blind();
        // Whether there is a certificate is another matter.
        let _ = anybody.try_connect("registry.test:443").await;
        let health = client::plain(gateway.proxy, "/healthz").await;
        assert_eq!(health.status, 200, "{days}");
        let page = client::plain(gateway.admin, "/api/v1/live").await;
        assert_eq!(page.status, 200, "{days}");
        gateway.metrics().await;
        gateway.hangup().await;
        assert_calm(&gateway);
    }
    shim.set_clock(-20_700);
    gateway = gateway.restart().await;
    shim.set_clock(0);
    within(60, gateway.client().pull(&image)).await;
    assert_calm(&gateway);
}
