//! Log lines on standard error: text for a person, JSON for a collector.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

type SetLevel = Box<dyn Fn(&str) + Send + Sync>;

/// Belongs to the process, as its logger does.
static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Sends log lines of `level` and above to standard error from here on, as JSON or as text. A second
/// call in one process changes nothing.
pub fn init(json: bool, level: &str) {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(std::io::stderr);
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
