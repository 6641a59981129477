//! Tunnels: bytes untouched, both ways, to the end.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Gateway, Setup, Upstream, content::noise, echo::Peer, wire, within};

fn to(peer: &Peer) -> Setup {
    let setup = Gateway::alone().resolve("peer.test", peer.addr);
    setup.more("[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"peer.test\"]")
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways() {
    let mut peer = Peer::echo().await;
    let gateway = to(&peer).start().await;
    let socket = gateway.client().connect("peer.test:443").await;
    let sent = noise(1, 5_000_000);
    let (mut read, mut write) = socket.into_split();
    let bytes = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&bytes).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut back = Vec::new();
    within(60, read.read_to_end(&mut back)).await.unwrap();
    writer.await.unwrap();
    assert!(
        back == sent,
        "{} of {} bytes came back",
        back.len(),
        sent.len()
    );
    assert_eq!(peer.next().await, sent);
    let line = gateway
        .log
        .access(|line| line.is("outcome", "tunnel"))
        .await;
    assert!(
        line.is("host", "peer.test") || line.is("host", "peer.test:443"),
        "{line:?}"
    );
}

#[tokio::test]
async fn what_a_client_sends_with_its_connect_is_not_lost() {
    let mut peer = Peer::echo().await;
    let gateway = to(&peer).start().await;
    let mut socket = TcpStream::connect(gateway.proxy).await.unwrap();
    let head = "CONNECT peer.test:443 HTTP/1.1\r\nHost: peer.test:443\r\n\r\nearly bytes";
    socket.write_all(head.as_bytes()).await.unwrap();
    let answer = wire::answer(&mut socket).await;
    assert_eq!(answer.status, 200);
    socket.shutdown().await.unwrap();
    assert_eq!(wire::rest(&mut socket).await, b"early bytes");
    assert_eq!(peer.next().await, b"early bytes");
}

#[tokio::test]
async fn a_client_that_has_finished_sending_still_gets_its_answer() {
    let mut peer = Peer::answers_at_end(b"the answer comes after the end").await;
    let gateway = to(&peer).start().await;
    let mut socket = gateway.client().connect("peer.test:443").await;
    socket.write_all(b"a question").await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(
        wire::rest(&mut socket).await,
        b"the answer comes after the end"
    );
    assert_eq!(peer.next().await, b"a question");
}

#[tokio::test]
async fn a_server_that_has_finished_sending_still_gets_the_rest() {
    let mut peer = Peer::closes_first(b"hello and goodbye").await;
    let gateway = to(&peer).start().await;
    let mut socket = gateway.client().connect("peer.test:443").await;
    let mut hello = Vec::new();
    within(30, socket.read_to_end(&mut hello)).await.unwrap();
    assert_eq!(hello, b"hello and goodbye");
    let rest = noise(2, 500_000);
    socket.write_all(&rest).await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(peer.next().await, rest);
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_is_closed() {
    let mut peer = Peer::echo().await;
    let gateway = to(&peer).text("limits", "client_idle", "1s").start().await;
    let mut socket = gateway.client().connect("peer.test:443").await;
    socket.write_all(b"hi").await.unwrap();
    let back = within(30, wire::rest(&mut socket)).await;
    assert_eq!(back, b"hi");
    assert_eq!(peer.next().await, b"hi", "the other side was closed too");
}

#[tokio::test]
async fn a_tunnel_is_not_intercepted() {
    let up = Upstream::start().await;
    up.page("pages.test", "/hello", "text/plain", b"end to end");
    let setup = Gateway::before(&up);
    let setup = setup.more("[[policy.rule]]\naction = \"tunnel\"\nhosts = [\"*.test\"]");
    let gateway = setup.start().await;
    // It trusts the upstream's CA, and not the gateway's.
    let client = crate::support::Client::new(gateway.proxy, up.ca_pem());
    let reply = client.get("https://pages.test/hello").send().await;
    assert_eq!(reply.text().await, "end to end");
}

#[tokio::test]
async fn with_a_default_of_tunnel_everything_passes() {
    let mut peer = Peer::echo().await;
    let setup = Gateway::alone().text("policy", "default", "tunnel");
    let gateway = setup.resolve("peer.test", peer.addr).start().await;
    for authority in ["peer.test:443", "peer.test:9418"] {
        let mut socket = gateway.client().connect(authority).await;
        socket.write_all(b"ping").await.unwrap();
        socket.shutdown().await.unwrap();
        assert_eq!(wire::rest(&mut socket).await, b"ping", "{authority}");
        assert_eq!(peer.next().await, b"ping");
    }
}

#[tokio::test]
async fn a_tunnel_to_nobody_is_502() {
    let peer = Peer::echo().await;
    // Nobody listens on the port of a listener that was closed.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let gateway = to(&peer).resolve("peer.test", nobody).start().await;
    let (answer, _) = gateway.client().try_connect("peer.test:443").await;
    assert!(matches!(answer.status, 502..=504), "{}", answer.head);
    assert!(answer.text().contains("pierhead"), "{}", answer.text());
}
