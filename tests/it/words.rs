//! What clients and logs are told when upstream is not well, or not honest.

use std::time::{Duration, Instant};

use crate::support::{Fault, Gate, Gateway, On, Upstream};

#[tokio::test]
async fn an_upstream_that_is_not_well_is_told_of_in_a_registrys_words() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 1, &[9]);
    let gateway = Gateway::before(&up).start().await;
    for (status, kind) in [(503, "text/html"), (429, "text/plain"), (404, "text/html")] {
        let fields = vec![
            ("content-type", kind.to_owned()),
            ("retry-after", "7".to_owned()),
        ];
        let answer = Fault::Status(status, fields, "<h1>Not now</h1>");
        up.fault(On::any("/tags/list"), answer);
        let client = gateway.client();
        let reply = client.get(&image.repo.url("tags/list")).send().await;
        assert_eq!(reply.status, status);
        assert_eq!(reply.header("retry-after"), "7");
        let (_, message) = reply.oci_error().await;
        let said = format!("pierhead: registry.test answered {status}");
        assert!(message.starts_with(&said), "{message}");
    }
}

#[tokio::test]
async fn a_manifest_that_is_another_is_logged_with_both_digests() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 2, &[9]);
    let gateway = Gateway::before(&up).start().await;
    let digest = &image.manifest.digest;
    up.fault(On::get(digest), Fault::Corrupt(3));
    let reply = gateway.client().ask_manifest(&image.repo, digest).await;
    assert_eq!(reply.status, 502);
    let line = gateway.log.line("another manifest").await;
    assert!(line.contains(&format!("\"digest\":\"{digest}\"")), "{line}");
    assert!(line.contains("\"received\":\"sha256:"), "{line}");
}

#[tokio::test]
async fn an_upstream_that_says_nothing_is_given_upstream_idle_and_no_longer() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 3, &[9]);
    let gateway = Gateway::before(&up)
        .text("limits", "upstream_idle", "1s")
        .text("limits", "upstream_connect", "60s")
        .start()
        .await;
    up.fault(On::any("/manifests/"), Fault::Silence(Gate::new()));
    let began = Instant::now();
    let reply = gateway.client().ask_manifest(&image.repo, "latest").await;
    assert_eq!(reply.status, 504);
    let (_, message) = reply.oci_error().await;
    assert!(message.contains("did not answer within 1s"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn the_list_of_all_repositories_is_shown_where_all_are_open() {
    let up = Upstream::start().await;
    up.repo("registry.test", "app");
    for (more, status) in [
        ("", 404),
        ("repositories = [\"app\"]", 403),
        ("deny_repositories = [\"secret/*\"]", 403),
    ] {
        let gateway = Gateway::before(&up).registry("registry.test", more);
        let gateway = gateway.start().await;
        let url = "https://registry.test/v2/_catalog";
        let reply = gateway.client().get(url).send().await;
        assert_eq!(reply.status, status, "{more}");
    }
}

#[tokio::test]
async fn who_may_log_in_or_not_is_not_asked_to_while_upstream_is_away() {
    let up = Upstream::start().await;
    up.registry("registry.test").basic();
    let gateway = Gateway::before(&up)
        .registry("registry.test", "auth = \"client-or-gateway\"")
        .start()
        .await;
    let ping = || async {
        let client = gateway.client();
        client.get("https://registry.test/v2/").send().await.status
    };
    assert_eq!(ping().await, 401);
    up.stop().await;
    assert_eq!(ping().await, 200);
}
