//! Log lines on standard error: text for a person, JSON for a collector.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use super::batch::Batch;

type SetLevel = Box<dyn Fn(&str) + Send + Sync>;

/// Belongs to the process, as its logger does.
static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Writes what is still to be written when it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Flush(Option<Batch>);

/// Sends log lines of `level` and above to standard error from here on, as JSON or as text; the last
/// ones when the answer is dropped. A second call in one process changes nothing.
pub fn init(json: bool, level: &str) -> Flush {
    // Without a thread each line is written where it is said.
    let batch = Batch::begin(std::io::stderr()).ok();
    let writer = match &batch {
        Some(batch) => BoxMakeWriter::new(batch.clone()),
        None => BoxMakeWriter::new(std::io::stderr),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
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
            remember(move |level| drop(filter.reload(EnvFilter::new(level))));
        }
    } else {
        let lines = lines
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter_reloading();
        let filter = lines.reload_handle();
        if lines.try_init().is_ok() {
            remember(move |level| drop(filter.reload(EnvFilter::new(level))));
        }
    }
    Flush(batch)
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
