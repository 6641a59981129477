//! `pierhead export` and `pierhead import`: images across an air gap.

mod export;
mod import;

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

pub use self::export::Export;
pub use self::import::Import;

/// A bar of bytes on a terminal, and nothing elsewhere.
fn bar(total: u64, what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar
}

const BAR: &str = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
