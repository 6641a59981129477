//! The gateway as a token service, for clients that must choose whether to log in.
//!
//! With `auth = "client-or-gateway"`, and on the mirror endpoint, a client has to be asked for a login
//! without being refused for having none. The Bearer challenge of the distribution spec does that: the
//! client fetches a token with its login, or without, and the gateway knows which it was.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode, header};

use super::Registries;
use super::call::{Answer, Asked};
use crate::oci::error::{Code, OciError};
use crate::telemetry::access::Outcome;
use crate::upstream::credentials::Login;
use crate::upstream::identity::Identity;
use crate::wire::body;

/// Tokens handed out: whose they are. In memory alone; a client asks for another after a restart.
#[derive(Debug)]
pub(super) struct Passes {
    held: moka::sync::Cache<String, Option<Arc<Login>>>,
}

/// What an `Authorization` of ours says.
pub(super) enum Pass {
    Anonymous,
    Login(Arc<Login>),
    /// Handed out once, and over.
    Ended,
    /// None of ours.
    Foreign,
}

// === impl Passes ===

impl Default for Passes {
    fn default() -> Self {
        Self {
            held: moka::sync::Cache::builder()
                .max_capacity(100_000)
                .time_to_live(LIFE + Duration::from_secs(60))
                .build(),
        }
    }
}

impl Passes {
    fn hand_out(&self, login: Option<Arc<Login>>) -> Option<String> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).ok()?;
        let mut token = PREFIX.to_owned();
        for byte in random {
            token.push_str(&format!("{byte:02x}"));
        }
        self.held.insert(token.clone(), login);
        Some(token)
    }

    pub(super) fn read(&self, authorization: &HeaderValue) -> Pass {
        let token = authorization.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let Some(token) = token.filter(|token| token.starts_with(PREFIX)) else {
            return Pass::Foreign;
        };
        match self.held.get(token) {
            Some(Some(login)) => Pass::Login(login),
            Some(None) => Pass::Anonymous,
            None => Pass::Ended,
        }
    }
}

// === impl Registries ===

impl Registries {
    /// Answers the token request of a client that met our challenge. A login is tried upstream first,
    /// so that a wrong password is told where it was typed.
    pub(super) async fn token(&self, asked: &Asked) -> Answer {
        let login = match asked.headers.get(header::AUTHORIZATION) {
            None => None,
            Some(value) => match Login::from_basic(value) {
                Some(login) => Some(Arc::new(login)),
                None => return self.wants_login(asked, "a name and password, as Basic"),
            },
        };
        if let Some(login) = &login
            && !asked.mirror
        {
            let identity = Identity::Login(login.clone());
            let tried = self
                .upstream
                .fetch(
                    &asked.endpoint,
                    &identity,
                    http::Method::GET,
                    "/v2/",
                    http::HeaderMap::new(),
                    "",
                )
                .await;
            if tried.is_ok_and(|answer| answer.status() == StatusCode::UNAUTHORIZED) {
                return self.wants_login(asked, "another name or password: these were refused");
            }
        }
        let Some(token) = self.passes.hand_out(login) else {
            let error = OciError::new(Code::Unknown, "no randomness for a token");
            return Answer::error(StatusCode::INTERNAL_SERVER_ERROR, &error);
        };
        let text = serde_json::json!({
            "token": token,
            "access_token": token,
            "expires_in": LIFE.as_secs(),
        });
        let mut response = Response::new(body::full(text.to_string()));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        Answer::new(response, Outcome::Relay)
    }

    /// 401 with our challenge.
    pub(super) fn wants_login(&self, asked: &Asked, what: &str) -> Answer {
        let message = format!("{} wants {what}", asked.endpoint.name);
        let error = OciError::new(Code::Unauthorized, message);
        let mut answer = Answer::error(StatusCode::UNAUTHORIZED, &error);
        answer.outcome = Outcome::Relay;
        challenge(&mut answer, asked);
        answer
    }
}

/// Puts our challenge in the place of upstream's, whose token service this client cannot use.
pub(super) fn challenge(answer: &mut Answer, asked: &Asked) {
    if let Some(realm) = &asked.realm
        && let Ok(value) =
            HeaderValue::try_from(format!("Bearer realm=\"{realm}\",service=\"pierhead\""))
    {
        answer
            .response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, value);
    }
}

/// Where a client gets a token, on every host that hands them out.
pub const TOKEN_PATH: &str = "/pierhead/token";
const PREFIX: &str = "pierhead_";
const LIFE: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is_and_nothing_else_does() {
        let passes = Passes::default();
        let bearer = |token: &str| HeaderValue::try_from(format!("Bearer {token}")).unwrap();
        let login = Arc::new(Login::new("alice", "secret"));
        let own = passes.hand_out(Some(login.clone())).unwrap();
        let anybodys = passes.hand_out(None).unwrap();
        assert!(!own.contains("secret"));
        assert!(matches!(passes.read(&bearer(&own)), Pass::Login(found) if found == login));
        assert!(matches!(passes.read(&bearer(&anybodys)), Pass::Anonymous));
        assert!(matches!(passes.read(&bearer("pierhead_00")), Pass::Ended));
        assert!(matches!(passes.read(&bearer("eyJ0")), Pass::Foreign));
    }
}
