//! Who asks upstream, and the dance that proves it (RFC 7235, and the distribution spec's tokens).

use std::sync::Arc;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use tracing::warn;

use super::credentials::{Credentials, Login};
use super::token::Fetched;
use super::{Endpoint, Fault, FaultKind, Upstream};
use crate::oci::challenge::{self, Challenge};
use crate::wire::body::Body;
use crate::wire::headers;

/// In whose name upstream is asked.
#[derive(Clone, Debug)]
pub enum Identity {
    /// The caller's, with exactly what it sent; challenges are its own to meet.
    Caller(Option<HeaderValue>),
    /// The caller's name and password, in whatever way upstream wants them.
    Login(Arc<Login>),
    /// Anybody's: without a login, with an anonymous token where that is wanted.
    Anonymous,
    /// The gateway's own; without credentials as anybody.
    Gateway(Option<Arc<Credentials>>),
}

/// What a Bearer challenge asks for.
#[derive(Clone, Debug)]
pub(super) struct Bearer {
    pub(super) realm: String,
    pub(super) service: Option<String>,
    pub(super) scope: String,
}

/// How an endpoint wants to be asked, as it last said.
#[derive(Clone, Debug)]
pub(super) enum Scheme {
    Basic,
    Bearer(Bearer),
}

// === impl Scheme ===

impl Scheme {
    /// What it is whatever is asked for.
    fn without_scope(&self) -> Self {
        match self {
            Self::Basic => Self::Basic,
            Self::Bearer(bearer) => Self::Bearer(Bearer {
                scope: String::new(),
                ..bearer.clone()
            }),
        }
    }
}

/// Upstream's 401 to a change: what it wants instead, and what came along.
#[derive(Debug)]
pub struct Refusal {
    pub challenge: HeaderMap,
    pub credential: Option<HeaderValue>,
}

// === impl Upstream ===

impl Upstream {
    /// Asks for `path` of `repository` as `identity`, following redirects; without a body. An answer
    /// of 401 is final: whoever asks was refused. The gateway's own login refused is a fault.
    pub async fn fetch(
        &self,
        endpoint: &Endpoint,
        identity: &Identity,
        method: Method,
        path: &str,
        headers: HeaderMap,
        repository: &str,
    ) -> Result<Response<Body>, Fault> {
        self.dance(endpoint, identity, method, path, headers, repository, true)
            .await
    }

    /// The same, without following redirects.
    pub async fn ask(
        &self,
        endpoint: &Endpoint,
        identity: &Identity,
        method: Method,
        path: &str,
        headers: HeaderMap,
        repository: &str,
    ) -> Result<Response<Body>, Fault> {
        self.dance(endpoint, identity, method, path, headers, repository, false)
            .await
    }

    #[expect(clippy::too_many_arguments, reason = "one question, asked twice above")]
    async fn dance(
        &self,
        endpoint: &Endpoint,
        identity: &Identity,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        repository: &str,
        follow: bool,
    ) -> Result<Response<Body>, Fault> {
        let uri = endpoint.uri(path, &mut headers)?;
        headers.remove(header::AUTHORIZATION);
        let login = match identity {
            Identity::Caller(credential) => {
                if let Some(credential) = credential {
                    headers.insert(header::AUTHORIZATION, credential.clone());
                }
                return self
                    .send_bare(&endpoint.name, method, uri, headers, follow)
                    .await;
            }
            Identity::Login(login) => Some(login.clone()),
            Identity::Anonymous | Identity::Gateway(None) => None,
            Identity::Gateway(Some(credentials)) => {
                Some(self.own_login(endpoint, credentials).await?)
            }
        };
        let scheme_key = format!("{}/{repository}", endpoint.id);
        let mut scheme = self.schemes.get(&scheme_key);
        let mut refused: Option<HeaderValue> = None;
        let mut renewed = false;
        for _ in 0..TURNS {
            let credential = match (&scheme, &login) {
                (Some(Scheme::Bearer(bearer)), login) => {
                    match self
                        .tokens
                        .fetch(self, endpoint, bearer, login.as_deref(), refused.as_ref())
                        .await
                    {
                        Fetched::Token(token) => Some(token),
                        Fetched::Refused => None,
                        Fetched::Away(fault) => return Err(fault),
                    }
                }
                (Some(Scheme::Basic), Some(login)) => Some(login.to_basic()),
                _ => None,
            };
            match &credential {
                Some(credential) => headers.insert(header::AUTHORIZATION, credential.clone()),
                None => headers.remove(header::AUTHORIZATION),
            };
            let answer = self
                .send_bare(
                    &endpoint.name,
                    method.clone(),
                    uri.clone(),
                    headers.clone(),
                    follow,
                )
                .await?;
            if answer.status() != StatusCode::UNAUTHORIZED {
                return Ok(answer);
            }
            let offered = offered(answer.headers(), repository);
            let again = match (&offered, &credential) {
                (Some(_), None) => scheme.is_none() || refused.is_none(),
                // A token that had ended is renewed once; another one refused is a no.
                (Some(Scheme::Bearer(_)), Some(_)) => !std::mem::replace(&mut renewed, true),
                _ => false,
            };
            if !again || (matches!(offered, Some(Scheme::Basic)) && login.is_none()) {
                return self.refused(endpoint, identity, repository, answer);
            }
            refused = credential.or_else(|| Some(HeaderValue::from_static("none")));
            if let Some(offered) = offered {
                self.schemes.insert(scheme_key.clone(), offered.clone());
                scheme = Some(offered);
            }
        }
        Err(Fault::nonsense(format!(
            "{} asks for credentials again and again",
            endpoint.name
        )))
    }

    /// The `Authorization` for a request that changes something, and may not be asked twice: for `actions`
    /// on `repository`, or for what upstream wanted to see when it was `refused`. `None`: without.
    pub async fn authorization(
        &self,
        endpoint: &Endpoint,
        identity: &Identity,
        repository: &str,
        actions: &str,
        refused: Option<&Refusal>,
    ) -> Result<Option<HeaderValue>, Fault> {
        let login = match identity {
            Identity::Caller(credential) => return Ok(credential.clone()),
            Identity::Login(login) => Some(login.clone()),
            Identity::Anonymous | Identity::Gateway(None) => None,
            Identity::Gateway(Some(credentials)) => {
                if refused.is_some() {
                    credentials.forget();
                }
                Some(self.own_login(endpoint, credentials).await?)
            }
        };
        let key = format!("{}/", endpoint.id);
        let wanted = refused.and_then(|no| offered(&no.challenge, ""));
        let known = match &wanted {
            Some(_) => wanted.clone(),
            None => self.schemes.get(&key),
        };
        let scheme = match known {
            Some(scheme) => Some(scheme),
            None => {
                let mut headers = HeaderMap::new();
                let uri = endpoint.uri("/v2/", &mut headers)?;
                let answer = self
                    .send_bare(&endpoint.name, Method::GET, uri, headers, false)
                    .await?;
                offered(answer.headers(), "")
            }
        };
        if let Some(scheme) = &scheme {
            self.schemes.insert(key, scheme.without_scope());
        }
        match (scheme, login) {
            (Some(Scheme::Basic), Some(login)) => Ok(Some(login.to_basic())),
            (Some(Scheme::Bearer(bearer)), login) => {
                let bearer = match wanted {
                    Some(_) if !bearer.scope.is_empty() => bearer,
                    _ => Bearer {
                        scope: format!("repository:{repository}:{actions}"),
                        ..bearer
                    },
                };
                let refused = refused.and_then(|no| no.credential.as_ref());
                match self
                    .tokens
                    .fetch(self, endpoint, &bearer, login.as_deref(), refused)
                    .await
                {
                    Fetched::Token(token) => Ok(Some(token)),
                    Fetched::Refused => Ok(None),
                    Fetched::Away(fault) => Err(fault),
                }
            }
            _ => Ok(None),
        }
    }

    /// A change was refused for good: the token that came along is not tried again, and where it was the
    /// gateway's own name, the caller cannot mend it. What to say then.
    pub fn push_refused(
        &self,
        endpoint: &Endpoint,
        identity: &Identity,
        repository: &str,
        no: &Refusal,
    ) -> Option<Fault> {
        if let Some(credential) = &no.credential {
            self.tokens.forget(credential);
        }
        let Identity::Gateway(Some(credentials)) = identity else {
            return None;
        };
        credentials.forget();
        Some(self.own_login_refused(endpoint, repository))
    }

    async fn own_login(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
    ) -> Result<Arc<Login>, Fault> {
        credentials.login(endpoint.host()).await.map_err(|e| {
            warn!(registry = %endpoint.name, error = %e, "the gateway's own login cannot be read");
            Fault {
                kind: FaultKind::Login,
                message: format!(
                    "the gateway's own login for {} cannot be read; its log says why",
                    endpoint.name
                ),
            }
        })
    }

    /// A client saw a token service fail: what was known of them counts no more.
    pub fn token_service_failed(&self) {
        self.services.invalidate_all();
    }

    /// Whether the token service that a challenge names is there; `true` where it names none.
    pub async fn token_service_answers(&self, endpoint: &Endpoint, challenge: &HeaderMap) -> bool {
        let Some(Scheme::Bearer(bearer)) = offered(challenge, "") else {
            return true;
        };
        if let Some(known) = self.services.get(&bearer.realm) {
            return known;
        }
        let answers = self.tokens.answers(self, &endpoint.name, &bearer).await;
        self.services.insert(bearer.realm, answers);
        answers
    }

    fn refused(
        &self,
        endpoint: &Endpoint,
        identity: &Identity,
        repository: &str,
        answer: Response<Body>,
    ) -> Result<Response<Body>, Fault> {
        let Identity::Gateway(Some(credentials)) = identity else {
            return Ok(answer);
        };
        credentials.forget();
        Err(self.own_login_refused(endpoint, repository))
    }

    fn own_login_refused(&self, endpoint: &Endpoint, repository: &str) -> Fault {
        warn!(registry = %endpoint.name, repository, "upstream refused the gateway's own login");
        self.metrics.login_refused(&endpoint.name);
        let what = match repository {
            "" => "what was asked",
            repository => repository,
        };
        Fault {
            kind: FaultKind::Login,
            message: format!(
                "{} refused the gateway's own login for {what}; its operator has to mend that account's rights, or username and password of that registry",
                endpoint.name
            ),
        }
    }
}

/// The first challenge of an answer that can be met.
pub(super) fn offered(headers: &HeaderMap, repository: &str) -> Option<Scheme> {
    challenge::parse_all(headers::lines(headers, &header::WWW_AUTHENTICATE))
        .into_iter()
        .find_map(|challenge| match challenge {
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => Some(Scheme::Bearer(Bearer {
                realm,
                service,
                scope: scope.unwrap_or_else(|| match repository {
                    "" => String::new(),
                    repository => format!("repository:{repository}:pull"),
                }),
            })),
            Challenge::Basic { .. } => Some(Scheme::Basic),
            Challenge::Other { .. } => None,
        })
}

/// Without a credential, with one, and once more with a fresh token.
const TURNS: usize = 4;
