//! Garbage, slow and oversized requests: each has a clear answer, and every wait an end.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Gateway, Manifest, Upstream, eventually, wire, within};

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_closed() {
    let gateway = Gateway::alone()
        .text("limits", "client_headers", "1s")
        .start()
        .await;
    for start in ["", "GET / HT", "CONNECT ghcr.io:443 HTTP/1.1\r\nHost: g"] {
        let mut socket = TcpStream::connect(gateway.proxy).await.unwrap();
        socket.write_all(start.as_bytes()).await.unwrap();
        let answer = within(20, wire::rest(&mut socket)).await;
        if let Some(raw) = wire::Raw::parse(&answer) {
            assert!(matches!(raw.status, 400..=499), "{}", raw.head);
        }
    }
}

#[tokio::test]
async fn a_client_that_dawdles_inside_tls_is_closed() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    let setup = Gateway::before(&up).text("limits", "client_headers", "1s");
    let gateway = setup.text("limits", "client_idle", "2s").start().await;
    let client = gateway.client();

    let mut silent = client.connect("registry.test:443").await;
    within(20, wire::rest(&mut silent)).await;

    let mut slow = client.tls("registry.test:443").await.unwrap();
    slow.write_all(b"GET /v2/ HTTP/1.1\r\nHost: regis")
        .await
        .unwrap();
    slow.flush().await.unwrap();
    let mut rest = Vec::new();
    // Whether it ends well or badly: it ends.
    let _ = within(20, slow.read_to_end(&mut rest)).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    let gateway = Gateway::before(&up).start().await;
    let head = "GET http://registry.test/v2/ HTTP/1.1\r\nHost: registry.test\r\n".to_owned();
    let long = head.clone() + "X-Long: " + &"x".repeat(4 << 20) + "\r\n\r\n";
    let many = head + &"X-Many: x\r\n".repeat(5000) + "\r\n";
    for request in [long, many] {
        let socket = TcpStream::connect(gateway.proxy).await.unwrap();
        let (mut read, mut write) = socket.into_split();
        let writer = tokio::spawn(async move {
            // It stops listening in the middle of it.
            let _ = write.write_all(request.as_bytes()).await;
            write
        });
        let mut answer = vec![0; 12];
        let got = within(20, read.read_exact(&mut answer)).await;
        // The reset that follows unread bytes may overtake the answer.
        if got.is_ok() {
            assert_eq!(answer, b"HTTP/1.1 431");
        }
        drop(read);
        within(20, writer).await.unwrap();
    }
    assert_eq!(up.requests(), 0);
}

#[tokio::test]
async fn garbage_is_400() {
    let gateway = Gateway::alone().start().await;
    let garbage: [&[u8]; 6] = [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        b"CONNECT nohost HTTP/1.1\r\nHost: nohost\r\n\r\n",
    ];
    for bytes in garbage {
        let answer = wire::exchange(gateway.proxy, bytes).await;
        let raw = wire::Raw::parse(&answer);
        let status = raw.map(|raw| raw.status);
        assert_eq!(status, Some(400), "{}", String::from_utf8_lossy(bytes));
    }
    // And it still serves.
    assert_eq!(
        crate::support::client::plain(gateway.proxy, "/healthz")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_connection_inside_connect_that_is_not_tls_is_closed() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    let gateway = Gateway::before(&up).start().await;
    let mut socket = gateway.client().connect("registry.test:443").await;
    socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
    within(20, wire::rest(&mut socket)).await;
    assert_eq!(up.connections(), 0, "what is not TLS went upstream");
}

#[tokio::test]
async fn names_and_digests_that_are_none_are_400() {
    let up = Upstream::start().await;
    up.repo("registry.test", "app");
    let gateway = Gateway::before(&up).start().await;
    let client = gateway.client();
    let short = format!("blobs/sha256:{}", "a".repeat(63));
    let upper = format!("blobs/sha256:{}", "A".repeat(64));
    let cases = [
        ("app", short.as_str(), "DIGEST_INVALID"),
        ("app", &upper, "DIGEST_INVALID"),
        ("app", "blobs/latest", "DIGEST_INVALID"),
        ("app", "manifests/sha256:beef", "DIGEST_INVALID"),
        ("App", "manifests/latest", "NAME_INVALID"),
        ("a..b", "manifests/latest", "NAME_INVALID"),
        ("app", "manifests/-latest", "MANIFEST_INVALID"),
    ];
    for (name, rest, code) in cases {
        let url = format!("https://registry.test/v2/{name}/{rest}");
        let reply = client.get(&url).send().await;
        assert_eq!(reply.status, 400, "{url}");
        let (got, _) = reply.oci_error().await;
        // For a reference that is neither a tag nor a digest, the specification names no code.
        if code != "MANIFEST_INVALID" && !rest.starts_with("manifests/sha") {
            assert_eq!(got, code, "{url}");
        }
    }
    assert_eq!(up.requests(), 0, "nonsense went upstream: {:?}", up.seen());
}

#[tokio::test]
async fn a_manifest_larger_than_the_limit_is_refused() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let (small, big) = (Manifest::padded(1, 40_000), Manifest::padded(2, 200_000));
    repo.tag("small", &[&small]).tag("big", &[&big]);
    let gateway = Gateway::before(&up)
        .text("limits", "manifest_size", "64KiB")
        .start()
        .await;
    gateway.client().manifest(&repo, "small").await;
    for reference in ["big", &big.digest] {
        let reply = gateway.client().ask_manifest(&repo, reference).await;
        assert!(reply.status >= 400, "{}", reply.status);
        reply.oci_error().await;
    }
}

#[tokio::test]
async fn a_manifest_of_four_mebibytes_passes() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let manifest = Manifest::padded(3, 4_000_000);
    repo.tag("large", &[&manifest]);
    let gateway = Gateway::before(&up).start().await;
    for _ in 0..2 {
        assert_eq!(
            gateway.client().manifest(&repo, "large").await,
            manifest.digest
        );
    }
}

#[tokio::test]
async fn a_client_has_so_many_connections_and_no_more() {
    let setup = Gateway::alone().set("limits", "connections_per_client", "4");
    let gateway = setup.start().await;
    let mut held = Vec::new();
    for _ in 0..4 {
        // Answered, and so counted, and still open.
        let mut socket = TcpStream::connect(gateway.proxy).await.unwrap();
        socket
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut start = [0; 12];
        within(20, socket.read_exact(&mut start)).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        held.push(socket);
    }
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = within(20, wire::exchange(gateway.proxy, request)).await;
    let status = wire::Raw::parse(&answer).map(|raw| raw.status);
    assert!(matches!(status, None | Some(429 | 503)), "{status:?}");

    held.clear();
    let again = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        loop {
            ticks.tick().await;
            let answer = wire::exchange(gateway.proxy, request).await;
            if wire::Raw::parse(&answer).is_some_and(|raw| raw.status == 200) {
                break;
            }
        }
    };
    within(20, again).await;
}

#[tokio::test]
async fn who_leaks_connections_to_the_admin_port_keeps_nobody_else_from_it() {
    let gateway = Gateway::alone().start().await;
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answered = async |from: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut socket = socket.connect(gateway.admin).await.unwrap();
        socket.write_all(request).await.ok()?;
        let mut start = [0; 12];
        within(20, socket.read_exact(&mut start)).await.ok()?;
        assert_eq!(&start, b"HTTP/1.1 200");
        Some(socket)
    };
    let mut held = Vec::new();
    while let Some(socket) = answered("127.0.0.1").await {
        held.push(socket);
        assert!(held.len() <= 64, "there is no end to it");
    }
    assert!(held.len() > 32, "{} and no more", held.len());
    assert!(answered("127.0.0.2").await.is_some());
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let gateway = Gateway::alone()
        .text("limits", "client_idle", "1s")
        .start()
        .await;
    let mut socket = TcpStream::connect(gateway.proxy).await.unwrap();
    socket
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let answer = within(20, wire::rest(&mut socket)).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

/// Asserts an answer in plain words, as long as it says, that names pierhead and `key`.
fn assert_told(answer: &[u8], status: u16, key: &str) {
    let raw = wire::Raw::parse(answer).expect("an answer");
    assert_eq!(raw.status, status, "{}", raw.head);
    let (head, text) = (raw.head.to_lowercase(), raw.text());
    let announced = format!("content-length: {}", raw.body.len());
    assert!(
        head.lines().any(|line| line == announced),
        "{head} {text:?}"
    );
    assert!(text.contains("pierhead") && text.contains(key), "{text}");
}

#[tokio::test]
async fn a_slow_head_is_told_why() {
    let gateway = Gateway::alone()
        .text("limits", "client_headers", "1s")
        .start()
        .await;
    for start in ["GET /healthz HT", "CONNECT ghcr.io:443 HTTP/1.1\r\nHost: g"] {
        let mut socket = TcpStream::connect(gateway.proxy).await.unwrap();
        socket.write_all(start.as_bytes()).await.unwrap();
        let answer = within(20, wire::rest(&mut socket)).await;
        assert_told(&answer, 408, "client_headers");
    }
}

#[tokio::test]
async fn a_connection_too_many_is_told_why() {
    let setup = Gateway::alone().set("limits", "connections_per_client", "2");
    let gateway = setup.start().await;
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..2 {
        // Answered, and so counted, and still open.
        let mut socket = TcpStream::connect(gateway.proxy).await.unwrap();
        socket.write_all(request).await.unwrap();
        assert_eq!(wire::answer(&mut socket).await.status, 200);
        held.push(socket);
    }
    for said in [
        &request[..],
        b"CONNECT ghcr.io:443 HTTP/1.1\r\nHost: g\r\n\r\n",
        b"",
    ] {
        let answer = within(20, wire::exchange(gateway.proxy, said)).await;
        assert_told(&answer, 429, "connections_per_client");
    }
}

#[tokio::test]
async fn an_h2_client_that_grants_no_window_is_closed() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(4, 12 << 20);
    let gateway = Gateway::before(&up)
        .text("limits", "client_idle", "1s")
        .start()
        .await;
    let url = repo.blob_url(&blob.digest);
    let h2 = gateway.client().h2();
    // A download that it follows, and one that is cached.
    for _ in 0..2 {
        let mut reply = h2.get(&url).send().await;
        assert_eq!(reply.status, 200);
        reply.read(100).await;
        eventually("it is closed", || reply.is_closed()).await;
        assert!(!reply.rest().await.whole, "it got all of it");
        gateway
            .client()
            .get(&url)
            .send()
            .await
            .verified(&blob.digest)
            .await;
    }
}

#[tokio::test]
async fn an_h2_client_that_reads_slowly_is_not_closed() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let blob = repo.blob(5, 12 << 20);
    let gateway = Gateway::before(&up)
        .text("limits", "client_idle", "2s")
        .start()
        .await;
    let h2 = gateway.client().h2();
    let mut reply = h2.get(&repo.blob_url(&blob.digest)).send().await;
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    let mut got = Vec::new();
    for _ in 0..8 {
        ticks.tick().await;
        got.extend_from_slice(&reply.read(1 << 20).await);
    }
    got.extend_from_slice(&reply.bytes().await);
    assert!(got == blob.bytes, "{} bytes", got.len());
}

/// A POST of `len` bytes in plain http, of which a tenth is sent every 400 ms, as often as `tenths`.
async fn upload(gateway: &Gateway, len: usize, tenths: usize) -> (Duration, Vec<u8>) {
    let mut socket = TcpStream::connect(gateway.proxy).await.unwrap();
    let began = tokio::time::Instant::now();
    let head = format!(
        "POST http://pages.test/upload HTTP/1.1\r\nHost: pages.test\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let part = vec![b'x'; len / 10];
    let mut ticks = tokio::time::interval(Duration::from_millis(400));
    for _ in 0..tenths {
        ticks.tick().await;
        socket.write_all(&part).await.unwrap();
    }
    let answer = within(20, wire::rest(&mut socket)).await;
    (began.elapsed(), answer)
}

#[tokio::test]
async fn an_upload_may_take_as_long_as_it_flows_and_no_longer() {
    let up = Upstream::start().await;
    up.page("pages.test", "/upload", "text/plain", b"thank you");
    let rule = "[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"pages.test\"]";
    let gateway = Gateway::before(&up)
        .text("limits", "upstream_idle", "1s")
        .text("limits", "upstream_connect", "1s")
        .more(rule)
        .start()
        .await;
    let (took, answer) = upload(&gateway, 100_000, 10).await;
    assert!(
        answer.ends_with(b"thank you"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert!(
        took > Duration::from_secs(3),
        "{took:?}: it was not slow enough"
    );

    // One that stalls is ended, and not with the page.
    let (_, answer) = upload(&gateway, 100_000, 5).await;
    if let Some(raw) = wire::Raw::parse(&answer) {
        assert!(raw.status >= 400, "{}", raw.head);
        assert!(raw.text().contains("pierhead"), "{}", raw.text());
    }
}
