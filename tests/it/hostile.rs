//! Clients that mean harm: each has an end, none takes more than its share, and the others go on being
//! served meanwhile.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hyper::Method;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};

use crate::support::{
    Client, Fault, Gate, Gateway, Image, Manifest, On, Upstream, image, wire, within,
};

/// An upstream with an image that the gateway holds.
async fn warm(
    setup: impl FnOnce(crate::support::Setup) -> crate::support::Setup,
) -> (Upstream, Image, Gateway) {
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 1, &[300_000]);
    let setup = setup(Gateway::before(&up).text("cache", "tag_ttl", "1h"));
    let gateway = setup.start().await;
    gateway.client().pull(&image).await;
    (up, image, gateway)
}

/// A client that behaves, and what it sees while others do not.
struct Guest {
    over: Arc<AtomicBool>,
    task: JoinHandle<Vec<Duration>>,
}

// === impl Guest ===

impl Guest {
    /// Asks for the manifest again and again, over a connection of its own each time.
    fn begin(client: Client, image: &Image) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (image, until) = (image.clone(), over.clone());
        let task = tokio::spawn(async move {
            let mut took = Vec::new();
            while !until.load(Ordering::Relaxed) || took.len() < 20 {
                let began = Instant::now();
                let digest = client.manifest(&image.repo, &image.tag).await;
                assert_eq!(digest, image.manifest.digest);
                took.push(began.elapsed());
            }
            took
        });
        Self { over, task }
    }

    /// The attack is over: nobody may have waited for long.
    async fn end(self, during: &str) {
        self.over.store(true, Ordering::Relaxed);
        let mut took = within(60, self.task).await.expect("it was served");
        took.sort_unstable();
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        let (median, p99) = (at(0.5), at(0.99));
        eprintln!(
            "during {during}: {} pulls, median {median:.1?}, p99 {p99:.1?}",
            took.len()
        );
        assert!(
            p99 < Duration::from_secs(5),
            "p99 was {p99:?} during {during}"
        );
    }
}

/// Bytes of memory that the gateway has.
async fn memory(gateway: &Gateway) -> f64 {
    metric(gateway, "process_resident_memory_bytes").await
}

async fn metric(gateway: &Gateway, name: &str) -> f64 {
    let metrics = gateway.metrics().await;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

/// Waits until nobody is connected any more.
async fn assert_all_gone(gateway: &Gateway) {
    within(60, async {
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        while metric(gateway, "pierhead_connections").await > 0.0 {
            ticks.tick().await;
        }
    })
    .await;
}

// --- slow clients ---

/// Sends `bytes` one at a time, as long as it may; what was answered.
async fn drip<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S, bytes: Vec<u8>) {
    let (mut read, mut write) = tokio::io::split(stream);
    let writer = tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        for byte in bytes {
            ticks.tick().await;
            if write.write_all(&[byte]).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
    });
    let mut rest = Vec::new();
    // However it ends: it ends.
    let _ = within(40, read.read_to_end(&mut rest)).await;
    writer.abort();
}

#[tokio::test]
async fn who_says_everything_a_byte_at_a_time_is_not_waited_for() {
    let (_up, image, gateway) = warm(|setup| {
        setup
            .text("limits", "client_headers", "2s")
            .text("limits", "client_idle", "3s")
    })
    .await;
    let guest = Guest::begin(gateway.client(), &image);
    let mut slow = JoinSet::new();
    let long = "x".repeat(4000);
    let head =
        format!("GET /v2/ HTTP/1.1\r\nHost: registry.test\r\nX: {long}\r\n\r\n").into_bytes();
    for _ in 0..20 {
        let connect = format!("CONNECT registry.test:443 HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n");
        let socket = TcpStream::connect(gateway.proxy).await.unwrap();
        slow.spawn(drip(socket, connect.into_bytes()));
        // The handshake.
        let socket = gateway.client().connect("registry.test:443").await;
        let mut hello = vec![0x16, 3, 1, 0x0f, 0xff, 1, 0, 0x0f, 0xfb, 3, 3];
        hello.resize(4000, 0);
        slow.spawn(drip(socket, hello));
        // The head inside.
        let tls = gateway.client().tls("registry.test:443").await.unwrap();
        slow.spawn(drip(tls, head.clone()));
        // h2's preface and then nothing that is a request.
        let tls = gateway
            .client()
            .h2()
            .tls("registry.test:443")
            .await
            .unwrap();
        slow.spawn(drip(tls, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()));
    }
    while let Some(ended) = within(60, slow.join_next()).await {
        ended.unwrap();
    }
    guest.end("slow heads").await;
    assert_all_gone(&gateway).await;
}

// --- floods of h2 frames ---

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = len[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A GET of `path`, its head in HPACK without compression.
fn get(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x87];
    for (name, value) in [(0x04, path), (0x01, "registry.test")] {
        block.push(name);
        // Shorter than 127.
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.as_bytes());
    }
    block
}

/// Sends `part` over and over on a connection of h2 until it is cut off, or `times`, and reads what
/// comes. How many were sent.
async fn flood(client: Client, first: Vec<u8>, part: impl Fn(u32) -> Vec<u8>, times: u32) -> u32 {
    let stream = client.h2().tls("registry.test:443").await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while matches!(read.read(&mut buffer).await, Ok(1..)) {}
    });
    let mut begin = PREFACE.to_vec();
    begin.extend(frame(SETTINGS, 0, 0, &[]));
    begin.extend(first);
    let mut sent = 0;
    if write.write_all(&begin).await.is_ok() {
        while sent < times {
            let mut batch = Vec::new();
            for _ in 0..100 {
                batch.extend(part(sent));
                sent += 1;
            }
            let wrote = tokio::time::timeout(Duration::from_secs(10), write.write_all(&batch));
            if !matches!(wrote.await, Ok(Ok(()))) {
                break;
            }
        }
        let _ = write.flush().await;
    }
    drop(write);
    reader.abort();
    sent
}

/// Eight connections that flood at once; the guest is served, and memory bounded.
async fn assert_withstood(name: &str, first: Vec<u8>, part: fn(u32) -> Vec<u8>) {
    let (_up, image, gateway) = warm(|setup| setup.text("limits", "client_idle", "5s")).await;
    let before = memory(&gateway).await;
    let guest = Guest::begin(gateway.client(), &image);
    let mut floods = JoinSet::new();
    for _ in 0..8 {
        floods.spawn(flood(gateway.client(), first.clone(), part, 20_000));
    }
    let mut sent = 0;
    while let Some(ended) = within(100, floods.join_next()).await {
        sent += ended.unwrap();
    }
    let grown = (memory(&gateway).await - before) / 1_048_576.0;
    guest.end(name).await;
    eprintln!("{name}: {sent} frames, {grown:.0} MiB more");
    assert!(grown < 96.0, "{grown} MiB more after {sent} frames");
    assert_all_gone(&gateway).await;
    gateway.client().pull(&image).await;
}

#[tokio::test]
async fn a_rapid_reset_is_withstood() {
    assert_withstood("rapid reset", Vec::new(), |turn| {
        let stream = turn * 2 + 1;
        let mut both = frame(HEADERS, 0x5, stream, &get("/v2/app/manifests/v1"));
        both.extend(frame(RESET, 0, stream, &8u32.to_be_bytes()));
        both
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_continuations_is_withstood() {
    let first = frame(HEADERS, 0, 1, &get("/v2/"));
    assert_withstood("continuations", first, |_| {
        frame(
            CONTINUATION,
            0,
            1,
            &[&[0, 1, b'x', 126][..], &[b'y'; 126]].concat(),
        )
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_settings_is_withstood() {
    assert_withstood("settings", Vec::new(), |turn| {
        let mut setting = vec![0, 4];
        setting.extend((turn % 65_535).to_be_bytes());
        frame(SETTINGS, 0, 0, &setting)
    })
    .await;
}

#[tokio::test]
async fn a_flood_of_pings_is_withstood() {
    assert_withstood("pings", Vec::new(), |_| frame(PING, 0, 0, b"01234567")).await;
}

#[tokio::test]
async fn a_flood_of_empty_frames_is_withstood() {
    let first = frame(HEADERS, 0x4, 1, &get("/v2/"));
    assert_withstood("empty frames", first, |turn| match turn % 3 {
        0 => frame(DATA, 0, 1, &[]),
        1 => frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]),
        _ => frame(WINDOW, 0, 0, &1u32.to_be_bytes()),
    })
    .await;
}

#[tokio::test]
async fn windows_of_nothing_hold_a_bounded_memory() {
    let (_up, image, gateway) = warm(|setup| setup.text("limits", "client_idle", "3s")).await;
    let before = memory(&gateway).await;
    let guest = Guest::begin(gateway.client(), &image);
    let path = format!("/v2/app/blobs/{}", image.layers[0].digest);
    let mut first = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    for stream in 0..100 {
        first.extend(frame(HEADERS, 0x5, stream * 2 + 1, &get(&path)));
    }
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut stream = gateway
            .client()
            .h2()
            .tls("registry.test:443")
            .await
            .unwrap();
        stream.write_all(PREFACE).await.unwrap();
        stream.write_all(&first).await.unwrap();
        stream.flush().await.unwrap();
        held.push(stream);
    }
    // Each ends by itself: nobody takes what it asked for.
    for mut stream in held {
        let mut rest = Vec::new();
        let _ = within(40, stream.read_to_end(&mut rest)).await;
    }
    let grown = (memory(&gateway).await - before) / 1_048_576.0;
    guest.end("windows of nothing").await;
    eprintln!("2,000 streams without a window: {grown:.0} MiB more");
    // Of each connection's hundred the first thirty-two are let in, and hold a chunk each.
    assert!(grown < 256.0, "{grown} MiB more");
    assert_all_gone(&gateway).await;
}

#[tokio::test]
async fn who_opens_no_window_and_pings_is_not_waited_for() {
    let (_up, image, gateway) = warm(|setup| setup.text("limits", "client_idle", "3s")).await;
    let path = format!("/v2/app/blobs/{}", image.layers[0].digest);
    let stream = gateway
        .client()
        .h2()
        .tls("registry.test:443")
        .await
        .unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let pings = tokio::spawn(async move {
        let mut first = PREFACE.to_vec();
        first.extend(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 1]));
        first.extend(frame(HEADERS, 0x5, 1, &get(&path)));
        let mut ticks = tokio::time::interval(Duration::from_millis(250));
        while write.write_all(&first).await.is_ok() && write.flush().await.is_ok() {
            ticks.tick().await;
            first = frame(PING, 0, 0, &[0; 8]);
        }
    });
    let mut rest = Vec::new();
    let _ = within(20, read.read_to_end(&mut rest)).await;
    pings.abort();
    assert_all_gone(&gateway).await;
}

// --- floods of requests ---

#[tokio::test]
async fn a_flood_of_connects_keeps_nobody_else_waiting() {
    let (_up, image, gateway) =
        warm(|setup| setup.set("limits", "connections_per_client", "400")).await;
    let before = memory(&gateway).await;
    let guest = Guest::begin(gateway.client(), &image);
    let mut floods = JoinSet::new();
    for worker in 0..16 {
        let addr = gateway.proxy;
        floods.spawn(async move {
            for turn in 0..100 {
                // Allowed, denied, no host, and one that stays open and silent.
                let head = match turn % 4 {
                    0 => "CONNECT registry.test:443 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
                    1 => format!(
                        "CONNECT h{worker}-{turn}.denied.test:443 HTTP/1.1\r\nHost: x\r\n\r\n"
                    ),
                    2 => "CONNECT ..:0 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
                    _ => "CONNECT ".to_owned(),
                };
                let Ok(mut socket) = TcpStream::connect(addr).await else {
                    continue;
                };
                let _ = socket.write_all(head.as_bytes()).await;
                if turn % 4 < 3 {
                    let mut start = [0; 12];
                    let _ = within(60, socket.read_exact(&mut start)).await;
                }
            }
        });
    }
    while let Some(ended) = within(100, floods.join_next()).await {
        ended.unwrap();
    }
    guest.end("CONNECTs").await;
    let grown = (memory(&gateway).await - before) / 1_048_576.0;
    assert!(grown < 96.0, "{grown} MiB more");
    assert_all_gone(&gateway).await;
}

#[tokio::test]
async fn heads_that_are_bombs_are_refused_inside_tls_too() {
    let (up, image, gateway) = warm(|setup| setup).await;
    let asked = up.requests();
    let before = memory(&gateway).await;
    let guest = Guest::begin(gateway.client(), &image);
    for _ in 0..10 {
        let mut tls = gateway.client().tls("registry.test:443").await.unwrap();
        let bomb = format!(
            "GET /v2/ HTTP/1.1\r\nHost: registry.test\r\n{}\r\n",
            "X-Many: x\r\n".repeat(200_000)
        );
        // It stops listening in the middle of it.
        let _ = tls.write_all(bomb.as_bytes()).await;
        let mut rest = Vec::new();
        let _ = within(30, tls.read_to_end(&mut rest)).await;
        let text = String::from_utf8_lossy(&rest);
        assert!(
            rest.is_empty() || text.starts_with("HTTP/1.1 431"),
            "{text}"
        );
        // One field that HPACK repeats: small on the wire, large in memory.
        let mut first = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
        first.extend([b'y'; 4000]);
        let mut block = get("/v2/");
        block.extend(first);
        block.extend([0xbe; 8000]);
        let part = move |turn: u32| frame(HEADERS, 0x5, turn * 2 + 1, &block);
        flood(gateway.client(), Vec::new(), part, 200).await;
    }
    guest.end("bombs").await;
    let grown = (memory(&gateway).await - before) / 1_048_576.0;
    assert!(grown < 96.0, "{grown} MiB more");
    assert_eq!(up.requests(), asked, "a bomb went upstream");
}

/// What one client asks and does not wait for goes on, though so much at a time and no more.
#[tokio::test]
async fn who_asks_and_leaves_again_and_again_keeps_nobody_from_upstream() {
    for what in ["manifests/t", "blobs/sha256:"] {
        let up = Upstream::start().await;
        up.repo("registry.test", "app");
        let gateway = Gateway::before(&up).start().await;
        let gate = Gate::new();
        up.fault(On::get(what).always(), Fault::Late(gate.clone()));
        let url = move |number: usize| format!("https://registry.test/v2/app/{what}{number:064x}");
        for wave in 0..3 {
            let mut asking = JoinSet::new();
            for number in 0..128 {
                let client = gateway.client();
                asking.spawn(async move {
                    let url = url(wave * 128 + number);
                    client.get(&url).try_send().await.is_ok()
                });
            }
            if wave < 2 {
                gate.arrived((wave + 1) * 128).await;
                asking.shutdown().await;
                continue;
            }
            let another = gateway.client().from("127.0.0.2");
            asking.spawn(async move { another.get(&url(9_999)).try_send().await.is_ok() });
            gate.arrived(257).await;
            assert_eq!(up.count(Method::GET, what), 257, "{what}");
            gate.open();
            while asking.join_next().await.is_some() {}
        }
    }
}

// --- smuggling ---

/// What is sent inside TLS, and what it must not become.
#[tokio::test]
async fn no_request_hides_in_another() {
    let up = Upstream::start().await;
    up.repo("registry.test", "app");
    let setup = Gateway::before(&up).text("limits", "client_idle", "2s");
    let gateway = setup.start().await;
    let hidden = "GET /v2/hidden/tags/list HTTP/1.1\r\nHost: registry.test\r\n\r\n";
    let len = hidden.len();
    let get = "GET /v2/app/tags/list HTTP/1.1\r\nHost: registry.test\r\n";
    for request in [
        // Two framings, two lengths, or one that is spelled strangely: refused, or the last there.
        format!("{get}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!(
            "{get}Content-Length: {len}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!("{get}Transfer-Encoding: chunked\r\nContent-Length: {len}\r\n\r\n{hidden}"),
        format!("{get}Content-Length: 0\r\nContent-Length: {len}\r\n\r\n{hidden}"),
        format!("{get}Content-Length: 0, {len}\r\n\r\n{hidden}"),
        format!("{get}Content-Length: +{len}\r\n\r\n{hidden}"),
        format!("{get}Content-Length: -1\r\n\r\n{hidden}"),
        format!("{get}Content-Length : {len}\r\n\r\n{hidden}"),
        format!("{get}Transfer-Encoding: xchunked\r\n\r\n{hidden}"),
        format!("{get}Transfer-Encoding: chunked, identity\r\n\r\n{hidden}"),
        format!("{get}Transfer-Encoding:\x0bchunked\r\n\r\n{hidden}"),
        format!("{get}X: a\r\n Content-Length: {len}\r\n\r\n"),
        format!("{get}X: a\rContent-Length: {len}\r\n\r\n"),
        format!("{get}X: a\0b\r\n\r\n"),
        "GET /v2/app/tags/list HTTP/1.1\r\nHost: registry.test\r\nHost: hidden.test\r\n\r\n"
            .to_owned(),
        "GET http://hidden.test/v2/hidden/ HTTP/1.1\r\nHost: registry.test\r\n\r\n".to_owned(),
        "GET https://registry.test/v2/ HTTP/1.1\r\nHost: hidden.test\r\n\r\n".to_owned(),
        "GET /v2/app/tags/list\r\nGET /v2/hidden/ HTTP/1.1\r\nHost: registry.test\r\n\r\n"
            .to_owned(),
        "GET /v2/app/tags/list HTTP/1.1 HTTP/1.1\r\nHost: registry.test\r\n\r\n".to_owned(),
    ] {
        let mut tls = gateway.client().tls("registry.test:443").await.unwrap();
        tls.write_all(request.as_bytes()).await.unwrap();
        tls.flush().await.unwrap();
        let raw = wire::answer(&mut tls).await;
        let is_last = raw.head.to_lowercase().contains("connection: close");
        assert!(raw.status >= 400 || is_last, "{request:?}: {}", raw.head);
        let mut rest = Vec::new();
        let _ = within(30, tls.read_to_end(&mut rest)).await;
        assert!(
            !String::from_utf8_lossy(&rest).contains("HTTP/1.1 "),
            "a second answer to {request:?}"
        );
    }
    let seen = up.seen();
    assert!(
        seen.iter()
            .all(|one| !one.path.contains("hidden") && one.host != "hidden.test"),
        "{seen:?}"
    );
}

// --- documents ---

#[tokio::test]
async fn an_index_of_very_many_and_one_that_is_very_deep_are_served_in_time() {
    let up = Upstream::start().await;
    let repo = up.repo("registry.test", "app");
    let leaf = repo.image("leaf", 3, &[1000]).manifest;
    let entry = serde_json::json!({
        "mediaType": leaf.media_type, "digest": leaf.digest, "size": leaf.bytes.len(),
    });
    let many = serde_json::json!({
        "schemaVersion": 2, "mediaType": image::OCI_INDEX, "manifests": vec![entry; 20_000],
    });
    let many = Manifest::of(image::OCI_INDEX, many.to_string());
    // JSON that nests deeper than any stack.
    let nested = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[],"x":{}1{}}}"#,
        image::OCI_INDEX,
        "[".repeat(500_000),
        "]".repeat(500_000)
    );
    let nested = Manifest::of(image::OCI_INDEX, nested);
    let mut deep = leaf.clone();
    for _ in 0..100 {
        deep = Manifest::index(image::OCI_INDEX, &[&deep]);
        repo.put_manifest(&deep);
    }
    repo.tag("many", &[&many])
        .tag("nested", &[&nested])
        .tag("deep", &[&deep]);
    let gateway = Gateway::before(&up).start().await;
    for (tag, manifest) in [("many", &many), ("nested", &nested), ("deep", &deep)] {
        for _ in 0..2 {
            let digest = within(60, gateway.client().manifest(&repo, tag)).await;
            assert_eq!(digest, manifest.digest, "{tag}");
        }
    }
    // The views of the cache, which follow them, have an end as well.
    for path in ["/api/v1/images", "/metrics", "/"] {
        let reply = within(60, crate::support::client::plain(gateway.admin, path)).await;
        assert_eq!(reply.status, 200, "{path}");
    }
}
