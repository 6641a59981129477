//! What is wrong with a configuration, for the person who wrote it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why there is no configuration. `main` answers every one of them with exit code 78.
///
/// No variant holds the text of a line: it may hold a password.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", file.display())]
    Read { file: PathBuf, source: io::Error },
    /// The file is not TOML.
    #[error("{origin}: this is not TOML: {message}")]
    Syntax { origin: Origin, message: String },
    #[error("{origin}: unknown key `{key}`; {hint}")]
    UnknownKey {
        origin: Origin,
        key: String,
        /// The nearest real key, or those that may stand there.
        hint: String,
    },
    #[error("{origin}: `{key}`: {message}")]
    Value {
        origin: Origin,
        key: KeyPath,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// A key of the contract that this version does not fulfil, where ignoring it would be worse
    /// than stopping.
    #[error(
        "{origin}: `{key}`: {feature} is not in this version of pierhead yet; leave the key out"
    )]
    NotYet {
        origin: Origin,
        key: KeyPath,
        feature: &'static str,
    },
    #[error("environment variable {name} is no setting of pierhead; the nearest is {nearest}")]
    UnknownVariable { name: String, nearest: String },
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `line` counts from one.
    File {
        file: PathBuf,
        line: usize,
    },
    Variable(String),
    Defaults,
}

/// A key, and in which entry of `[[registry]]` or `[[policy.rule]]` it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPath {
    /// `cache.max_size`, `registry.auth`.
    pub key: String,
    /// Counts from one.
    pub entry: Option<usize>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{}, line {line}", file.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Defaults => f.write_str("configuration"),
        }
    }
}

impl KeyPath {
    pub fn new(key: impl Into<String>, entry: Option<usize>) -> Self {
        Self {
            key: key.into(),
            entry,
        }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry {
            Some(entry) => write!(f, "{} (entry {entry})", self.key),
            None => f.write_str(&self.key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_file_the_line_and_the_key() {
        let error = ConfigError::Value {
            origin: Origin::File {
                file: "pierhead.toml".into(),
                line: 12,
            },
            key: KeyPath::new("registry.auth", Some(2)),
            message: "wrong".to_owned(),
        };
        assert_eq!(
            error.to_string(),
            "pierhead.toml, line 12: `registry.auth (entry 2)`: wrong"
        );
    }
}
