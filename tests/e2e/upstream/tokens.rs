//! The token services: Docker Hub's on a host of its own, others' under `/token`.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::access::Caller;
use super::registry::{AUTH, GHCR, HUB};
use super::{Body, Shared, json_answer, oci_error};
use crate::secrets::Secrets;

/// The tokens given out, with what each opens.
#[derive(Default)]
pub struct Tokens {
    issued: Mutex<HashMap<String, HashSet<(String, String)>>>,
    pub(super) secrets: Secrets,
}

// === impl Tokens ===

impl Tokens {
    /// What the bearer token of a request opens, as (host, repository); `None` if it has no valid one.
    pub fn opened(&self, headers: &HeaderMap) -> Option<HashSet<(String, String)>> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let issued = self.issued.lock().expect("no panic holds it");
        issued.get(value.strip_prefix("Bearer ")?).cloned()
    }

    /// Every token there is.
    pub fn all(&self) -> Vec<String> {
        let issued = self.issued.lock().expect("no panic holds it");
        issued.keys().cloned().collect()
    }

    /// None of them opens anything any more.
    pub fn forget(&self) {
        self.issued.lock().expect("no panic holds it").clear();
    }

    fn issue(&self, opens: HashSet<(String, String)>) -> String {
        let mut random = [0; 24];
        getrandom::fill(&mut random).expect("random bytes");
        let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        self.secrets.add(&token);
        let mut issued = self.issued.lock().expect("no panic holds it");
        issued.insert(token.clone(), opens);
        token
    }
}

pub fn is_service(host: &str, path: &str) -> bool {
    path == "/token" && (host == AUTH || host == GHCR)
}

/// GET with Basic or no credentials; POST with a password in a form, as containerd does it.
pub async fn answer(shared: &Shared, host: &str, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let (form, caller) = if head.method == Method::POST {
        let Ok(body) = body.collect().await else {
            return oci_error(StatusCode::BAD_REQUEST, "UNKNOWN", "half a form");
        };
        let form = pairs(&String::from_utf8_lossy(&body.to_bytes()));
        let field = |name: &str| {
            let found = form.iter().find(|(key, _)| key == name);
            found.map_or("", |(_, value)| value.as_str())
        };
        let caller = Caller::of(field("username"), field("password"));
        (form, caller)
    } else {
        let form = pairs(head.uri.query().unwrap_or(""));
        (form, Caller::basic(&head.headers))
    };
    if caller == Caller::Wrong {
        let message = "incorrect username or password";
        return oci_error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
    }

    let registry = if host == AUTH { HUB } else { host };
    let access = shared.access.lock().expect("no panic holds it");
    let opens = form
        .iter()
        .filter(|(key, _)| key == "scope")
        .flat_map(|(_, value)| value.split(' '))
        .filter_map(|scope| {
            let (repository, _) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
            Some(repository.to_owned())
        })
        .filter(|repository| access.allows(registry, repository, &caller))
        .map(|repository| (registry.to_owned(), repository))
        .collect();
    drop(access);
    let token = shared.tokens.issue(opens);
    json_answer(
        StatusCode::OK,
        &json!({"token": token, "access_token": token, "expires_in": 300}),
    )
}

fn pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}
