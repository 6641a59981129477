//! Spans, told to a collector (`log.otlp`).

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::support::{Gateway, Upstream, within};

/// A collector that keeps what it is sent, and answers with a status.
struct Collector {
    addr: SocketAddr,
    sent: watch::Receiver<Vec<Bytes>>,
}

// === impl Collector ===

impl Collector {
    async fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, sent) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let sender = sender.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let sender = sender.clone();
                    async move {
                        let (head, body) = request.into_parts();
                        assert_eq!(
                            (head.method.as_str(), head.uri.path()),
                            ("POST", "/v1/traces")
                        );
                        assert_eq!(head.headers["content-type"], "application/json");
                        let body = body.collect().await.unwrap().to_bytes();
                        sender.send_modify(|all| all.push(body));
                        let answer = Response::builder().status(status);
                        Ok::<_, Infallible>(answer.body(Full::<Bytes>::from("{}")).unwrap())
                    }
                });
                let socket = TokioIo::new(socket);
                tokio::spawn(http1::Builder::new().serve_connection(socket, service));
            }
        });
        Self { addr, sent }
    }

    fn address(&self) -> String {
        format!("http://{}/", self.addr)
    }

    /// Every span so far.
    fn spans(&self) -> Vec<Value> {
        let mut spans = Vec::new();
        for document in self.sent.borrow().iter() {
            let document: Value = serde_json::from_slice(document).expect("JSON");
            let all = &document["resourceSpans"][0]["scopeSpans"][0]["spans"];
            spans.extend(all.as_array().expect("a list").iter().cloned());
        }
        spans
    }
}

fn attribute<'a>(span: &'a Value, key: &str) -> Option<&'a str> {
    let all = span["attributes"].as_array()?;
    let found = all.iter().find(|one| one["key"] == key)?;
    let value = &found["value"];
    value["stringValue"].as_str().or(value["intValue"].as_str())
}

/// Whether the collector's own definition of a request takes these bytes.
fn is_otlp(document: &[u8]) -> (bool, String) {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    let read = "import sys\n\
        from google.protobuf import json_format\n\
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2\n\
        json_format.Parse(sys.stdin.read(), trace_service_pb2.ExportTraceServiceRequest())";
    let mut child = Command::new(python)
        .args(["-c", read])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the Python of scripts/test");
    child.stdin.take().unwrap().write_all(document).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said)
}

#[tokio::test]
async fn a_pull_is_told_to_a_collector_the_last_of_it_at_the_end() {
    let collector = Collector::start(200).await;
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 91, &[100_000]);
    let setup = Gateway::before(&up).text("log", "otlp", &collector.address());
    let mut gateway = setup.start().await;
    gateway.client().pull(&image).await;
    assert!(gateway.terminate().await.success());

    let spans = collector.spans();
    let of = |name: &str, path: &str| {
        let found = spans.iter().find(|span| {
            let on = attribute(span, "url.path").is_some_and(|on| on.ends_with(path));
            span["name"] == name && (on || path.is_empty())
        });
        found.unwrap_or_else(|| panic!("no {name} of {path} in {spans:#?}"))
    };
    let path = format!("/manifests/{}", image.manifest.digest);
    let request = of("request", &path);
    let asked_for_it = spans
        .iter()
        .find(|span| span["name"] == "upstream" && span["parentSpanId"] == request["spanId"]);
    let upstream = asked_for_it.unwrap_or_else(|| panic!("no upstream in {spans:#?}"));
    assert_eq!(request["kind"], 2);
    assert_eq!(upstream["kind"], 3);
    assert_eq!(request["parentSpanId"], "");
    assert_eq!(upstream["traceId"], request["traceId"]);
    assert_eq!(attribute(request, "pierhead.outcome"), Some("miss"));
    assert_eq!(attribute(request, "http.response.status_code"), Some("200"));
    assert_eq!(attribute(upstream, "server.address"), Some("registry.test"));
    let time = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    assert!(time(request, "startTimeUnixNano") <= time(upstream, "startTimeUnixNano"));
    assert!(time(upstream, "endTimeUnixNano") <= time(request, "endTimeUnixNano"));
    // A download belongs to the request that began it: the layer's, or the manifest's that led to it.
    let download = of("download", "");
    let began = spans
        .iter()
        .find(|span| span["name"] == "request" && span["spanId"] == download["parentSpanId"]);
    let began = began.unwrap_or_else(|| panic!("nobody began the download: {spans:#?}"));
    assert_eq!(began["traceId"], download["traceId"]);
    assert_eq!(download["status"], serde_json::json!({}));

    for document in collector.sent.borrow().iter() {
        let (yes, said) = is_otlp(document);
        assert!(yes, "{said}\n{}", String::from_utf8_lossy(document));
    }
    let (yes, _) = is_otlp(b"{\"resourceSpans\":[{\"spans\":[]}]}");
    assert!(!yes, "anything is taken");
    // Spans are no lines.
    assert!(!gateway.log.text().contains("otel.kind"));
}

#[tokio::test]
async fn a_collector_that_takes_nothing_disturbs_nobody_and_is_told_of_once() {
    let collector = Collector::start(503).await;
    let up = Upstream::start().await;
    let image = up.repo("registry.test", "app").image("v1", 92, &[1_000]);
    let setup = Gateway::before(&up).text("log", "otlp", &collector.address());
    let gateway = setup.start().await;
    let mut sent = collector.sent.clone();
    for n in 1..=2 {
        gateway.client().pull(&image).await;
        within(30, sent.wait_for(|all| all.len() >= n))
            .await
            .unwrap();
    }
    let line = gateway.log.line("spans are not taken").await;
    assert!(line.contains("503"), "{line}");
    assert_eq!(gateway.log.all("spans are not taken").len(), 1);
    let lost = within(30, async {
        loop {
            let text = gateway.metrics().await;
            let start = "pierhead_spans_total{result=\"lost\"} ";
            let lost = text.lines().find_map(|line| line.strip_prefix(start));
            if lost.is_some_and(|n| n != "0") {
                return text;
            }
        }
    })
    .await;
    assert!(
        lost.contains("pierhead_spans_total{result=\"sent\"} 0"),
        "{lost}"
    );
}
