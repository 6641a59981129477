//! Log lines on standard error: text for a person, JSON for a collector.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sends log lines of `level` and above to standard error from here on, as JSON or as text. A second
/// call in one process changes nothing.
pub fn init(json: bool, level: &str) {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(std::io::stderr);
    // The error would be that a logger is there already, and it will do.
    let _ = if json {
        lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
}
