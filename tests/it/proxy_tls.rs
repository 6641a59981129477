//! The proxy in TLS: `HTTPS_PROXY=https://…`.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::support::{
    Client, Gateway, Setup, Upstream, authority::TestCa, client::Session, content::noise,
    echo::Peer, gateway, wire, within,
};

fn in_tls(setup: Setup) -> Setup {
    setup.set("listen", "proxy_tls", r#"["127.0.0.1:0"]"#)
}

/// TLS with the gateway itself.
async fn reach(gateway: &Gateway, client: &Client, name: &str) -> TlsStream<TcpStream> {
    let socket = TcpStream::connect(gateway.proxy_tls()).await.unwrap();
    client.tls_over(socket, name).await.unwrap()
}

async fn connect(stream: &mut TlsStream<TcpStream>, authority: &str) -> wire::Raw {
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    wire::answer(stream).await
}

async fn handshakes(gateway: &Gateway, result: &str) -> usize {
    let metrics = gateway.metrics().await;
    let start = format!("pierhead_handshakes_total{{result=\"{result}\"}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn a_tunnel_through_tls_carries_bytes_both_ways() {
    let mut peer = Peer::echo().await;
    let setup = in_tls(Gateway::alone())
        .resolve("peer.test", peer.addr)
        .more("[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"peer.test\"]");
    let gateway = setup.start().await;
    // By its address, for which the certificate is good without a word of configuration.
    let mut stream = reach(&gateway, &gateway.client(), "127.0.0.1").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(connect(&mut stream, "peer.test:443").await.status, 200);
    let sent = noise(1, 5_000_000);
    let (mut read, mut write) = tokio::io::split(stream);
    let bytes = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut back = Vec::new();
    within(60, read.read_to_end(&mut back)).await.unwrap();
    writer.await.unwrap();
    assert!(back == sent, "{} of {} came", back.len(), sent.len());
    assert_eq!(peer.next().await, sent);
    assert_eq!(handshakes(&gateway, "ok").await, 1);
    let line = gateway
        .log
        .access(|line| line.is("outcome", "tunnel"))
        .await;
    assert!(line.is("complete", "true"), "{line:?}");
}

#[tokio::test]
async fn a_tunnel_whose_target_speaks_last_ends_whole() {
    let mut peer = Peer::answers_at_end(&[7; 300_000]).await;
    let setup = in_tls(Gateway::alone())
        .resolve("peer.test", peer.addr)
        .more("[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"peer.test\"]");
    let gateway = setup.start().await;
    let mut stream = reach(&gateway, &gateway.client(), "127.0.0.1").await;
    let head = "CONNECT peer.test:443 HTTP/1.1\r\nHost: peer.test:443\r\n\r\nearly";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(wire::answer(&mut stream).await.status, 200);
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    // An end without close_notify would be an error here.
    within(30, stream.read_to_end(&mut back)).await.unwrap();
    assert!(back == [7; 300_000], "{}", back.len());
    assert_eq!(peer.next().await, b"early");
}

#[tokio::test]
async fn an_image_is_pulled_through_tls_in_tls() {
    let up = Upstream::start().await;
    let image = up
        .repo("registry.test", "app")
        .image("v1", 2, &[3_000_000, 10]);
    let gateway = in_tls(Gateway::before(&up)).start().await;
    for client in [gateway.client(), gateway.client().h2()] {
        let outer = gateway.client();
        let mut stream = reach(&gateway, &outer, "127.0.0.1").await;
        assert_eq!(connect(&mut stream, "registry.test:443").await.status, 200);
        let inner = client.tls_over(stream, "registry.test").await.unwrap();
        let mut session = client.session_over(inner).await;
        let reply = client
            .get(&image.by_tag())
            .header("accept", "*/*")
            .send_on(&mut session)
            .await;
        reply.verified(&image.manifest.digest).await;
        for blob in image.blobs() {
            let url = image.repo.blob_url(&blob.digest);
            let reply = client.get(&url).send_on(&mut session).await;
            reply.verified(&blob.digest).await;
        }
    }
    assert_eq!(handshakes(&gateway, "ok").await, 4, "two within two");
    for blob in image.blobs() {
        assert_eq!(up.bytes_sent(&blob.digest), blob.len());
    }
}

#[tokio::test]
async fn absolute_form_and_the_gateways_own_pages_are_there_too() {
    let up = Upstream::start().await;
    up.page("pages.test", "/", "text/plain", b"hello");
    let setup = in_tls(Gateway::before(&up))
        .more("[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"pages.test\"]");
    let gateway = setup.start().await;
    let client = gateway.client();
    for (line, answer) in [
        ("GET http://pages.test/", "hello"),
        ("GET /readyz", "\"ready\""),
        ("GET /ca.crt", "BEGIN CERTIFICATE"),
    ] {
        let mut stream = reach(&gateway, &client, "127.0.0.1").await;
        let head = format!("{line} HTTP/1.1\r\nHost: pages.test\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut all = String::new();
        within(30, stream.read_to_string(&mut all)).await.unwrap();
        assert!(all.starts_with("HTTP/1.1 200"), "{all}");
        assert!(all.contains(answer), "{all}");
    }
}

#[tokio::test]
async fn proxy_users_are_asked_in_tls_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("htpasswd");
    std::fs::write(&file, format!("ci:{}\n", bcrypt::hash("p", 4).unwrap())).unwrap();
    let setup = in_tls(Gateway::alone()).text("policy", "users_file", file.to_str().unwrap());
    let gateway = setup.start().await;
    let mut stream = reach(&gateway, &gateway.client(), "127.0.0.1").await;
    assert_eq!(connect(&mut stream, "ghcr.io:443").await.status, 407);
}

#[tokio::test]
async fn the_ca_signs_for_the_names_that_are_configured() {
    let setup = in_tls(Gateway::alone()).set("listen", "names", r#"["gateway.corp", "10.0.0.1"]"#);
    let gateway = setup.start().await;
    let client = gateway.client();
    for name in ["gateway.corp", "10.0.0.1"] {
        reach(&gateway, &client, name).await;
    }
    for name in ["127.0.0.1", "sub.gateway.corp"] {
        let socket = TcpStream::connect(gateway.proxy_tls()).await.unwrap();
        assert!(client.tls_over(socket, name).await.is_err(), "{name}");
    }
    // The names are in the CA only as long as they are needed.
    let with = gateway.ca_pem.clone();
    let gateway = gateway.restart_as(|setup| setup.set("listen", "proxy_tls", "[]"));
    assert_ne!(gateway.await.ca_pem, with);
}

#[tokio::test]
async fn a_certificate_that_is_given_is_used_and_the_ca_stays_as_it_is() {
    let company = TestCa::new("company CA");
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = company.server_files("gateway.corp");
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("c.pem"), chain).unwrap();
    std::fs::write(path("k.pem"), key).unwrap();
    let up = Upstream::start().await;
    up.registry("registry.test");
    let gateway = Gateway::before(&up).start().await;
    let before = gateway.ca_pem.clone();
    let gateway = gateway
        .restart_as(|setup| {
            in_tls(setup)
                .text("listen", "tls_certificate", &path("c.pem"))
                .text("listen", "tls_key", &path("k.pem"))
        })
        .await;
    assert_eq!(gateway.ca_pem, before);
    let outer = Client::new(gateway.proxy, &company.pem);
    let mut stream = reach(&gateway, &outer, "gateway.corp").await;
    assert_eq!(connect(&mut stream, "registry.test:443").await.status, 200);
    let client = gateway.client();
    let inner = client.tls_over(stream, "registry.test").await.unwrap();
    let mut session = Session::h1(inner).await;
    let reply = client.get("https://registry.test/v2/");
    assert_eq!(reply.send_on(&mut session).await.status, 200);
}

#[tokio::test]
async fn a_handshake_that_fails_or_never_ends_is_counted_and_ended() {
    let setup = in_tls(Gateway::alone()).text("limits", "client_headers", "1s");
    let gateway = setup.start().await;
    let mut plain = TcpStream::connect(gateway.proxy_tls()).await.unwrap();
    let _ = plain.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await;
    let answer = wire::rest(&mut plain).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    gateway.log.line("a TLS handshake with the proxy").await;
    assert_eq!(handshakes(&gateway, "failed").await, 1);

    let mut silent = TcpStream::connect(gateway.proxy_tls()).await.unwrap();
    assert_eq!(within(20, wire::rest(&mut silent)).await, b"");
    gateway.log.line("limits.client_headers").await;
    assert_eq!(handshakes(&gateway, "failed").await, 2);
}

#[tokio::test]
async fn a_client_of_h2_alone_is_refused_by_its_handshake() {
    let gateway = in_tls(Gateway::alone()).start().await;
    let socket = TcpStream::connect(gateway.proxy_tls()).await.unwrap();
    let client = gateway.client().h2();
    assert!(client.tls_over(socket, "127.0.0.1").await.is_err());
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_stops_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("pierhead.toml");
    let (one, other) = (TestCa::new("one"), TestCa::new("other"));
    std::fs::write(dir.path().join("c.pem"), &one.pem).unwrap();
    std::fs::write(dir.path().join("k.pem"), &other.key_pem).unwrap();
    let tls = "proxy_tls = [\"127.0.0.1:0\"]";
    for (lines, word) in [
        ("tls_certificate = \"c.pem\"", "listen.tls_key"),
        ("tls_key = \"k.pem\"", "listen.tls_certificate"),
        (
            "tls_certificate = \"c.pem\"\ntls_key = \"k.pem\"",
            "is not the key of",
        ),
        (
            "tls_certificate = \"none.pem\"\ntls_key = \"k.pem\"",
            "none.pem",
        ),
    ] {
        std::fs::write(&config, format!("[listen]\nproxy = []\n{tls}\n{lines}\n")).unwrap();
        for command in ["check", "serve"] {
            let args = [command, "--config", "pierhead.toml"];
            let output = gateway::run(&args, dir.path()).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(78), "{said}");
            assert!(said.contains(word), "no {word:?} in {said}");
        }
    }
}
