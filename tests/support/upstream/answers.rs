//! How registries, CDNs and token services answer.

use bytes::Bytes;
use hyper::Method;

use super::world::{Answer, Asked, Auth, RepoState, World, basic, header, param};

// === impl World ===

impl World {
    pub(super) fn registry_answer(&mut self, asked: &Asked<'_>) -> Answer {
        let (name, kind, what) = split(asked.path.trim_start_matches("/v2/"));
        if let Err(refused) = self.admit(asked, name) {
            return refused;
        }
        if name.is_empty() && kind.is_empty() {
            return Answer::new(200, "application/json", "{}")
                .with("docker-distribution-api-version", "registry/2.0");
        }
        if asked.method != Method::GET && asked.method != Method::HEAD {
            return Answer::error(405, "UNSUPPORTED");
        }
        let cdn = self.registry(asked.host).cdn.clone();
        let Some(repo) = self.registry(asked.host).repos.get(name) else {
            return Answer::error(404, "NAME_UNKNOWN");
        };
        match kind {
            "manifests" => manifest(repo, what, asked),
            "tags" => {
                let tags: Vec<_> = repo.tags.keys().collect();
                let list = serde_json::json!({ "name": name, "tags": tags });
                Answer::new(200, "application/json", list.to_string()).with("x-from", "upstream")
            }
            "referrers" => {
                let about = repo.manifests.iter().filter_map(|(digest, (kind, bytes))| {
                    let parsed: serde_json::Value = serde_json::from_slice(bytes).ok()?;
                    (parsed["subject"]["digest"] == what).then(|| {
                        serde_json::json!({
                            "mediaType": kind, "digest": digest, "size": bytes.len(),
                            "artifactType": parsed["artifactType"],
                        })
                    })
                });
                let list = serde_json::json!({
                    "schemaVersion": 2,
                    "mediaType": "application/vnd.oci.image.index.v1+json",
                    "manifests": about.collect::<Vec<_>>(),
                });
                let media_type = "application/vnd.oci.image.index.v1+json";
                Answer::new(200, media_type, list.to_string())
            }
            "blobs" => match (repo.blobs.get(what), cdn) {
                (None, _) => Answer::error(404, "BLOB_UNKNOWN"),
                (Some(_), Some(cdn)) if asked.method == Method::GET => {
                    let signature = self.sign();
                    let (host, scheme) = (asked.host, asked.scheme);
                    let to = format!("{scheme}://{cdn}/{host}/{name}/{what}?signature={signature}");
                    Answer::new(307, "text/plain", "elsewhere\n").with("location", to)
                }
                (Some(bytes), _) => blob(bytes, what, asked),
            },
            _ => Answer::error(404, "UNSUPPORTED"),
        }
    }

    pub(super) fn cdn_answer(&mut self, asked: &Asked<'_>) -> Answer {
        if asked.headers.contains_key("authorization") {
            return Answer::new(
                400,
                "application/xml",
                "<Error>Only one auth mechanism</Error>",
            );
        }
        let signature = param(asked.query, "signature").unwrap_or_default();
        if !self.signatures.contains(&signature) {
            return Answer::new(403, "application/xml", "<Error>Request has expired</Error>");
        }
        let path = asked.path.trim_start_matches('/');
        let found = path.split_once('/').and_then(|(registry, rest)| {
            let (name, digest) = rest.rsplit_once('/')?;
            let repo = self.registries.get(registry)?.repos.get(name)?;
            Some((repo.blobs.get(digest)?.clone(), digest))
        });
        match found {
            Some((bytes, digest)) => blob(&bytes, digest, asked),
            None => Answer::new(404, "application/xml", "<Error>NoSuchKey</Error>"),
        }
    }

    /// The token service: a wrong password is refused, a missing one gives what anyone may have.
    pub(super) fn token(&mut self, asked: &Asked<'_>) -> Answer {
        let service = param(asked.query, "service").unwrap_or_default();
        let scope = param(asked.query, "scope").unwrap_or_default();
        let repo = scope.split(':').nth(1).unwrap_or_default().to_owned();
        if !self.registries.contains_key(&service) {
            return Answer::error(400, "UNKNOWN");
        }
        let user = match basic(asked.headers) {
            None => None,
            Some((user, password)) => {
                if self.registry(&service).users.get(&user) != Some(&password) {
                    return Answer::error(401, "UNAUTHORIZED");
                }
                Some(user)
            }
        };
        let token = self.issue(&service, user.as_deref(), &repo);
        let body = serde_json::json!({ "token": token, "access_token": token, "expires_in": 300 });
        Answer::new(200, "application/json", body.to_string())
    }

    /// Lets a request for `repo` (empty: the ping) pass, or says what the registry would.
    fn admit(&mut self, asked: &Asked<'_>, repo: &str) -> Result<(), Answer> {
        let registry = self.registries.get(asked.host).expect("looked up before");
        let only = registry.repos.get(repo).and_then(|repo| repo.only.as_ref());
        match &registry.auth {
            Auth::None => Ok(()),
            Auth::Basic => {
                let known = basic(asked.headers)
                    .filter(|(user, password)| registry.users.get(user) == Some(password));
                match known {
                    Some((user, _)) if only.is_none_or(|only| only.contains(&user)) => Ok(()),
                    Some(_) => Err(Answer::error(403, "DENIED")),
                    None => Err(Answer::error(401, "UNAUTHORIZED")
                        .with("www-authenticate", r#"Basic realm="the test registry""#)),
                }
            }
            Auth::Bearer(realm) => {
                let host = asked.host;
                let mut challenge = format!(
                    r#"Bearer realm="{}://{realm}/token",service="{host}""#,
                    asked.scheme
                );
                if !repo.is_empty() {
                    challenge.push_str(&format!(r#",scope="repository:{repo}:pull""#));
                }
                let only = only.cloned();
                let given = header(asked.headers, "authorization");
                let given = given.and_then(|value| value.strip_prefix("Bearer "));
                let Some(token) = given.and_then(|given| self.tokens.get_mut(given)) else {
                    return Err(
                        Answer::error(401, "UNAUTHORIZED").with("www-authenticate", challenge)
                    );
                };
                let spent = token.left == Some(0);
                token.left = token.left.map(|left| left.saturating_sub(1));
                let fits = token.registry == host && (repo.is_empty() || token.repo == repo);
                let allowed = only
                    .is_none_or(|only| token.user.as_ref().is_some_and(|user| only.contains(user)));
                if fits && allowed && !spent {
                    return Ok(());
                }
                challenge.push_str(r#",error="insufficient_scope""#);
                Err(Answer::error(401, "UNAUTHORIZED").with("www-authenticate", challenge))
            }
        }
    }

    fn sign(&mut self) -> String {
        self.serial += 1;
        let signature = format!("signature-{}-of-the-cdn", self.serial);
        self.secrets.add(&signature);
        self.signatures.insert(signature.clone());
        signature
    }
}

/// `team/app/manifests/latest` in its three parts; the last two are empty for the ping.
fn split(path: &str) -> (&str, &str, &str) {
    let Some((rest, last)) = path.rsplit_once('/') else {
        return ("", path, "");
    };
    match rest.rsplit_once('/') {
        Some((name, kind)) => (name, kind, last),
        None => ("", rest, last),
    }
}

fn manifest(repo: &RepoState, reference: &str, asked: &Asked<'_>) -> Answer {
    let unknown = || Answer::error(404, "MANIFEST_UNKNOWN");
    let digest = if reference.contains(':') {
        reference
    } else {
        let accept: Vec<_> = asked.headers.get_all("accept").iter().collect();
        let accept: Vec<_> = accept
            .iter()
            .filter_map(|line| line.to_str().ok())
            .collect();
        let accept = accept.join(",");
        let accepted = |digest: &&String| {
            let media_type = repo
                .manifests
                .get(*digest)
                .map(|(media_type, _)| media_type);
            media_type.is_some_and(|media_type| {
                accept.is_empty() || accept.contains("*/*") || accept.contains(media_type.as_str())
            })
        };
        let tagged = repo.tags.get(reference);
        match tagged.and_then(|tagged| tagged.iter().find(accepted)) {
            Some(digest) => digest,
            None => return unknown(),
        }
    };
    let Some((media_type, bytes)) = repo.manifests.get(digest) else {
        return unknown();
    };
    Answer::new(200, media_type, bytes.clone())
        .with("docker-content-digest", digest)
        .with("etag", format!("\"{digest}\""))
}

fn blob(bytes: &Bytes, digest: &str, asked: &Asked<'_>) -> Answer {
    Answer::new(200, "application/octet-stream", bytes.clone())
        .with("docker-content-digest", digest)
        .with("etag", format!("\"{digest}\""))
        .ranged(header(asked.headers, "range"))
}
