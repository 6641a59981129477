//! The log of a running gateway, line by line as it comes.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::{Arc, Condvar, Mutex},
};

use serde_json::Value;
use tokio::sync::watch;

use super::within;

/// The lines that a process wrote to one of its outputs so far. Clones are the same log.
#[derive(Clone)]
pub struct Log(Arc<watch::Sender<Lines>>, Arc<(Mutex<bool>, Condvar)>);

#[derive(Default)]
struct Lines {
    all: Vec<String>,
    ended: bool,
}

/// An access line: one request, in the gateway's own words.
#[derive(Clone, Debug)]
pub struct Access(Value);

// === impl Log ===

impl Log {
    /// Follows `output` on a thread of its own, to its end.
    pub fn follow(output: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(watch::Sender::new(Lines::default()));
        let log = Self(lines, Arc::default());
        let writer = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).into_owned();
                writer.0.send_modify(|lines| lines.all.push(line));
            }
            writer.0.send_modify(|lines| lines.ended = true);
            let (ended, bell) = &*writer.1;
            *ended.lock().expect("no panic holds it") = true;
            bell.notify_all();
        });
        log
    }

    /// Everything so far.
    pub fn text(&self) -> String {
        self.0.borrow().all.join("\n")
    }

    /// The last lines so far.
    pub fn last(&self, most: usize) -> String {
        let lines = self.0.borrow();
        let first = lines.all.len().saturating_sub(most);
        lines.all[first..].join("\n")
    }

    /// Everything, once the process has ended and what it wrote has been read.
    pub fn whole(&self) -> String {
        let (ended, bell) = &*self.1;
        let ended = ended.lock().expect("no panic holds it");
        // A child of its own may hold the output open; then what has come must do.
        let limit = std::time::Duration::from_secs(10);
        let waited = bell.wait_timeout_while(ended, limit, |ended| !*ended);
        drop(waited.expect("no panic holds it"));
        self.text()
    }

    /// The access lines so far.
    pub fn accesses(&self) -> Vec<Access> {
        self.0
            .borrow()
            .all
            .iter()
            .filter_map(|line| Access::parse(line))
            .collect()
    }

    /// Waits for an access line such that `wanted`, which may have come already.
    #[track_caller]
    pub fn access(&self, wanted: impl Fn(&Access) -> bool) -> impl Future<Output = Access> {
        let mut lines = self.0.subscribe();
        within(30, async move {
            let found = lines
                .wait_for(|lines| lines.ended || accesses(lines).any(|access| wanted(&access)))
                .await
                .expect("the log holds its sender");
            let access = accesses(&found).find(&wanted);
            access.unwrap_or_else(|| panic!("no such line in:\n{}", found.all.join("\n")))
        })
    }

    /// The lines so far that contain `text`.
    pub fn all(&self, text: &str) -> Vec<String> {
        let lines = self.0.borrow();
        let has = lines.all.iter().filter(|line| line.contains(text));
        has.cloned().collect()
    }

    /// Waits for the `n`th line that contains `text`, counted from one.
    #[track_caller]
    pub fn nth(&self, text: &str, n: usize) -> impl Future<Output = String> {
        let mut lines = self.0.subscribe();
        let text = text.to_owned();
        within(30, async move {
            let has = |lines: &Lines| {
                let mut has = lines.all.iter().filter(|line| line.contains(&text));
                has.nth(n - 1).cloned()
            };
            let found = lines
                .wait_for(|lines| lines.ended || has(lines).is_some())
                .await;
            let found = found.expect("the log holds its sender");
            has(&found)
                .unwrap_or_else(|| panic!("no {n} times {text:?} in:\n{}", found.all.join("\n")))
        })
    }

    /// Waits for a line that contains `text`.
    #[track_caller]
    pub fn line(&self, text: &str) -> impl Future<Output = String> {
        let mut lines = self.0.subscribe();
        let text = text.to_owned();
        within(30, async move {
            let has = |lines: &Lines| lines.all.iter().find(|line| line.contains(&text)).cloned();
            let found = lines
                .wait_for(|lines| lines.ended || has(lines).is_some())
                .await;
            let found = found.expect("the log holds its sender");
            has(&found).unwrap_or_else(|| panic!("no {text:?} in:\n{}", found.all.join("\n")))
        })
    }

    /// Waits until a line such that `wanted` has come, or until the output has ended; says which.
    pub async fn until(&self, wanted: impl Fn(&str) -> bool) -> bool {
        let mut lines = self.0.subscribe();
        let has = |lines: &Lines| lines.all.iter().any(|line| wanted(line));
        let found = lines.wait_for(|lines| lines.ended || has(lines)).await;
        has(&found.expect("the log holds its sender"))
    }
}

fn accesses(lines: &Lines) -> impl Iterator<Item = Access> {
    lines.all.iter().filter_map(|line| Access::parse(line))
}

// === impl Access ===

impl Access {
    fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        (value["target"] == "access").then_some(Self(value))
    }

    /// A field as text, empty when it is absent. Numbers are written out.
    pub fn field(&self, name: &str) -> String {
        let nested = &self.0["fields"][name];
        let value = if nested.is_null() {
            &self.0[name]
        } else {
            nested
        };
        match value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            other => other.to_string(),
        }
    }

    /// Whether a field holds this text.
    pub fn is(&self, name: &str, value: &str) -> bool {
        self.field(name) == value
    }
}
