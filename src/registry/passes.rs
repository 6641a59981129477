//! The gateway as a token service, for clients that must choose whether to log in.
//!
//! With `auth = "client-or-gateway"`, and on the mirror endpoint, a client has to be asked for a login
//! without being refused for having none. The Bearer challenge of the distribution spec does that: the
//! client fetches a token with its login, or without, and the gateway knows which it was.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, Response, StatusCode, header};

use super::Registries;
use super::call::{Answer, Asked};
use super::relay::pong;
use crate::oci::error::{Code, OciError};
use crate::telemetry::access::Outcome;
use crate::upstream::credentials::Login;
use crate::upstream::identity::Identity;
use crate::wire::body;

/// Tokens handed out: whose they are. Those of logins are in memory alone; such a client asks for
/// another after a restart. That of nobody in particular opens what no token opens as well, so it is one
/// and the same for all, and good for ever: a client in the middle of a pull does not notice a restart.
#[derive(Debug)]
pub(super) struct Passes {
    held: moka::sync::Cache<String, Arc<Login>>,
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
        let Some(login) = login else {
            return Some(NOBODYS.to_owned());
        };
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
            Some(login) => Pass::Login(login),
            None if token == NOBODYS => Pass::Anonymous,
            None => Pass::Ended,
        }
    }
}

// === impl Registries ===

impl Registries {
    /// Answers a client of the mirror endpoint that has not said yet which registry it means: it is
    /// asked for a login, which may be none, and gets a token for what it comes with.
    pub fn front_door(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        realm: Option<&str>,
    ) -> Answer {
        let given = headers.get(header::AUTHORIZATION);
        let answer = match given.map(|given| (given, self.passes.read(given))) {
            _ if path == TOKEN_PATH => match login(method, headers) {
                Ok(login) => self.hand_out(login),
                Err(no) => *no,
            },
            Some((_, Pass::Ended)) => unauthorized("the gateway wants a fresh token".into()),
            Some(_) => Answer::new(pong(false), Outcome::Relay),
            None => unauthorized("the gateway wants to know whether you log in".into()),
        };
        challenged(answer, realm)
    }

    /// Answers the token request of a client that met our challenge. A login is tried upstream first,
    /// so that a wrong password is told where it was typed.
    pub(super) async fn token(&self, asked: &Asked) -> Answer {
        let login = match login(&asked.method, &asked.headers) {
            Ok(login) => login,
            Err(no) => return challenged(*no, asked.realm.as_deref()),
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
                    Method::GET,
                    "/v2/",
                    HeaderMap::new(),
                    "",
                )
                .await;
            if tried.is_ok_and(|answer| answer.status() == StatusCode::UNAUTHORIZED) {
                return self.wants_login(asked, "another name or password: these were refused");
            }
        }
        self.hand_out(login)
    }

    /// 401 with our challenge.
    pub(super) fn wants_login(&self, asked: &Asked, what: &str) -> Answer {
        let answer = unauthorized(format!("{} wants {what}", asked.endpoint.name));
        challenged(answer, asked.realm.as_deref())
    }

    fn hand_out(&self, login: Option<Arc<Login>>) -> Answer {
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
}

/// The login of a token request; none is one, too. A login in a form (OAuth 2) is not read: clients
/// that are told so come again with GET and Basic.
fn login(method: &Method, headers: &HeaderMap) -> Result<Option<Arc<Login>>, Box<Answer>> {
    if method != Method::GET {
        let error = OciError::new(Code::Unsupported, "tokens are to be had by GET");
        let answer = Answer::error(StatusCode::METHOD_NOT_ALLOWED, &error);
        return Err(Box::new(answer));
    }
    match headers.get(header::AUTHORIZATION) {
        None => Ok(None),
        // They are held for minutes, as many as ask.
        Some(value) if value.len() > LONGEST_LOGIN => Err(Box::new(unauthorized(format!(
            "the login is longer than {LONGEST_LOGIN} bytes"
        )))),
        Some(value) => match Login::from_basic(value) {
            Some(login) => Ok(Some(Arc::new(login))),
            None => Err(Box::new(unauthorized(
                "the token service wants a name and password, as Basic".into(),
            ))),
        },
    }
}

fn unauthorized(message: String) -> Answer {
    let error = OciError::new(Code::Unauthorized, message);
    let mut answer = Answer::error(StatusCode::UNAUTHORIZED, &error);
    answer.outcome = Outcome::Relay;
    answer
}

/// Puts our challenge on a 401, in the place of upstream's, whose token service this client cannot use.
pub(super) fn challenged(mut answer: Answer, realm: Option<&str>) -> Answer {
    if answer.response.status() == StatusCode::UNAUTHORIZED
        && let Some(realm) = realm
        && let Ok(value) =
            HeaderValue::try_from(format!("Bearer realm=\"{realm}\",service=\"pierhead\""))
    {
        let headers = answer.response.headers_mut();
        headers.insert(WWW_AUTHENTICATE, value);
    }
    answer
}

/// Where a client gets a token, on every host that hands them out.
pub const TOKEN_PATH: &str = "/pierhead/token";
const PREFIX: &str = "pierhead_";
const NOBODYS: &str = "pierhead_anonymous";
const LIFE: Duration = Duration::from_secs(300);
/// Bytes of an `Authorization` with a login: tokens that some registries take for a password are long.
const LONGEST_LOGIN: usize = 8 << 10;

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
        let restarted = Passes::default();
        assert!(matches!(restarted.read(&bearer(&own)), Pass::Ended));
        assert!(matches!(
            restarted.read(&bearer(&anybodys)),
            Pass::Anonymous
        ));
        assert!(matches!(passes.read(&bearer("pierhead_00")), Pass::Ended));
        assert!(matches!(passes.read(&bearer("eyJ0")), Pass::Foreign));
    }
}
