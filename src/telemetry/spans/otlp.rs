//! Spans → a collector: OTLP over HTTP, in its JSON encoding, which every collector reads that takes
//! OTLP over HTTP. It costs no more than the JSON and HTTP that are here anyway.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde_json::{Value as Json, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::super::build;
use super::super::metrics::Metrics;
use super::{Finished, LOST, Queue, Value};

/// Sends spans to a collector.
pub struct Exporter {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    address: Uri,
    metrics: Arc<Metrics>,
    /// The last that came of it was a failure: told once, and not each time.
    failing: bool,
}

/// A span as OTLP writes it (opentelemetry-proto, `trace.proto`, JSON mapping).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Span {
    trace_id: String,
    span_id: String,
    parent_span_id: String,
    name: &'static str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<Json>,
    status: Json,
}

// === impl Exporter ===

impl Exporter {
    /// `collector` is its address without `/v1/traces`, which comes after it.
    pub fn new(collector: &Uri, tls: rustls::ClientConfig, metrics: Arc<Metrics>) -> Option<Self> {
        let address = format!("{}/v1/traces", collector.to_string().trim_end_matches('/'));
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(PATIENCE));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Some(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            address: address.parse().ok()?,
            metrics,
            failing: false,
        })
    }

    /// Sends what comes, some at a time, until `end`; then what is left.
    pub async fn run(mut self, queue: Queue, end: CancellationToken) {
        let Queue(mut queue) = queue;
        let mut spans = Vec::new();
        loop {
            let last = tokio::select! {
                n = queue.recv_many(&mut spans, AT_ONCE) => n == 0,
                () = end.cancelled() => true,
            };
            if !last {
                // A little later there are more of them, for the same price.
                let more = async {
                    while spans.len() < AT_ONCE {
                        let room = AT_ONCE - spans.len();
                        if queue.recv_many(&mut spans, room).await == 0 {
                            break;
                        }
                    }
                };
                tokio::select! {
                    () = more => {}
                    () = tokio::time::sleep(GATHER) => {}
                    () = end.cancelled() => {}
                }
            }
            while let Ok(span) = queue.try_recv() {
                spans.push(span);
            }
            if !spans.is_empty() {
                self.send(std::mem::take(&mut spans)).await;
            }
            if last {
                return;
            }
        }
    }

    async fn send(&mut self, spans: Vec<Finished>) {
        let n = spans.len() as u64;
        let document = document(spans);
        let result = match timeout(PATIENCE, self.post(document)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        };
        let lost = LOST.swap(0, Ordering::Relaxed);
        match &result {
            Ok(()) => self.metrics.spans(n, lost),
            Err(_) => self.metrics.spans(0, lost + n),
        }
        match (result, self.failing) {
            (Ok(()), true) => {
                info!(collector = %self.address, "spans are taken again");
                self.failing = false;
            }
            (Err(why), false) => {
                warn!(collector = %self.address, error = why, "spans are not taken, and are lost; pierhead_spans_total counts them");
                self.failing = true;
            }
            _ => {}
        }
    }

    async fn post(&self, document: Vec<u8>) -> Result<(), String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.address.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(
                header::USER_AGENT,
                concat!("pierhead/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::from(document))
            .map_err(|e| e.to_string())?;
        let response = self.client.request(request).await;
        let response = response.map_err(|e| match std::error::Error::source(&e) {
            Some(cause) => cause.to_string(),
            None => e.to_string(),
        })?;
        let status = response.status();
        // To its end, so that the connection can be used again.
        let body = Limited::new(response.into_body(), LONGEST_ANSWER);
        let body = body.collect().await.map_err(|e| e.to_string())?;
        match status.is_success() {
            true => Ok(()),
            false => {
                let said = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                Err(format!(
                    "{status} {}",
                    said.chars().take(200).collect::<String>()
                ))
            }
        }
    }
}

/// An `ExportTraceServiceRequest`.
fn document(spans: Vec<Finished>) -> Vec<u8> {
    let spans: Vec<Span> = spans.into_iter().map(Span::from).collect();
    let service = [
        ("service.name", "pierhead"),
        ("service.version", build::VERSION),
    ];
    let service =
        service.map(|(key, text)| json!({ "key": key, "value": { "stringValue": text } }));
    let document = json!({ "resourceSpans": [{
        "resource": { "attributes": service },
        "scopeSpans": [{ "scope": { "name": "pierhead" }, "spans": spans }],
    }] });
    document.to_string().into_bytes()
}

// === impl Span ===

impl From<Finished> for Span {
    fn from(finished: Finished) -> Self {
        let Finished { open, name, end } = finished;
        let status = match open.fields.error {
            Some(why) => json!({ "code": ERROR, "message": why }),
            None => json!({}),
        };
        let attributes = open.fields.attributes.into_iter().map(|(key, value)| {
            let value = match value {
                Value::Bool(yes) => json!({ "boolValue": yes }),
                // 64 bits are text in JSON.
                Value::Int(n) => json!({ "intValue": n.to_string() }),
                Value::Text(text) => json!({ "stringValue": text }),
            };
            json!({ "key": key, "value": value })
        });
        Self {
            trace_id: format!("{:032x}", open.trace),
            span_id: format!("{:016x}", open.id),
            parent_span_id: open
                .parent
                .map_or_else(String::new, |id| format!("{id:016x}")),
            name,
            kind: match open.fields.kind.as_deref() {
                Some("server") => SERVER,
                Some("client") => CLIENT,
                _ => INTERNAL,
            },
            start_time_unix_nano: nanoseconds(open.start),
            end_time_unix_nano: nanoseconds(end),
            attributes: attributes.collect(),
            status,
        }
    }
}

fn nanoseconds(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}

/// `SpanKind` and `StatusCode` of `trace.proto`.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
const CLIENT: u8 = 3;
const ERROR: u8 = 2;

const AT_ONCE: usize = 512;
const GATHER: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes.
const LONGEST_ANSWER: usize = 64 << 10;
