//! Who may see what, and the credentials that prove who asks.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, header};

/// Every user there is, with the password.
pub const USERS: [(&str, &str); 2] = [("alice", "open sesame"), ("bob", "let me in")];

/// The repositories that are not everybody's.
#[derive(Default)]
pub struct Access {
    private: HashMap<(String, String), Vec<String>>,
}

/// Whom a request speaks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Caller {
    Anonymous,
    User(String),
    Wrong,
}

// === impl Access ===

impl Access {
    pub fn make_private(&mut self, host: &str, repository: &str, users: &[&str]) {
        let users = users.iter().map(|user| (*user).to_owned()).collect();
        let key = (host.to_owned(), repository.to_owned());
        self.private.insert(key, users);
    }

    pub fn allows(&self, host: &str, repository: &str, caller: &Caller) -> bool {
        let key = (host.to_owned(), repository.to_owned());
        match (self.private.get(&key), caller) {
            (_, Caller::Wrong) => false,
            (None, _) => true,
            (Some(users), Caller::User(user)) => users.contains(user),
            (Some(_), Caller::Anonymous) => false,
        }
    }
}

// === impl Caller ===

impl Caller {
    /// Judges a user name and a password.
    pub fn of(user: &str, password: &str) -> Self {
        if USERS.contains(&(user, password)) {
            Self::User(user.to_owned())
        } else {
            Self::Wrong
        }
    }

    /// Judges `Authorization: Basic`; anything else is nobody.
    pub fn basic(headers: &HeaderMap) -> Self {
        let decoded = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "))
            .map(|encoded| BASE64_STANDARD.decode(encoded).unwrap_or_default());
        match decoded {
            None => Self::Anonymous,
            Some(pair) => String::from_utf8_lossy(&pair)
                .split_once(':')
                .map_or(Self::Wrong, |(user, password)| Self::of(user, password)),
        }
    }
}
