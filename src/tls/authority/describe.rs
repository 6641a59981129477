//! The CA, for a person.

use super::Authority;

// === impl Authority ===

impl Authority {
    /// What `ca show` prints: several lines, the last one ended.
    pub fn describe(&self) -> String {
        let mut rows = vec![("subject", self.subject.clone())];
        if self.anchor.subject != self.subject {
            rows.push(("clients trust", self.anchor.subject.clone()));
        }
        rows.push(("sha256", self.anchor.fingerprint.clone()));
        rows.push((
            "valid",
            format!("{} to {}", self.not_before.date(), self.not_after.date()),
        ));
        rows.push(("certificate", self.certificate_path.display().to_string()));
        rows.push(("key", self.key_path.display().to_string()));
        match &self.constraints {
            Some(constraints) => rows.extend(constraints.lines()),
            None => rows.push(("permitted", "any host (no name constraints)".to_owned())),
        }
        rows.iter()
            .map(|(label, value)| wrap(label, value))
            .collect()
    }
}

// === helpers ===

/// `label  value`, broken between items so that lines stay within 80 columns where they can.
fn wrap(label: &str, value: &str) -> String {
    const INDENT: usize = 15;
    const WIDTH: usize = 80;
    let mut out = format!("{label:INDENT$}");
    let mut column = INDENT;
    for (index, item) in value.split_inclusive(", ").enumerate() {
        if index > 0 && column + item.trim_end().len() > WIDTH {
            out.truncate(out.trim_end().len());
            out.push('\n');
            out.push_str(&" ".repeat(INDENT));
            column = INDENT;
        }
        out.push_str(item);
        column += item.len();
    }
    out.push('\n');
    out
}
