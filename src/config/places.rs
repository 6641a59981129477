//! Where a value stands: from the file's text to keys and lines, and back.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, KeyPath, Origin};
use super::keys::{self, Kind};

/// What is known about where the configuration came from.
#[derive(Debug, Default)]
pub struct Places {
    /// `None` when there is no file.
    pub file: Option<PathBuf>,
    /// The file's text; empty when there is none.
    pub text: String,
    /// Which variable set a key.
    pub variables: BTreeMap<&'static str, String>,
}

impl Places {
    /// Where `key` was set.
    pub fn origin(&self, key: &KeyPath) -> Origin {
        let above = |set: &str| {
            let rest = key.key.strip_prefix(set);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if let Some((_, name)) = self.variables.iter().find(|(set, _)| above(set)) {
            return Origin::Variable(name.clone());
        }
        let at = self.entries().into_iter().find(|entry| entry.key == *key);
        self.file_origin(at.map(|entry| entry.name.start))
    }

    /// Whether anybody set `key`, or whether it is a default.
    pub fn has(&self, key: &str) -> bool {
        let key = KeyPath::new(key, None);
        let is_set = |entry: Entry| entry.key == key;
        matches!(self.origin(&key), Origin::Variable(_)) || self.entries().into_iter().any(is_set)
    }

    /// The error of reading the file, in the terms of the person who wrote it.
    pub fn explain(&self, error: &toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or(0..0);
        let origin = self.file_origin(Some(span.start));
        if DeTable::parse(&self.text).is_err() {
            return ConfigError::Syntax {
                origin,
                message: error.message().to_owned(),
            };
        }
        // The smallest thing around the error; a heading whose text is cut in pieces counts by
        // its name.
        let key = self
            .entries()
            .into_iter()
            .filter(|e| holds(&e.name, &span) || holds(&e.value, &span))
            .min_by_key(|e| {
                let inside_name = holds(&e.name, &span);
                let around = if inside_name { &e.name } else { &e.value };
                (around.len(), e.key.entry.is_none())
            })
            .map_or_else(|| KeyPath::new("", None), |entry| entry.key);
        explain_at(origin, key, error.message())
    }

    fn file_origin(&self, at: Option<usize>) -> Origin {
        let Some(file) = &self.file else {
            return Origin::Defaults;
        };
        let before = self.text.as_bytes().iter().take(at.unwrap_or(0));
        Origin::File {
            file: file.clone(),
            line: 1 + before.filter(|byte| **byte == b'\n').count(),
        }
    }

    fn entries(&self) -> Vec<Entry> {
        let mut all = Vec::new();
        if let Ok(table) = DeTable::parse(&self.text) {
            walk(table.get_ref(), "", None, &mut all);
        }
        all
    }
}

/// The error of a value at a known place: unknown keys get the nearest one, values an example.
pub fn explain_at(origin: Origin, key: KeyPath, message: &str) -> ConfigError {
    if message.starts_with("unknown field") {
        // Where the place is not exact, serde's text still names the key.
        let named = message.split('`').nth(1).unwrap_or_default();
        let path = match key.key.rsplit('.').next() == Some(named) {
            true => key.key,
            false if key.key.is_empty() => named.to_owned(),
            false => format!("{}.{named}", key.key),
        };
        let hint = keys::hint(&path);
        return ConfigError::UnknownKey {
            origin,
            key: path,
            hint,
        };
    }
    let known = keys::key_of(&key.key);
    let mut message = match known {
        // serde repeats the value it did not expect.
        Some(known) if known.kind == Kind::Secret => "this must be a text in quotes".to_owned(),
        _ => message.to_owned(),
    };
    if let Some(known) = known.filter(|_| !message.contains("say ")) {
        let name = known.path.rsplit('.').next().unwrap_or(known.path);
        message = format!("{message}; say for example {name} = {}", known.example);
    }
    ConfigError::Value {
        origin,
        key,
        message,
    }
}

// === helpers ===

/// One key of the file.
struct Entry {
    key: KeyPath,
    name: Range<usize>,
    value: Range<usize>,
}

fn walk(table: &DeTable<'_>, above: &str, entry: Option<usize>, all: &mut Vec<Entry>) {
    for (name, value) in table {
        let path = match above {
            "" => name.get_ref().to_string(),
            _ => format!("{above}.{}", name.get_ref()),
        };
        all.push(Entry {
            key: KeyPath::new(path.as_str(), entry),
            name: name.span(),
            value: value.span(),
        });
        descend(value, &path, entry, all);
    }
}

fn descend(value: &Spanned<DeValue<'_>>, path: &str, entry: Option<usize>, all: &mut Vec<Entry>) {
    match value.get_ref() {
        DeValue::Table(table) => walk(table, path, entry, all),
        DeValue::Array(array) => {
            for (at, item) in array.iter().enumerate() {
                if let DeValue::Table(table) = item.get_ref() {
                    all.push(Entry {
                        key: KeyPath::new(path, Some(at + 1)),
                        name: item.span(),
                        value: item.span(),
                    });
                    walk(table, path, Some(at + 1), all);
                }
            }
        }
        _ => {}
    }
}

fn holds(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}
