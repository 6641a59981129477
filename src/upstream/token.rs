//! Bearer tokens the gateway fetches itself (the distribution spec's token authentication).

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::uri::Scheme;
use http::{Method, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::credentials::Login;
use super::identity::Bearer;
use super::{Endpoint, Fault, FaultKind, Upstream, collect};
use crate::wire::turns::Turns;

/// Tokens by login, realm, service and scope.
#[derive(Debug)]
pub(super) struct Tokens {
    held: moka::sync::Cache<Vec<u8>, Arc<Token>>,
    /// However many requests wait for a token, one fetches it.
    turns: Turns,
}

/// What a token service says to a login.
pub(super) enum Fetched {
    Token(HeaderValue),
    /// The login is not good, or not for this.
    Refused,
    /// The service is away, or answers nonsense.
    Away(Fault),
}

#[derive(Debug)]
struct Token {
    value: HeaderValue,
    until: Instant,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

// === impl Tokens ===

impl Default for Tokens {
    fn default() -> Self {
        Self {
            held: moka::sync::Cache::builder()
                .max_capacity(10_000)
                .time_to_live(Duration::from_secs(3600))
                .build(),
            turns: Turns::default(),
        }
    }
}

impl Tokens {
    /// A token for pulling from `repository`, as an `Authorization` value, for `login` or for
    /// anybody; another one than `refused`.
    pub(super) async fn fetch(
        &self,
        upstream: &Upstream,
        endpoint: &Endpoint,
        bearer: &Bearer,
        login: Option<&Login>,
        refused: Option<&HeaderValue>,
    ) -> Fetched {
        let name = endpoint.name.as_str();
        let Some(address) = address(&bearer.realm, bearer.service.as_deref(), &bearer.scope) else {
            let message = format!("{name} names a token service that is no address");
            return Fetched::Away(Fault::nonsense(message));
        };
        // Whoever can bend one answer of the registry must not get a password for it.
        if login.is_some()
            && endpoint.scheme == Scheme::HTTPS
            && address.scheme() == Some(&Scheme::HTTP)
        {
            return Fetched::Away(Fault {
                kind: FaultKind::Login,
                message: format!(
                    "{name} names a token service in plain http, {}: no login is sent there; the registry has to name one in https",
                    bearer.realm
                ),
            });
        }
        let key = key(&address, login);
        let held = || {
            let token = self.held.get(&key)?;
            let good = token.until > Instant::now() && refused != Some(&token.value);
            good.then(|| token.value.clone())
        };
        if let Some(token) = held() {
            return Fetched::Token(token);
        }
        let question = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let _turn = self.turns.take(question).await;
        if let Some(token) = held() {
            return Fetched::Token(token);
        }
        let mut headers = HeaderMap::new();
        if let Some(login) = login {
            headers.insert(AUTHORIZATION, login.to_basic());
        }
        let response = match upstream.follow(name, Method::GET, address, headers).await {
            Ok(response) => response,
            Err(fault) => return Fetched::Away(fault),
        };
        let status = response.status();
        if !status.is_success() {
            let away = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
            return if away {
                let message = format!("the token service of {name} answered {status}");
                Fetched::Away(Fault {
                    kind: FaultKind::Unreachable,
                    message,
                })
            } else {
                Fetched::Refused
            };
        }
        let answer = match collect(response.into_body(), LARGEST).await {
            Ok(bytes) => Answer::read(&bytes),
            Err(fault) => return Fetched::Away(fault),
        };
        let token = answer.and_then(|(text, expires_in)| {
            let mut value = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
            value.set_sensitive(true);
            // The spec's default is a minute; a little earlier, so that none ends on the way.
            let life = Duration::from_secs(expires_in.unwrap_or(60).min(LONGEST)).mul_f32(0.8);
            Some(Token {
                value,
                until: Instant::now() + life,
            })
        });
        let Some(token) = token else {
            let message = format!("the token service of {name} sent no token");
            return Fetched::Away(Fault::nonsense(message));
        };
        let value = token.value.clone();
        self.held.insert(key, Arc::new(token));
        Fetched::Token(value)
    }
}

impl Tokens {
    /// Lets go of a token that was refused, so that it is not held for as long as its service said.
    pub(super) fn forget(&self, refused: &HeaderValue) {
        for (key, token) in &self.held {
            if token.value == *refused {
                self.held.invalidate(&*key);
            }
        }
    }

    /// Whether the service answers at all, be it with a no. What breaks off, and a page in a token's place,
    /// is no answer.
    pub(super) async fn answers(&self, upstream: &Upstream, name: &str, bearer: &Bearer) -> bool {
        let Some(address) = address(&bearer.realm, bearer.service.as_deref(), &bearer.scope) else {
            return true;
        };
        match upstream
            .follow(name, Method::GET, address, HeaderMap::new())
            .await
        {
            Ok(response) if response.status().is_success() => {
                let bytes = collect(response.into_body(), LARGEST).await;
                bytes.is_ok_and(|bytes| Answer::read(&bytes).is_some())
            }
            Ok(response) => {
                let status = response.status();
                !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS
            }
            Err(_) => false,
        }
    }
}

// === impl Answer ===

impl Answer {
    /// The token and the seconds it is good for, where that is said.
    fn read(bytes: &[u8]) -> Option<(String, Option<u64>)> {
        let answer: Self = serde_json::from_slice(bytes).ok()?;
        Some((answer.token.or(answer.access_token)?, answer.expires_in))
    }
}

/// Hashed, so that no password stays in memory as a key.
fn key(address: &Uri, login: Option<&Login>) -> Vec<u8> {
    let mut hasher = Sha256::new();
    hasher.update(address.to_string());
    if let Some(login) = login {
        hasher.update(format!("\n{}\n{}", login.username, login.password()));
    }
    hasher.finalize().to_vec()
}

fn address(realm: &str, service: Option<&str>, scope: &str) -> Option<Uri> {
    let encode = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
    let mut address = realm.to_owned();
    address.push(if realm.contains('?') { '&' } else { '?' });
    if let Some(service) = service {
        address.push_str(&format!("service={}&", encode(service)));
    }
    // Several are said one by one, as clients do.
    for one in scope.split_ascii_whitespace() {
        address.push_str(&format!("scope={}&", encode(one)));
    }
    let address = address.trim_end_matches(['?', '&']);
    let address: Uri = address.parse().ok()?;
    matches!(address.scheme_str(), Some("https" | "http")).then_some(address)
}

/// All but the unreserved characters of RFC 3986 section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
/// Seconds a token is held at most, whatever its service says.
const LONGEST: u64 = 3600;
const LARGEST: u64 = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_encoded_into_the_realm() {
        let uri = address(
            "https://auth.example/token",
            Some("r.example"),
            "repository:a/b:pull",
        )
        .unwrap();
        assert_eq!(
            uri.query(),
            Some("service=r.example&scope=repository%3Aa%2Fb%3Apull")
        );
        let two = address("https://auth.example/token", None, "a:b:pull c:d:pull").unwrap();
        assert_eq!(two.query(), Some("scope=a%3Ab%3Apull&scope=c%3Ad%3Apull"));
        assert!(address("file:///etc/passwd", None, "x").is_none());
    }
}
