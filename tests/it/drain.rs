//! SIGTERM: what runs may finish, within a limit.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{
    Blob, Fault, Gate, Gateway, On, Reply, Upstream, client::plain, eventually, within,
};

const MIB: usize = 1024 * 1024;

/// A pull that stands still in the middle of a blob.
struct Halted {
    _up: Upstream,
    gateway: Gateway,
    url: String,
    blob: Blob,
    reply: Reply,
    gate: Gate,
}

/// `drain`: the gateway's limit.
async fn halted(drain: &str) -> Halted {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(1, 4 * MIB);
    let gate = Gate::new();
    up.fault(
        On::get(&blob.digest),
        Fault::StallAt(MIB as u64, gate.clone()),
    );
    let gateway = Gateway::before(&up)
        .text("limits", "drain", drain)
        .start()
        .await;
    let url = repo.blob_url(&blob.digest);
    let reply = gateway.client().get(&url).send().await;
    gate.arrived(1).await;
    Halted {
        _up: up,
        gateway,
        url,
        blob,
        reply,
        gate,
    }
}

#[tokio::test]
async fn a_running_pull_is_finished() {
    let Halted {
        _up,
        mut gateway,
        blob,
        reply,
        gate,
        ..
    } = halted("30s").await;
    gateway.ask_to_end();
    // It takes no more, and says so: a load balancer asks on a new connection.
    gateway.log.line("draining").await;
    let ready = plain(gateway.proxy, "/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().await.contains("draining"));
    assert_eq!(plain(gateway.proxy, "/healthz").await.status, 200);
    assert_eq!(plain(gateway.proxy, "/v2/").await.status, 503);
    let (refused, _) = gateway.client().try_connect("registry.test:443").await;
    assert_eq!(refused.status, 503);
    // Nor does who watches it lose sight of it.
    assert_eq!(plain(gateway.admin, "/readyz").await.status, 503);
    let counted = plain(gateway.admin, "/metrics").await.text().await;
    assert!(counted.contains("pierhead_downloads_active 1"), "{counted}");
    for path in ["/", "/api/v1/status"] {
        let late = plain(gateway.admin, path).await;
        assert_eq!(late.status, 503, "{path}");
        assert!(late.text().await.contains("the gateway is ending"));
    }
    gate.open();
    reply.verified(&blob.digest).await;
    assert!(gateway.ended(40).await.success());
}

#[tokio::test]
async fn idle_connections_do_not_hold_it_up() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    let mut gateway = Gateway::before(&up).start().await;
    let _silent = TcpStream::connect(gateway.proxy).await.unwrap();
    let client = gateway.client();
    let mut kept = client.session("registry.test:443").await;
    let h2 = gateway.client().h2();
    let mut kept_h2 = h2.session("registry.test:443").await;
    let url = "https://registry.test/v2/";
    client.get(url).send_on(&mut kept).await.bytes().await;
    h2.get(url).send_on(&mut kept_h2).await.bytes().await;
    gateway.ask_to_end();
    assert!(gateway.ended(20).await.success());
}

#[tokio::test]
async fn what_does_not_finish_is_cut_when_the_time_is_over() {
    let Halted {
        _up,
        mut gateway,
        url,
        blob,
        reply,
        gate: _never,
    } = halted("1s").await;
    gateway.ask_to_end();
    gateway.ended(20).await;
    assert!(!reply.rest().await.whole);
    // What came so far is no trap for the next start.
    let gateway = gateway.restart().await;
    let again = gateway.client().get(&url).send().await;
    again.verified(&blob.digest).await;
    eventually("one copy of it is left", || {
        gateway.copies_of(&blob.bytes) == 1
    })
    .await;
}

#[tokio::test]
async fn with_nothing_to_do_it_ends_at_once() {
    let mut gateway = Gateway::alone().start().await;
    gateway.ask_to_end();
    assert!(gateway.ended(10).await.success());
}

#[tokio::test]
async fn told_twice_it_ends_at_once() {
    let Halted {
        _up,
        mut gateway,
        reply,
        gate: _never,
        ..
    } = halted("10m").await;
    gateway.ask_to_end();
    gateway.log.line("draining").await;
    gateway.ask_to_end();
    assert!(gateway.ended(30).await.success());
    assert!(!reply.rest().await.whole);
}

#[tokio::test]
async fn who_has_just_connected_is_answered_though_the_end_has_begun() {
    let mut gateway = Gateway::alone().start().await;
    let taken = "pierhead_connections_accepted_total{listener=\"proxy\"} ";
    let metrics = gateway.metrics().await;
    let before = metrics.lines().find_map(|line| line.strip_prefix(taken));
    let before: u64 = before.unwrap_or("0").parse().unwrap();
    let mut socket = TcpStream::connect(gateway.proxy).await.unwrap();
    gateway
        .metric_becomes(&format!("{taken}{}", before + 1))
        .await;
    gateway.ask_to_end();
    gateway.log.line("draining").await;
    let ask = b"GET /healthz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n";
    socket.write_all(ask).await.unwrap();
    let mut answer = String::new();
    within(10, socket.read_to_string(&mut answer))
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    assert!(gateway.ended(20).await.success());
}
