//! Bearer tokens the gateway fetches itself (the distribution spec's token authentication).

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderValue};
use http::{Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tracing::debug;

use super::{Upstream, collect};
use crate::oci::challenge::Challenge;

/// Tokens by realm, service and scope.
#[derive(Debug)]
pub(super) struct Tokens {
    held: moka::sync::Cache<String, Arc<Token>>,
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
        }
    }
}

impl Tokens {
    /// A token for pulling from `repository` that anybody may have, as an `Authorization` value; another
    /// one than `refused`.
    pub(super) async fn anonymous(
        &self,
        upstream: &Upstream,
        name: &str,
        challenge: &Challenge,
        repository: &str,
        refused: Option<&HeaderValue>,
    ) -> Option<HeaderValue> {
        let Challenge::Bearer {
            realm,
            service,
            scope,
        } = challenge
        else {
            return None;
        };
        let scope = scope
            .clone()
            .unwrap_or_else(|| format!("repository:{repository}:pull"));
        let address = address(realm, service.as_deref(), &scope)?;
        let key = address.to_string();
        if let Some(token) = self.held.get(&key)
            && token.until > Instant::now()
            && refused != Some(&token.value)
        {
            return Some(token.value.clone());
        }
        let response = upstream
            .follow(name, Method::GET, address, HeaderMap::new())
            .await
            .inspect_err(|e| debug!(%realm, error = %e, "no anonymous token"))
            .ok()?;
        if !response.status().is_success() {
            return None;
        }
        let bytes = collect(response.into_body(), LARGEST).await.ok()?;
        let answer: Answer = serde_json::from_slice(&bytes).ok()?;
        let text = answer.token.or(answer.access_token)?;
        let mut value = HeaderValue::try_from(format!("Bearer {text}")).ok()?;
        value.set_sensitive(true);
        // The spec's default is a minute; a little earlier, so that none ends on the way.
        let life = Duration::from_secs(answer.expires_in.unwrap_or(60)).mul_f32(0.8);
        let token = Token {
            value: value.clone(),
            until: Instant::now() + life,
        };
        self.held.insert(key, Arc::new(token));
        Some(value)
    }
}

fn address(realm: &str, service: Option<&str>, scope: &str) -> Option<Uri> {
    let encode = |text: &str| utf8_percent_encode(text, RESERVED).to_string();
    let mut address = realm.to_owned();
    address.push(if realm.contains('?') { '&' } else { '?' });
    if let Some(service) = service {
        address.push_str(&format!("service={}&", encode(service)));
    }
    address.push_str(&format!("scope={}", encode(scope)));
    let address: Uri = address.parse().ok()?;
    matches!(address.scheme_str(), Some("https" | "http")).then_some(address)
}

/// All but the unreserved characters of RFC 3986 section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
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
        assert!(address("file:///etc/passwd", None, "x").is_none());
    }
}
