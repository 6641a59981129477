//! The file as `htpasswd -B` writes it: a line for each user, `name:$2y$…`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use bcrypt::HashParts;
use thiserror::Error;

/// Why a file of users cannot be used. No variant holds a line's text: it is as good as a password.
#[derive(Debug, Error)]
pub enum UsersError {
    #[error("{key}: cannot read {}: {source}; {}", file.display(), mend(source))]
    Read {
        /// The key of the configuration that names the file.
        key: &'static str,
        file: PathBuf,
        source: io::Error,
    },
    /// `line` counts from one.
    #[error("{key}: {}, line {line}: {message}", file.display())]
    Line {
        key: &'static str,
        file: PathBuf,
        line: usize,
        message: String,
    },
    #[error("the system has no random numbers: {0}")]
    Random(getrandom::Error),
}

/// What a person can do about it.
fn mend(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "it has to be readable for the user that the gateway runs as"
        }
        io::ErrorKind::NotFound => {
            "make it (`htpasswd -B -c FILE NAME`), say where it is, or leave the key out"
        }
        _ => "say a file that `htpasswd -B` wrote",
    }
}

/// Users and their bcrypt hashes.
#[derive(Default)]
pub(super) struct Table {
    hashes: HashMap<String, String>,
    /// bcrypt's cost of each entry, in the file's order.
    costs: Vec<u32>,
}

// === impl Table ===

impl Table {
    pub fn read(key: &'static str, file: &Path) -> Result<Self, UsersError> {
        let bytes = std::fs::read(file).map_err(|source| UsersError::Read {
            key,
            file: file.to_owned(),
            source,
        })?;
        Self::parse(&bytes).map_err(|(line, message)| UsersError::Line {
            key,
            file: file.to_owned(),
            line,
            message,
        })
    }

    /// The error is a line's number, and what is wrong with it.
    fn parse(bytes: &[u8]) -> Result<Self, (usize, String)> {
        let mut table = Self::default();
        let mut lines: HashMap<String, usize> = HashMap::new();
        for (at, bytes) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let number = at + 1;
            let wrong = |message: &str| (number, message.to_owned());
            let line = str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8"))?;
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, rest) = line
                .split_once(':')
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| {
                    wrong("it is not `name:hash`, as `htpasswd -B FILE NAME` writes it")
                })?;
            // What follows a second colon is a remark, as for Apache.
            let hash = rest.split(':').next().unwrap_or_default();
            let cost = cost(hash).map_err(wrong)?;
            if let Some(first) = lines.insert(name.to_owned(), number) {
                return Err((number, format!("line {first} names the same user already")));
            }
            table.hashes.insert(name.to_owned(), hash.to_owned());
            table.costs.push(cost);
        }
        Ok(table)
    }

    pub fn hash(&self, user: &str) -> Option<&str> {
        self.hashes.get(user).map(String::as_str)
    }

    pub fn len(&self) -> usize {
        self.costs.len()
    }

    /// A hash that no password has, as expensive as one of the file's: which one depends on
    /// `choice`, so that unknown users are as varied as known ones.
    pub fn dummy(&self, choice: u64) -> String {
        let count = u64::try_from(self.costs.len()).unwrap_or(u64::MAX);
        let cost = choice
            .checked_rem(count)
            .and_then(|at| self.costs.get(usize::try_from(at).ok()?))
            .unwrap_or(&USUAL_COST);
        format!("$2y${cost:02}${NOBODYS}")
    }
}

fn cost(hash: &str) -> Result<u32, &'static str> {
    if !["$2a$", "$2b$", "$2y$"]
        .iter()
        .any(|kind| hash.starts_with(kind))
    {
        return Err(
            "its password is not hashed with bcrypt, which is all that pierhead reads; set it anew with `htpasswd -B FILE NAME`",
        );
    }
    let parts: HashParts = hash.parse().map_err(
        |_| "its bcrypt hash is damaged or cut short; set it anew with `htpasswd -B FILE NAME`",
    )?;
    match parts.get_cost() {
        cost @ 4..=HIGHEST_COST => Ok(cost),
        _ => Err(
            "its bcrypt cost is more than 17 (or less than 4), and every check would take many seconds; set it anew with `htpasswd -B -C 10 FILE NAME`",
        ),
    }
}

/// What `htpasswd -C` takes at most.
const HIGHEST_COST: u32 = 17;
const USUAL_COST: u32 = 10;
/// A salt and a hash in bcrypt's alphabet.
const NOBODYS: &str = ".....................................................";

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(password: &str) -> String {
        bcrypt::hash(password, 4).unwrap()
    }

    fn complaint(text: &str) -> (usize, String) {
        Table::parse(text.as_bytes()).err().unwrap()
    }

    #[test]
    fn every_spelling_of_bcrypt_is_read() {
        for kind in ["$2a$", "$2b$", "$2y$"] {
            let hash = hash("x").replacen("$2b$", kind, 1);
            let text = format!("# people\n\n ci:{hash}\r\nother:{hash}:a remark\n");
            let table = Table::parse(text.as_bytes()).unwrap();
            assert_eq!(table.hash("ci"), Some(&*hash));
            assert_eq!(table.hash("other"), Some(&*hash));
            assert_eq!(table.hash("# people"), None);
            assert_eq!(table.len(), 2);
        }
    }

    #[test]
    fn other_hashes_are_refused_by_line_with_the_way_out() {
        for other in [
            "$apr1$hKT0N3oV$hunter2",
            "{SHA}hunter2",
            "$5$hunter2$x",
            "hunter2",
            "",
        ] {
            let (line, message) = complaint(&format!("ok:{}\nci:{other}\n", hash("x")));
            assert_eq!(line, 2);
            assert!(message.contains("htpasswd -B"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn damaged_lines_are_refused() {
        let good = hash("x");
        let twice = format!("ci:{good}\n\nci:{good}");
        let dear = good.replacen("$04$", "$31$", 1);
        for (text, line, word) in [
            ("no colon", 1, "name:hash"),
            (":$2y$", 1, "name:hash"),
            (&format!("ci:{}", &good[..50]), 1, "cut short"),
            (&twice, 3, "line 1"),
            (&format!("ci:{dear}"), 1, "cost"),
        ] {
            let (at, message) = complaint(text);
            assert_eq!(at, line, "{message}");
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn the_dummy_costs_what_a_known_user_does_and_is_a_hash() {
        let text = format!("ci:{}\n", hash("x"));
        let table = Table::parse(text.as_bytes()).unwrap();
        for table in [&table, &Table::default()] {
            for choice in [0, 1, u64::MAX] {
                assert!(!bcrypt::verify("x", &table.dummy(choice)).unwrap());
            }
        }
        assert!(table.dummy(7).starts_with("$2y$04$"));
    }
}
