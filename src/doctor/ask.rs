//! What is asked of the registry: whether it answers, a token, a manifest.

use http::header::{self, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Step;
use super::fetch::{self, Got, Place, Tunnel};
use super::route::Route;
use super::trust;
use super::walk::{Walk, Went};
use crate::oci::challenge::{Challenge, parse_all};
use crate::oci::digest::Digest;
use crate::oci::manifest::MANIFEST_TYPES;

// === impl Walk ===

impl Walk<'_> {
    /// GET of a URL as a client would.
    async fn get(&mut self, url: &str, headers: &HeaderMap) -> Result<Got, String> {
        let place = Place::parse(url).ok_or_else(|| format!("{url} is no address"))?;
        let uri = url.parse::<Uri>().map_err(|e| format!("{url}: {e}"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let standard = if place.https { 443 } else { 80 };
        let host = match place.port == standard {
            true => place.host.clone(),
            false => place.authority(),
        };
        if !place.https {
            return fetch::get(self.socket().await?, &host, path, headers).await;
        }
        match self.tunnel(&place.host, place.port).await? {
            Tunnel::Open(socket) => {
                let roots = self.roots.clone();
                let stream = trust::shake(socket, &place.host, roots).await?;
                fetch::get(Box::new(stream), &host, path, headers).await
            }
            Tunnel::Refused(answer) => Err(answer.said()),
        }
    }

    /// The address of something of the registry.
    fn url(&self, path: &str) -> String {
        let (host, port) = self.target();
        match self.route {
            Route::Proxy => format!("https://{}{path}", fetch::authority(&host, port)),
            Route::Mirror => format!("{}{path}?ns={}", self.gateway, self.question.image.registry),
        }
    }

    pub(super) async fn registry(&mut self) -> Went<Option<Challenge>> {
        let url = self.url("/v2/");
        let answer = match self.get(&url, &HeaderMap::new()).await {
            Ok(answer) => answer,
            Err(why) => {
                return self.stop(Step::failed("registry", why, UPSTREAM));
            }
        };
        let challenges = answer.headers.get_all(header::WWW_AUTHENTICATE).iter();
        let challenges = parse_all(challenges.filter_map(|value| value.to_str().ok()));
        let registry = &self.question.image.registry;
        match answer.status {
            StatusCode::OK => {
                let stale = answer.headers.contains_key(header::WARNING);
                let said = match stale {
                    true => {
                        format!("{registry} is away, and the gateway answers from what is cached")
                    }
                    false => format!("{registry} answers"),
                };
                self.say(match stale {
                    true => Step::warning("registry", said, UPSTREAM),
                    false => Step::ok("registry", said),
                });
                Ok(None)
            }
            StatusCode::UNAUTHORIZED => {
                self.say(Step::ok(
                    "registry",
                    format!("{registry} answers, and asks who is there"),
                ));
                Ok(challenges.into_iter().next())
            }
            _ => self.stop(Step::failed("registry", answer.said(), UPSTREAM)),
        }
    }

    pub(super) async fn token(&mut self, challenge: Option<Challenge>) -> Went<Option<String>> {
        let (realm, service) = match challenge {
            None => {
                self.say(Step::skipped("token", "none is asked for"));
                return Ok(None);
            }
            Some(Challenge::Bearer { realm, service, .. }) => (realm, service),
            Some(_) => {
                self.say(Step::skipped(
                    "token",
                    "the registry asks for a login, and none is sent",
                ));
                return Ok(None);
            }
        };
        let image = &self.question.image;
        let scope = format!("repository:{}:pull", image.repository);
        let mut url = format!(
            "{realm}{}scope={}",
            if realm.contains('?') { '&' } else { '?' },
            quoted(&scope)
        );
        if let Some(service) = service {
            url.push_str(&format!("&service={}", quoted(&service)));
        }
        let host = Place::parse(&realm)
            .map(|place| place.host)
            .unwrap_or_default();
        let mend = format!(
            "the token service is {host}: on the gateway, pierhead check {host} says whether clients may reach it"
        );
        let answer = match self.get(&url, &HeaderMap::new()).await {
            Ok(answer) if answer.status == StatusCode::OK => answer,
            Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => {
                self.say(Step::warning(
                    "token",
                    format!("{host} gives none to anybody"),
                    format!(
                        "a private image needs a login: docker login {}",
                        image.registry
                    ),
                ));
                return Ok(None);
            }
            Ok(answer) => {
                return self.stop(Step::failed(
                    "token",
                    format!("{host}: {}", answer.said()),
                    mend,
                ));
            }
            Err(why) => return self.stop(Step::failed("token", format!("{host}: {why}"), mend)),
        };
        let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let token = ["token", "access_token"]
            .iter()
            .find_map(|name| json.get(name)?.as_str());
        let Some(token) = token else {
            return self.stop(Step::failed(
                "token",
                format!("{host} answers without a token"),
                mend,
            ));
        };
        self.say(Step::ok("token", format!("from {host}")));
        Ok(Some(token.to_owned()))
    }

    pub(super) async fn manifest(&mut self, token: Option<String>) -> Went<()> {
        let image = self.question.image.clone();
        let url = self.url(&format!(
            "/v2/{}/manifests/{}",
            image.repository, image.reference
        ));
        let mut headers = HeaderMap::new();
        if let Ok(accept) = HeaderValue::try_from(MANIFEST_TYPES.join(", ")) {
            headers.insert(header::ACCEPT, accept);
        }
        if let Some(token) = token
            && let Ok(mut value) = HeaderValue::try_from(format!("Bearer {token}"))
        {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let answer = match self.get(&url, &headers).await {
            Ok(answer) => answer,
            Err(why) => {
                return self.stop(Step::failed(
                    "manifest",
                    format!("{image}: {why}"),
                    UPSTREAM,
                ));
            }
        };
        if answer.status != StatusCode::OK {
            let mend = match answer.status {
                StatusCode::NOT_FOUND => "is the image called so? Name one that is there: pierhead doctor IMAGE".to_owned(),
                StatusCode::FORBIDDEN if answer.said().contains("pierhead:") => {
                    "that is the gateway's to mend, as it says; no login here changes it".to_owned()
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    format!("a private image needs a login: docker login {}", image.registry)
                }
                StatusCode::TOO_MANY_REQUESTS => {
                    "the registry's limit is reached: a login raises it, and what is cached needs none".to_owned()
                }
                _ => UPSTREAM.to_owned(),
            };
            return self.stop(Step::failed(
                "manifest",
                format!("{image}: {}", answer.said()),
                mend,
            ));
        }
        let named = answer
            .header("docker-content-digest")
            .and_then(|text| text.parse::<Digest>().ok());
        let actual = named
            .as_ref()
            .map(|named| Digest::of(named.algorithm(), &answer.body));
        if named != actual {
            return self.stop(Step::failed(
                "manifest",
                format!("{image}: its bytes are not what its digest says"),
                "something on the way changes answers; is there another proxy between?",
            ));
        }
        let cached = answer.header("cache-status").unwrap_or_default();
        let cached = if cached.contains("hit") {
            ", from the cache"
        } else {
            ""
        };
        let digest = named.map(|digest| format!(" {digest}")).unwrap_or_default();
        self.say(Step::ok("manifest", format!("{image}{digest}{cached}")));
        Ok(())
    }
}

fn quoted(text: &str) -> String {
    utf8_percent_encode(text, IN_QUERY).to_string()
}

/// What scopes are made of stands as it is (RFC 3986 section 3.4).
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b':')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_');
const UPSTREAM: &str = "the gateway cannot reach the registry, or the registry does not answer it: the gateway's log and page (Registries) say why";
