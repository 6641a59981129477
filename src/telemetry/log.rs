//! Log lines on standard error: text for a person, JSON for a collector.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::batch::Batch;
use super::line::{SINK, Sink};
use super::spans::{self, Spans};

type SetLevel = Box<dyn Fn(&str) + Send + Sync>;

/// Belongs to the process, as its logger does.
static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Writes what is still to be written when it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Flush(Option<Batch>);

/// Sends log lines of `level` and above to standard error from here on, as JSON or as text; the last
/// ones when the answer is dropped. `spans`, where there are any, go their own way. A second call in one
/// process changes nothing.
pub fn init(json: bool, level: &str, spans: Option<Spans>) -> Flush {
    // Without a thread each line is written where it is said.
    let batch = Batch::begin(std::io::stderr()).ok();
    let writer = match &batch {
        Some(batch) => BoxMakeWriter::new(batch.clone()),
        None => BoxMakeWriter::new(std::io::stderr),
    };
    if let Some(spans) = spans {
        with_spans(json, level, writer, spans);
        return Flush(batch);
    }
    let lines = tracing_subscriber::fmt()
        .with_env_filter(lines_of(level))
        .with_writer(writer);
    // The error would be that a logger is there already, and it will do.
    if json {
        let lines = lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_filter_reloading();
        let filter = lines.reload_handle();
        if lines.try_init().is_ok() {
            remember(move |level| drop(filter.reload(lines_of(level))));
        }
    } else {
        let lines = lines
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter_reloading();
        let filter = lines.reload_handle();
        if lines.try_init().is_ok() {
            remember(move |level| drop(filter.reload(lines_of(level))));
        }
    }
    // Colours are for a person, who reads slowly.
    if (json || !std::io::stderr().is_terminal())
        && let Some(batch) = &batch
    {
        let sink = Sink {
            batch: batch.clone(),
            json,
        };
        let _ = SINK.set(sink);
    }
    Flush(batch)
}

/// The same beside spans: each is asked what it is interested in, which costs a line more than one that
/// is alone.
fn with_spans(json: bool, level: &str, writer: BoxMakeWriter, spans: Spans) {
    let (filter, handle) = reload::Layer::new(lines_of(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match json {
        true => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_filter(filter)
            .boxed(),
        false => lines
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter(filter)
            .boxed(),
    };
    let all = tracing_subscriber::registry()
        .with(lines)
        .with(spans.with_filter(filter_fn(spans::is_span)));
    if all.try_init().is_ok() {
        remember(move |level| drop(handle.reload(lines_of(level))));
    }
}

/// What is said of `level` and above; spans are no lines.
fn lines_of(level: &str) -> EnvFilter {
    EnvFilter::new(format!("{level},{}=off", spans::TARGET))
}

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some(batch) = &self.0 {
            batch.flush();
        }
    }
}

/// Lines of `level` and above from here on.
pub fn set_level(level: &str) {
    if let Some(set) = SET_LEVEL.get() {
        set(level);
    }
}

fn remember(set: impl Fn(&str) + Send + Sync + 'static) {
    // Only the first logger gets here, and only once.
    let _ = SET_LEVEL.set(Box::new(set));
}
