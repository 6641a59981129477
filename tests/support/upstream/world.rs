//! What the hosts behind an upstream hold, and how they would answer if nothing went wrong.

use std::collections::{BTreeMap, HashMap, HashSet};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{HeaderMap, Method};

use crate::support::secrets::Secrets;

/// How a registry asks who is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// It does not.
    #[default]
    None,
    /// With a user and a password.
    Basic,
    /// With a token from this host.
    Bearer(String),
}

/// A document at a path.
#[derive(Clone, Debug)]
pub struct Page {
    content_type: String,
    body: Bytes,
}

#[derive(Default)]
pub struct World {
    pub registries: BTreeMap<String, RegistryState>,
    cdns: BTreeMap<String, HashSet<String>>,
    pages: BTreeMap<(String, String), Page>,
    pub tokens: HashMap<String, Token>,
    pub signatures: HashSet<String>,
    pub serial: usize,
    /// How many requests a new token is good for.
    pub tokens_last: Option<usize>,
    /// Every password there is, and every token and login that came or went.
    pub secrets: Secrets,
}

#[derive(Default)]
pub struct RegistryState {
    pub auth: Auth,
    pub cdn: Option<String>,
    pub users: HashMap<String, String>,
    pub repos: BTreeMap<String, RepoState>,
}

#[derive(Default)]
pub struct RepoState {
    /// `None`: public.
    pub only: Option<HashSet<String>>,
    pub blobs: HashMap<String, Bytes>,
    /// By digest: media type and bytes.
    pub manifests: HashMap<String, (String, Bytes)>,
    /// By tag: digests, the preferred one first.
    pub tags: BTreeMap<String, Vec<String>>,
}

pub struct Token {
    pub registry: String,
    pub repo: String,
    pub user: Option<String>,
    pub left: Option<usize>,
}

/// What a host is asked.
pub struct Asked<'a> {
    pub method: &'a Method,
    pub host: &'a str,
    pub path: &'a str,
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    /// `http` or `https`.
    pub scheme: &'a str,
}

/// What it answers.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

// === impl Page ===

impl Page {
    pub(super) fn new(content_type: &str, body: &[u8]) -> Self {
        Self {
            content_type: content_type.to_owned(),
            body: Bytes::copy_from_slice(body),
        }
    }
}

// === impl Answer ===

impl Answer {
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![("content-type", content_type.to_owned())],
            body: body.into(),
        }
    }

    pub fn error(status: u16, code: &str) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{code}"}}]}}"#);
        Self::new(status, "application/json", body)
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The part of a 200 that a `Range` header asks for.
    pub fn ranged(mut self, range: Option<&str>) -> Self {
        self.headers.push(("accept-ranges", "bytes".into()));
        let len = self.body.len();
        let Some((from, to)) = range.and_then(|range| bounds(range, len)) else {
            return self;
        };
        if from >= len || to < from {
            return Self::error(416, "RANGE_INVALID")
                .with("content-range", format!("bytes */{len}"));
        }
        self.status = 206;
        self.body = self.body.slice(from..=to);
        self.with("content-range", format!("bytes {from}-{to}/{len}"))
    }
}

/// First and last byte of a single range; the last is cut to the length.
fn bounds(range: &str, len: usize) -> Option<(usize, usize)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let last = len.saturating_sub(1);
    if from.is_empty() {
        let suffix: usize = to.parse().ok()?;
        return Some((len.saturating_sub(suffix), last));
    }
    let to = if to.is_empty() {
        last
    } else {
        to.parse().ok()?
    };
    Some((from.parse().ok()?, to.min(last)))
}

// === impl World ===

impl World {
    pub fn registry(&mut self, host: &str) -> &mut RegistryState {
        self.registries.entry(host.to_owned()).or_default()
    }

    pub fn repo(&mut self, host: &str, name: &str) -> &mut RepoState {
        self.registry(host)
            .repos
            .entry(name.to_owned())
            .or_default()
    }

    pub fn cdn(&mut self, registry: &str, host: &str) {
        self.registry(registry).cdn = Some(host.to_owned());
        let served = self.cdns.entry(host.to_owned()).or_default();
        served.insert(registry.to_owned());
    }

    pub fn page(&mut self, host: &str, path: &str, page: Page) {
        self.pages.insert((host.to_owned(), path.to_owned()), page);
    }

    pub fn registry_hosts(&self) -> Vec<String> {
        self.registries.keys().cloned().collect()
    }

    pub fn hosts(&self) -> Vec<String> {
        let mut hosts = self.registry_hosts();
        hosts.extend(self.cdns.keys().cloned());
        hosts.extend(self.pages.keys().map(|(host, _)| host.clone()));
        for registry in self.registries.values() {
            if let Auth::Bearer(host) = &registry.auth {
                hosts.push(host.clone());
            }
        }
        hosts.sort();
        hosts.dedup();
        hosts
    }

    pub fn expire_tokens(&mut self) {
        self.tokens.clear();
    }

    pub fn expire_signatures(&mut self) {
        self.signatures.clear();
    }

    pub fn issue(&mut self, registry: &str, user: Option<&str>, repo: &str) -> String {
        self.serial += 1;
        let name = format!("token-{}-{}", self.serial, user.unwrap_or("anonymous"));
        self.secrets.add(&name);
        let token = Token {
            registry: registry.to_owned(),
            repo: repo.to_owned(),
            user: user.map(str::to_owned),
            left: self.tokens_last,
        };
        self.tokens.insert(name.clone(), token);
        name
    }

    /// What would be answered if nothing went wrong.
    pub fn answer(&mut self, asked: &Asked<'_>) -> Answer {
        let key = (asked.host.to_owned(), asked.path.to_owned());
        if let Some(page) = self.pages.get(&key) {
            let page = page.clone();
            return Answer::new(200, &page.content_type, page.body)
                .ranged(header(asked.headers, "range"));
        }
        if self.cdns.contains_key(asked.host) {
            return self.cdn_answer(asked);
        }
        if asked.path == "/token" {
            return self.token(asked);
        }
        if !self.registries.contains_key(asked.host) || !asked.path.starts_with("/v2/") {
            return Answer::new(404, "text/plain", "no such page upstream\n");
        }
        self.registry_answer(asked)
    }
}

pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let encoded = header(headers, "authorization")?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// A parameter of a query, with the few escapes that clients use undone.
pub fn param(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.into_iter().find(|(key, _)| *key == name)?.1;
    Some(
        value
            .replace("%3A", ":")
            .replace("%3a", ":")
            .replace("%2F", "/")
            .replace("%2f", "/"),
    )
}
