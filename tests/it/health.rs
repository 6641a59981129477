//! What the port says about itself, and the metrics.

use hyper::Method;

use crate::support::{Gateway, Upstream, client::plain, gateway, wire, within};

#[tokio::test]
async fn the_port_tells_its_health() {
    let gateway = Gateway::alone().start().await;
    for path in ["/healthz", "/readyz"] {
        let reply = plain(gateway.proxy, path).await;
        assert_eq!(reply.status, 200, "{path}");
        let text = reply.text().await;
        assert!(
            serde_json::from_str::<serde_json::Value>(&text).is_ok(),
            "{path}: {text}"
        );
    }
}

#[tokio::test]
async fn an_admin_answer_may_take_longer_than_a_head() {
    let gateway = Gateway::alone()
        .text("limits", "client_headers", "1s")
        .start()
        .await;
    let mut events = plain(gateway.admin, "/api/v1/events").await;
    assert_eq!(events.status, 200);
    // Without news they are some seconds apart.
    let mut seen = 0;
    let two = async {
        while seen < 2 {
            let chunk = events.chunk().await.expect("the stream ended").unwrap();
            seen += String::from_utf8_lossy(&chunk)
                .matches("event: live")
                .count();
        }
    };
    within(30, two).await;
}

#[tokio::test]
async fn the_port_gives_the_certificate_of_its_ca_to_anyone() {
    let gateway = Gateway::alone().start().await;
    let reply = plain(gateway.proxy, "/ca.crt").await;
    assert_eq!(reply.status, 200);
    let pem = reply.text().await;
    assert_eq!(pem.trim(), gateway.ca_pem.trim());
    assert!(!pem.contains("PRIVATE"));
}

#[tokio::test]
async fn anything_else_on_the_port_gets_a_clear_answer() {
    let gateway = Gateway::alone().start().await;
    for path in [
        "/",
        "/index.html",
        "/ca.key",
        "/../etc/passwd",
        "/healthz/x",
    ] {
        let reply = plain(gateway.proxy, path).await;
        assert_eq!(reply.status, 404, "{path}");
        let text = reply.text().await;
        assert!(text.contains("pierhead"), "{path}: {text}");
    }
    for request in [
        "DELETE /healthz HTTP/1.1",
        "POST /ca.crt HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ] {
        let bytes = format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = wire::exchange(gateway.proxy, bytes.as_bytes()).await;
        let status = wire::Raw::parse(&answer).map(|raw| raw.status);
        assert!(matches!(status, Some(400..=499)), "{request}: {status:?}");
    }
    let ftp = b"GET ftp://pages.test/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = wire::exchange(gateway.proxy, ftp).await;
    let status = wire::Raw::parse(&answer).map(|raw| raw.status);
    assert!(matches!(status, Some(400..=499)), "{status:?}");
}

#[tokio::test]
async fn metrics_are_openmetrics_and_move() {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("latest", 1, &[1000]);
    let gateway = Gateway::before(&up).start().await;
    let before = gateway.metrics().await;
    assert!(before.trim_end().ends_with("# EOF"), "{before}");
    let names = before
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in names {
        let ours = line.starts_with("pierhead_") || line.starts_with("process_");
        assert!(ours, "{line}");
    }
    for line in before.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(
            before.contains(&format!("# HELP {name} ")),
            "{name} has no help"
        );
    }
    gateway.client().pull(&image).await;
    gateway.client().pull(&image).await;
    assert_ne!(gateway.metrics().await, before);
}

#[tokio::test]
async fn the_admin_port_is_no_proxy() {
    let up = Upstream::start().await;
    up.page("pages.test", "/", "text/plain", b"hello");
    let rule = "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"*\"]";
    let gateway = Gateway::before(&up).more(rule).start().await;
    let requests = [
        "CONNECT pages.test:443 HTTP/1.1\r\nHost: pages.test:443",
        "GET http://pages.test/ HTTP/1.1\r\nHost: pages.test",
    ];
    for request in requests {
        let bytes = format!("{request}\r\nConnection: close\r\n\r\n");
        let answer = wire::exchange(gateway.admin, bytes.as_bytes()).await;
        let status = wire::Raw::parse(&answer).map(|raw| raw.status);
        assert!(
            status.is_none_or(|status| status >= 400),
            "{request}: {status:?}"
        );
    }
    assert_eq!(up.connections(), 0);
}

#[tokio::test]
async fn a_health_check_by_head_is_answered() {
    let gateway = Gateway::alone().start().await;
    let bytes = b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = wire::exchange(gateway.proxy, bytes).await;
    let raw = wire::Raw::parse(&answer).expect("an answer");
    assert_eq!(raw.status, 200, "{}", Method::HEAD);
    assert!(raw.body.is_empty());
}

#[tokio::test]
async fn the_build_says_its_version_and_commit_everywhere_alike() {
    let home = tempfile::tempdir().unwrap();
    let output = gateway::run(&["--version"], home.path()).await;
    let said = String::from_utf8(output.stdout).unwrap();
    let (version, commit) = said
        .trim_end()
        .strip_prefix("pierhead ")
        .and_then(|rest| rest.strip_suffix(')'))
        .and_then(|rest| rest.split_once(" ("))
        .unwrap_or_else(|| panic!("{said:?}"));
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    let hash = commit.trim_end_matches("-dirty");
    let is_hash = hash.len() >= 12 && hash.chars().all(|c| c.is_ascii_hexdigit());
    assert!(is_hash || commit == "unknown", "{commit:?}");

    let gateway = Gateway::alone().start().await;
    for address in [gateway.proxy, gateway.admin] {
        let health = plain(address, "/healthz").await.text().await;
        let health: serde_json::Value = serde_json::from_str(&health).unwrap();
        assert_eq!(health["version"], version);
        assert_eq!(health["commit"], commit);
    }
    let metric = format!("pierhead_build_info{{version=\"{version}\",commit=\"{commit}\"}} 1");
    let metrics = gateway.metrics().await;
    assert!(metrics.contains(&metric), "no {metric} in:\n{metrics}");
    let banner = gateway.out.text();
    assert!(banner.starts_with(said.trim_end()), "{banner}");
}
