//! The `Accept` lists of requests. Clients send the same few again and again: each is read once.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use http::header::{self, HeaderMap};

use crate::cache::index::accept_hash;
use crate::oci::accept::Accept;
use crate::oci::manifest::MANIFEST_TYPES;
use crate::wire::headers;

/// A list that was read, with what the index knows it by.
#[derive(Debug)]
pub(super) struct Accepted {
    accept: Accept,
    hash: String,
}

/// Lists that came before, by the bytes they came as.
#[derive(Debug, Default)]
pub(super) struct Accepts {
    known: RwLock<HashMap<Vec<u8>, Arc<Accepted>>>,
}

/// The list that takes every kind of manifest.
pub(super) static WIDEST: LazyLock<Accepted> =
    LazyLock::new(|| Accepted::new(Accept::from_headers(MANIFEST_TYPES.into_iter())));

// === impl Accepted ===

impl Accepted {
    fn new(accept: Accept) -> Self {
        let hash = accept_hash(&accept.key());
        Self { accept, hash }
    }

    /// See [`accept_hash`].
    pub(super) fn hash(&self) -> &str {
        &self.hash
    }
}

impl Deref for Accepted {
    type Target = Accept;

    fn deref(&self) -> &Accept {
        &self.accept
    }
}

// === impl Accepts ===

impl Accepts {
    /// All `Accept` lines of a request as one list.
    pub(super) fn of(&self, headers: &HeaderMap) -> Arc<Accepted> {
        let mut lines = headers.get_all(header::ACCEPT).iter();
        let first = lines.next().map_or(&b""[..], |line| line.as_bytes());
        // Lines that stand apart mean the same as one line with commas.
        let mut joined = Vec::new();
        for line in lines {
            if joined.is_empty() {
                joined.extend_from_slice(first);
            }
            joined.push(b',');
            joined.extend_from_slice(line.as_bytes());
        }
        let written = if joined.is_empty() { first } else { &joined };
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(accepted) = known.get(written) {
            return accepted.clone();
        }
        drop(known);
        let lines = headers::lines(headers, &header::ACCEPT);
        let accepted = Arc::new(Accepted::new(Accept::from_headers(lines)));
        if written.len() <= LONGEST {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MOST {
                known.clear();
            }
            known.insert(written.to_vec(), accepted.clone());
        }
        accepted
    }
}

/// Lists; when there are so many, all are forgotten.
const MOST: usize = 500;
/// Bytes of a list that is remembered.
const LONGEST: usize = 2048;

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn read(accepts: &Accepts, lines: &[&'static str]) -> Arc<Accepted> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::ACCEPT, HeaderValue::from_static(line));
        }
        accepts.of(&headers)
    }

    #[test]
    fn a_list_that_came_before_is_not_read_again() {
        let accepts = Accepts::default();
        let first = read(&accepts, &["a/b, c/d"]);
        assert!(Arc::ptr_eq(&first, &read(&accepts, &["a/b, c/d"])));
        let none = read(&accepts, &[]);
        assert!(none.takes_anything());
        assert!(Arc::ptr_eq(&none, &read(&accepts, &[])));
    }

    #[test]
    fn lines_and_order_make_no_difference_to_what_it_means() {
        let accepts = Accepts::default();
        let one = read(&accepts, &["a/b, c/d"]);
        let two = read(&accepts, &["c/d", "a/b"]);
        assert_eq!(**one, **two);
        assert_eq!(one.hash(), two.hash());
        assert_ne!(one.hash(), read(&accepts, &["a/b"]).hash());
        assert_ne!(one.hash(), WIDEST.hash());
    }

    #[test]
    fn however_many_come_only_some_are_remembered() {
        let accepts = Accepts::default();
        for n in 0..3 * MOST {
            let mut headers = HeaderMap::new();
            let line = HeaderValue::try_from(format!("a/b{n}")).unwrap();
            headers.insert(header::ACCEPT, line);
            assert!(accepts.of(&headers).allows(&format!("a/b{n}")));
        }
        assert!(accepts.known.read().unwrap().len() <= MOST);
    }
}
