//! Spans of requests, of what they ask of upstreams, and of downloads: for a collector that is told of
//! them (`log.otlp`).
//!
//! They are `tracing` spans of the target [`TARGET`]. Without a collector nobody is interested in that
//! target, and a span costs a look at a flag.

mod otlp;

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

pub use self::otlp::Exporter;

/// The target of the spans that are told.
pub const TARGET: &str = "span";

/// Takes spans down as they open and close.
#[derive(Debug)]
pub struct Spans {
    finished: mpsc::Sender<Finished>,
    ids: Ids,
}

/// Spans on their way to a collector.
#[derive(Debug)]
pub struct Queue(mpsc::Receiver<Finished>);

/// A span that has closed.
#[derive(Debug)]
struct Finished {
    open: Open,
    name: &'static str,
    end: SystemTime,
}

/// What is known of a span so far.
#[derive(Debug)]
struct Open {
    trace: u128,
    id: u64,
    parent: Option<u64>,
    start: SystemTime,
    /// When its result was recorded: tasks that it began may hold it open for longer.
    end: Option<SystemTime>,
    fields: Fields,
}

/// What was said of a span: an attribute each, but for what OTLP has a place of its own for.
#[derive(Debug, Default)]
struct Fields {
    attributes: Vec<(&'static str, Value)>,
    /// `otel.kind`: `server` or `client`.
    kind: Option<String>,
    /// `error`: what went wrong.
    error: Option<String>,
}

#[derive(Debug)]
enum Value {
    Bool(bool),
    Int(i64),
    Text(String),
}

/// Numbers that no other process has.
#[derive(Debug)]
struct Ids {
    seed: u64,
    next: AtomicU64,
}

/// Takes spans down, and where they come out. A queue that is full loses what comes; how much says
/// the metric.
pub fn channel() -> (Spans, Queue) {
    let (finished, queue) = mpsc::channel(QUEUED);
    let spans = Spans {
        finished,
        ids: Ids::new(),
    };
    (spans, Queue(queue))
}

/// Whether a span or an event is one of those told to a collector, and not a line of the log.
pub(super) fn is_span(metadata: &Metadata<'_>) -> bool {
    metadata.target() == TARGET && metadata.is_span() && *metadata.level() <= Level::INFO
}

// === impl Spans ===

impl<S> Layer<S> for Spans
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let parent = span.parent().and_then(|parent| {
            let extensions = parent.extensions();
            extensions.get::<Open>().map(|open| (open.trace, open.id))
        });
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(Open {
            trace: parent.map_or_else(|| self.ids.trace(), |(trace, _)| trace),
            id: self.ids.span(),
            parent: parent.map(|(_, id)| id),
            start: SystemTime::now(),
            end: None,
            fields,
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(open) = span.extensions_mut().get_mut::<Open>() {
            values.record(&mut open.fields);
            open.end = Some(SystemTime::now());
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else {
            return;
        };
        if let Some(open) = span.extensions_mut().remove::<Open>() {
            let finished = Finished {
                end: open.end.unwrap_or_else(SystemTime::now),
                open,
                name: span.name(),
            };
            if self.finished.try_send(finished).is_err() {
                LOST.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

// === impl Fields ===

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("otel.kind", Value::Text(kind)) => self.kind = Some(kind),
            ("error", Value::Text(why)) => self.error = Some(why),
            (name, value) => self.attributes.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bool(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Int(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Int(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Text(value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, Value::Text(format!("{value:?}")));
    }
}

// === impl Ids ===

impl Ids {
    fn new() -> Self {
        let mut seed = [0; 8];
        // Without randomness two processes may have the same numbers, and a collector two spans in one.
        let _ = getrandom::fill(&mut seed);
        Self {
            seed: u64::from_ne_bytes(seed),
            next: AtomicU64::new(1),
        }
    }

    /// Never zero, which would mean none (W3C Trace Context section 3.2.2).
    fn span(&self) -> u64 {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        mixed(self.seed.wrapping_add(n)).max(1)
    }

    fn trace(&self) -> u128 {
        u128::from(self.span()) << 64 | u128::from(self.span())
    }
}

/// SplitMix64's finalizer: neighbours come out far from each other, and no two the same.
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

/// Spans that found the queue full. The logger belongs to the process, and so does what it loses.
static LOST: AtomicU64 = AtomicU64::new(0);
const QUEUED: usize = 4096;
