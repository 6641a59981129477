//! Figures, their medians, and the Markdown table they make.

use std::fmt;

/// Figures of all runs: a row for each work and unit, a column for each peer.
#[derive(Debug, Default)]
pub struct Table {
    peers: Vec<&'static str>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    work: String,
    unit: &'static str,
    /// For each peer, a figure for each run.
    cells: Vec<Vec<f64>>,
}

// === impl Table ===

impl Table {
    /// Adds a run's figure.
    pub fn add(&mut self, peer: &'static str, work: &str, unit: &'static str, figure: f64) {
        let column = match self.peers.iter().position(|name| *name == peer) {
            Some(column) => column,
            None => {
                self.peers.push(peer);
                self.peers.len() - 1
            }
        };
        let same = |row: &&mut Row| row.work == work && row.unit == unit;
        let row = match self.rows.iter_mut().find(same) {
            Some(row) => row,
            None => {
                self.rows.push(Row {
                    work: work.to_owned(),
                    unit,
                    cells: Vec::new(),
                });
                self.rows.last_mut().expect("it was just pushed")
            }
        };
        if row.cells.len() <= column {
            row.cells.resize(column + 1, Vec::new());
        }
        row.cells[column].push(figure);
    }
}

// === impl Row ===

impl Row {
    /// The first peer's figure as a part of the best of the others'.
    fn to_the_best(&self) -> Option<f64> {
        let mut medians = self.cells.iter().map(|figures| {
            let has = !figures.is_empty();
            has.then(|| median(figures))
        });
        let first = medians.next()??;
        let others = medians.flatten();
        let best = match self.unit.contains("/s") {
            true => others.reduce(f64::max),
            false => others.reduce(f64::min),
        };
        best.filter(|best| *best > 0.0).map(|best| first / best)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let beside = self.peers.len() > 1;
        write!(f, "| work | unit | {} |", self.peers.join(" | "))?;
        writeln!(f, "{}", if beside { " to the best other |" } else { "" })?;
        let columns = self.peers.len() + usize::from(beside);
        writeln!(f, "|---|---|{}", "---:|".repeat(columns))?;
        let mut last = "";
        for row in &self.rows {
            let work = if row.work == last { "" } else { &row.work };
            write!(f, "| {work} | {} |", row.unit)?;
            for column in 0..self.peers.len() {
                match row.cells.get(column) {
                    Some(figures) if !figures.is_empty() => write!(f, " {} |", short(figures))?,
                    _ => write!(f, " |")?,
                }
            }
            match row.to_the_best() {
                Some(ratio) if beside => writeln!(f, " {ratio:.2} |")?,
                _ => writeln!(f, "{}", if beside { " |" } else { "" })?,
            }
            last = &row.work;
        }
        Ok(())
    }
}

/// The middle one; of an even number the upper of the two.
pub fn median(figures: &[f64]) -> f64 {
    percentile(figures, 50)
}

/// The figure that `percent` of all are below.
pub fn percentile(figures: &[f64], percent: usize) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = sorted.len() * percent / 100;
    sorted.get(at).or(sorted.last()).copied().unwrap_or(0.0)
}

/// The median in three digits, with thousands set apart.
fn short(figures: &[f64]) -> String {
    let median = median(figures);
    match median.abs() {
        count if count.fract() == 0.0 && count < 1000.0 => format!("{count}"),
        small if small < 1.0 => format!("{median:.3}"),
        small if small < 10.0 => format!("{median:.2}"),
        small if small < 100.0 => format!("{median:.1}"),
        small if small < 1000.0 => format!("{median:.0}"),
        _ => {
            let digits = format!("{median:.0}");
            let (thousands, rest) = digits.split_at(digits.len() - 3);
            format!("{thousands},{rest}")
        }
    }
}
