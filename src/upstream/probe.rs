//! A registry asked on purpose: is it there, what does it want, and is the gateway's own login good.

use std::sync::Arc;

use http::{HeaderMap, Method, Response, StatusCode};

use super::credentials::Credentials;
use super::identity::{Identity, Scheme, offered};
use super::{Endpoint, Fault, Upstream};
use crate::wire::body::Body;

/// What a registry said, step by step.
#[derive(Debug, Default)]
pub struct Probe {
    /// What was asked, and what came of it.
    pub steps: Vec<(&'static str, String)>,
    /// Something has to be mended.
    pub failed: bool,
}

// === impl Probe ===

impl Probe {
    fn step(&mut self, asked: &'static str, said: impl Into<String>) {
        self.steps.push((asked, said.into()));
    }

    fn fault(mut self, asked: &'static str, fault: &Fault) -> Self {
        self.step(asked, format!("FAILED: {fault}"));
        self.failed = true;
        self
    }

    /// Without a login a no is no failure: callers may have their own.
    fn anybody(mut self, bearer: bool, answer: Result<Response<Body>, Fault>) -> Self {
        match answer {
            Ok(answer) if answer.status() == StatusCode::OK => {
                self.step("anybody", "gets a token, and with it an answer");
                self
            }
            Ok(_) => {
                let said = match bearer {
                    true => "gets no token that opens /v2/; public repositories may still be open",
                    false => {
                        "is refused: callers need a login of their own, or the gateway one (username, password_file)"
                    }
                };
                self.step("anybody", said);
                self
            }
            Err(fault) => self.fault("anybody", &fault),
        }
    }
}

// === impl Upstream ===

impl Upstream {
    /// Pings `endpoint` as a client does, reads its challenge, and meets it with `own` login, or as
    /// anybody where there is none.
    pub async fn probe(&self, endpoint: &Endpoint, own: Option<Arc<Credentials>>) -> Probe {
        let mut probe = Probe::default();
        let ping = |identity: Identity| async move {
            let headers = HeaderMap::new();
            self.ask(endpoint, &identity, Method::GET, "/v2/", headers, "")
                .await
        };
        let answer = match ping(Identity::Caller(None)).await {
            Ok(answer) => answer,
            Err(fault) => return probe.fault("ping", &fault),
        };
        let asked = format!(
            "{}://{}{}/v2/",
            endpoint.scheme, endpoint.authority, endpoint.prefix
        );
        match answer.status() {
            StatusCode::OK => probe.step("ping", format!("{asked} answers, and asks for no login")),
            StatusCode::UNAUTHORIZED => {
                probe.step("ping", format!("{asked} answers, and asks who is there"));
            }
            status => {
                probe.step(
                    "ping",
                    format!("FAILED: {asked} answers {status}, which no registry does; is it one, and is `url` right?"),
                );
                probe.failed = true;
                return probe;
            }
        }
        let scheme = offered(answer.headers(), "");
        let bearer = match &scheme {
            None if answer.status() == StatusCode::OK => {
                if own.is_some() {
                    probe.step("login", "is not asked for, and not sent");
                }
                return probe;
            }
            None => {
                probe.step(
                    "challenge",
                    "FAILED: it asks in no way that the gateway knows (Basic, Bearer)",
                );
                probe.failed = true;
                return probe;
            }
            Some(Scheme::Basic) => {
                probe.step("challenge", "Basic: name and password with every request");
                false
            }
            Some(Scheme::Bearer(bearer)) => {
                let service = bearer
                    .service
                    .as_deref()
                    .unwrap_or("no service in particular");
                probe.step(
                    "challenge",
                    format!("Bearer: tokens from {} for {service}", bearer.realm),
                );
                true
            }
        };
        let Some(credentials) = own else {
            return probe.anybody(bearer, ping(Identity::Anonymous).await);
        };
        let user = match credentials.login(endpoint.host()).await {
            Ok(login) => login.username.clone(),
            Err(e) => {
                probe.step("login", format!("FAILED: it cannot be read: {e}"));
                probe.failed = true;
                return probe;
            }
        };
        match ping(Identity::Gateway(Some(credentials))).await {
            Ok(answer) if answer.status() == StatusCode::OK => {
                probe.step("login", format!("{user} is accepted"));
                probe
            }
            // The token of a login that is good may open no more than what it was asked for.
            Ok(answer) if bearer && answer.status() == StatusCode::FORBIDDEN => {
                probe.step(
                    "login",
                    format!("{user} got a token; it opens repositories, and not /v2/ itself"),
                );
                probe
            }
            Ok(answer) => {
                probe.step(
                    "login",
                    format!("FAILED: {user} is answered {}", answer.status()),
                );
                probe.failed = true;
                probe
            }
            Err(fault) => probe.fault("login", &fault),
        }
    }
}
