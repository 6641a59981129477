//! Access lines, put together by hand: one goes out with every request, and to have the logger do it
//! costs more than the rest of an answer. They look as the logger's own do, which a test holds.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::OnceLock;
use std::time::SystemTime;

use tracing::Level;

use super::access::Line;
use super::batch::Batch;

/// Where access lines go, and in which form.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) batch: Batch,
    pub(super) json: bool,
}

/// The process's, once it has a logger that writes lines without colours.
pub(super) static SINK: OnceLock<Sink> = OnceLock::new();

// === impl Sink ===

impl Sink {
    /// Writes `line`, with the body bytes that went out and the milliseconds it took, where access
    /// lines are wanted.
    pub(super) fn write(&self, line: &Line, bytes: u64, ms: u64, complete: bool) {
        if !tracing::enabled!(target: "access", Level::INFO) {
            return;
        }
        TEXT.with_borrow_mut(|text| {
            text.clear();
            put(text, self.json, line, bytes, ms, complete);
            // Nothing that can fail: it is kept in memory.
            let _ = self.batch.clone().write_all(text.as_bytes());
        });
    }
}

thread_local! {
    static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
}

fn put(text: &mut String, json: bool, line: &Line, bytes: u64, ms: u64, complete: bool) {
    let now = humantime::format_rfc3339_micros(SystemTime::now());
    let user = line.user.as_deref().unwrap_or_default();
    let outcome = line.outcome.as_str();
    // Writing to a String cannot fail.
    if !json {
        let _ = write!(
            text,
            "{now}  INFO access: client={} user={user:?}",
            line.client
        );
        for (name, value) in words(line) {
            text.push(' ');
            text.push_str(name);
            text.push('=');
            bare(text, value);
            if name == "reference" {
                let _ = write!(text, " status={} outcome={outcome:?}", line.status);
            }
        }
        let _ = writeln!(text, " bytes={bytes} ms={ms} complete={complete}");
        return;
    }
    let _ = write!(
        text,
        "{{\"timestamp\":\"{now}\",\"level\":\"INFO\",\"client\":\"{}\",\"user\":",
        line.client
    );
    quoted(text, user);
    for (name, value) in words(line) {
        text.push_str(",\"");
        text.push_str(name);
        text.push_str("\":");
        quoted(text, value);
        if name == "reference" {
            let _ = write!(
                text,
                ",\"status\":{},\"outcome\":\"{outcome}\"",
                line.status
            );
        }
    }
    let _ = writeln!(
        text,
        ",\"bytes\":{bytes},\"ms\":{ms},\"complete\":{complete},\"target\":\"access\"}}"
    );
}

/// What others wrote, in its order.
fn words(line: &Line) -> [(&'static str, &str); 5] {
    [
        ("method", line.method.as_str()),
        ("host", &line.host),
        ("repository", &line.repository),
        ("reference", &line.reference),
        ("rule", &line.rule),
    ]
}

/// As it is, but for what a terminal would obey.
fn bare(text: &mut String, value: &str) {
    if value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        text.push_str(value);
        return;
    }
    for c in value.chars() {
        match c.is_control() {
            true => text.extend(c.escape_default()),
            false => text.push(c),
        }
    }
}

/// As a JSON string.
fn quoted(text: &mut String, value: &str) {
    let plain = |byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
    if value.bytes().all(plain) {
        text.push('"');
        text.push_str(value);
        text.push('"');
    } else {
        text.push_str(&serde_json::Value::from(value).to_string());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use http::Method;
    use tracing::subscriber::with_default;

    use super::super::access::{Outcome, by_the_logger};
    use super::*;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Heard {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn line(user: Option<&str>, reference: &str, rule: &str) -> Line {
        Line {
            client: "2001:db8::1".parse().unwrap(),
            user: user.map(str::to_owned),
            method: Method::GET,
            host: "ghcr.io".into(),
            registry: Arc::default(),
            repository: "team/app".into(),
            reference: reference.into(),
            status: 206,
            outcome: Outcome::Follow,
            rule: rule.into(),
            started: Instant::now(),
        }
    }

    /// What the logger makes of a line.
    fn logged(json: bool, line: &Line) -> String {
        let heard = Heard::default();
        let written = heard.clone();
        let lines = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || written.clone());
        let say = || by_the_logger(line, 7, 12, true);
        match json {
            true => {
                let json = lines.json().flatten_event(true);
                let json = json.with_current_span(false).with_span_list(false);
                with_default(json.finish(), say);
            }
            false => with_default(lines.finish(), say),
        }
        let bytes = heard.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// Without the time, which is as long in all of them.
    fn timeless(line: &str) -> String {
        let time = "2026-11-28T17:32:09.123456Z";
        let at = line.find("202").unwrap();
        let (before, after) = line.split_at(at);
        let (then, after) = after.split_at(time.len());
        let shape = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "0");
        assert_eq!(shape(then), shape(time));
        format!("{before}{after}")
    }

    #[test]
    fn an_access_line_looks_as_the_loggers_own_do() {
        let lines = [
            line(None, "latest", ""),
            line(Some("ci"), "sha256:ab", "registry ghcr.io (built in)"),
            line(Some("a\"b\\c"), "/v2/a?x=\"1\"", "é ü"),
        ];
        for line in &lines {
            for json in [false, true] {
                let mut text = String::new();
                put(&mut text, json, line, 7, 12, true);
                assert_eq!(timeless(&text), timeless(&logged(json, line)));
            }
        }
    }

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let line = line(Some("a\nb"), "c\n2026 INFO d\u{1b}[2J", "e\r\n");
        for json in [false, true] {
            let mut text = String::new();
            put(&mut text, json, &line, 7, 12, true);
            let whole = text.strip_suffix('\n').unwrap();
            assert!(!whole.contains(|c: char| c.is_control()), "{whole:?}");
        }
    }
}
