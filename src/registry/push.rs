//! Pushes: streamed through as they come, and in the cache once upstream has accepted them.
//!
//! An upload is a session of several requests (distribution spec, end-4 to end-6, end-11). What each
//! carries is copied on its way; when upstream has named the whole by its digest, the copy is verified
//! and kept under the same access rules as a download. A push never fails because of the copy.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::header;
use http::{HeaderName, Method, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::{BodyExt, StreamBody};
use percent_encoding::percent_decode_str;
use tokio::sync::Mutex;

use super::back::own_path;
use super::call::{Answer, Call};
use super::reply::DOCKER_CONTENT_DIGEST;
use super::{Registries, relay};
use crate::cache::Manifest;
use crate::cache::capture::Capture;
use crate::cache::index::tag_prefix;
use crate::oci::digest::{Algorithm, Digest};
use crate::oci::error::{Code, OciError};
use crate::oci::manifest::stated;
use crate::oci::reference::{Reference, RepoName};
use crate::store::Key;
use crate::upstream::identity::{Identity, Refusal};
use crate::upstream::{self, FaultKind};
use crate::wire::body::{self, Body};

/// A copy that the requests of one upload share.
pub(super) type Session = Arc<Mutex<Option<Capture>>>;

impl Registries {
    /// `PUT` of a manifest (end-7).
    pub(super) async fn push_manifest(
        &self,
        call: &Call,
        repo: &RepoName,
        reference: &Reference,
        request_body: Body,
    ) -> Answer {
        let bytes = match upstream::collect(request_body, call.rules.manifest_size).await {
            Ok(bytes) => bytes,
            Err(fault) if fault.kind == FaultKind::Nonsense => {
                let most = call.rules.manifest_size;
                let why = format!(
                    "the manifest is larger than limits.manifest_size allows ({most} bytes)"
                );
                let error = OciError::new(Code::ManifestInvalid, why);
                return Answer::error(StatusCode::PAYLOAD_TOO_LARGE, &error);
            }
            Err(_) => {
                let why = "the manifest did not come to its end";
                let error = OciError::new(Code::ManifestInvalid, why);
                return Answer::error(StatusCode::BAD_REQUEST, &error);
            }
        };
        let again = Some(bytes.clone());
        let content = body::full(bytes.clone());
        let answer = self.send_push(call, repo.as_str(), content, again).await;
        if answer.response.status() != StatusCode::CREATED {
            return answer;
        }
        let algorithm = reference
            .digest()
            .map_or(Algorithm::Sha256, Digest::algorithm);
        let media_type = call
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        // The same bytes may be in another's repository: what they say of themselves counts there, too.
        let stated = stated(&bytes);
        let mut pushed = None;
        if let Some(media_type) = stated.as_deref().or(media_type) {
            let manifest = Manifest {
                digest: Digest::of(algorithm, &bytes),
                media_type: media_type.into(),
                bytes,
            };
            let key = Key::manifest(&manifest.digest);
            self.access.granted(call, repo).await;
            self.access.shown(&call.endpoint, repo, &key).await;
            self.cache.keep_manifest(&manifest).await;
            pushed = Some(manifest);
        }
        if let Reference::Tag(tag) = reference {
            let prefix = tag_prefix(&call.endpoint.id, repo.as_str(), tag.as_str());
            self.cache.index().untag(prefix).await;
            if let Some(pushed) = pushed {
                self.tag_stands_for(call, repo, tag, &pushed).await;
            }
            // Whoever asks next must find it moved, not find out in a moment.
            let _ = self.cache.index().flush().await;
        }
        self.missing.invalidate_all();
        answer
    }

    /// `DELETE` of a manifest (end-9): a tag that stood for it does so no more.
    pub(super) async fn delete_manifest(
        &self,
        call: &Call,
        repo: &RepoName,
        reference: &Reference,
        request_body: Body,
    ) -> Answer {
        let answer = self.pass_on(call, request_body, repo.as_str()).await;
        if !answer.response.status().is_success() {
            return answer;
        }
        let index = self.cache.index();
        match reference {
            Reference::Tag(tag) => {
                let prefix = tag_prefix(&call.endpoint.id, repo.as_str(), tag.as_str());
                index.untag(prefix).await;
            }
            Reference::Digest(digest) => {
                // What was said of its tags a moment ago has to be in the table.
                self.access.is_on_disk().await;
                index
                    .untag_digest(&call.endpoint.id, repo.as_str(), digest)
                    .await;
                let key = Key::manifest(digest);
                self.access.deleted(&call.endpoint, repo, &key).await;
            }
        }
        let _ = index.flush().await;
        answer
    }

    /// `DELETE` of a blob (end-10): it is in this repository no more, whoever else has it.
    pub(super) async fn delete_blob(
        &self,
        call: &Call,
        repo: &RepoName,
        digest: &Digest,
        request_body: Body,
    ) -> Answer {
        let answer = self.pass_on(call, request_body, repo.as_str()).await;
        if answer.response.status().is_success() {
            let key = Key::blob(digest);
            self.access.deleted(&call.endpoint, repo, &key).await;
            let _ = self.cache.index().flush().await;
        }
        answer
    }

    /// A request of an upload session.
    pub(super) async fn push_blob(
        &self,
        call: &Call,
        repo: &RepoName,
        request_body: Body,
    ) -> Answer {
        let (path, query) = call
            .path_and_query
            .split_once('?')
            .unwrap_or((&call.path_and_query, ""));
        let said = match Said::parse(query) {
            Ok(said) => said,
            Err(why) => {
                let error = OciError::new(Code::BlobUploadInvalid, why);
                return Answer::error(StatusCode::BAD_REQUEST, &error);
            }
        };
        // A mount reads the other repository (end-11).
        let from = said.from.strip_prefix(&call.name_prefix);
        let from = from.unwrap_or(&said.from);
        if !from.is_empty()
            && let Err(rule) = call.registry().allows_repository(from)
        {
            let message = format!("the repository {from} is not open here: {rule}");
            return Answer::denied(&message, rule);
        }
        let meant = said.for_upstream(query, from, call);
        let meant = meant.map(|query| call.asking_for(format!("{path}?{query}")));
        let call = meant.as_ref().unwrap_or(call);
        let session: Session = match call.method {
            Method::POST => Arc::new(Mutex::new(self.cache.capture().await)),
            _ => self
                .uploads
                .remove(&upload_key(call, path))
                .unwrap_or_default(),
        };
        let again = request_body.is_end_stream().then(Bytes::new);
        let copied = tee(request_body, session.clone());
        let answer = self.send_push(call, repo.as_str(), copied, again).await;
        let status = answer.response.status();
        match status {
            StatusCode::CREATED => {
                self.access.granted(call, repo).await;
                self.missing.invalidate_all();
                if let Some(digest) = said.digest {
                    let member = self
                        .access
                        .member_key(&call.endpoint, repo, &Key::blob(&digest));
                    if let Some(capture) = session.lock().await.take() {
                        self.cache.keep_pushed(capture, &digest, member).await;
                    }
                } else if let Some(digest) = said.mount
                    && call.method == Method::POST
                    && names(&answer.response, &digest)
                {
                    self.access
                        .shown(&call.endpoint, repo, &Key::blob(&digest))
                        .await;
                    self.access.is_on_disk().await;
                }
            }
            // The next request of the session comes to where this answer says.
            StatusCode::ACCEPTED => {
                let next = answer
                    .response
                    .headers()
                    .get(header::LOCATION)
                    .and_then(|value| value.to_str().ok()?.parse::<Uri>().ok());
                if let Some(next) = next.and_then(|next| own_path(&next, call)) {
                    let path = next.split('?').next().unwrap_or(&next);
                    self.uploads.insert(upload_key(call, path), session);
                }
            }
            // What upstream did not take must not be in the copy.
            _ => {
                if let Some(capture) = session.lock().await.as_mut() {
                    capture.give_up();
                }
            }
        }
        answer
    }

    /// Sends what changes something, in the name that fits. `again` is its content, where that is at hand to
    /// be sent a second time: what upstream wants to see for it (RFC 6750 section 3) is only known then.
    pub(super) async fn send_push(
        &self,
        call: &Call,
        repository: &str,
        request_body: Body,
        again: Option<Bytes>,
    ) -> Answer {
        let mut refused = None;
        let mut request_body = Some(request_body);
        let mut sent = 0;
        loop {
            sent += 1;
            let content = match request_body.take() {
                Some(content) => content,
                None => body::full(again.clone().unwrap_or_default()),
            };
            let mut request = match call.as_it_came(content) {
                Ok(request) => request,
                Err(fault) => return Answer::fault(&fault),
            };
            let authorization = self
                .upstream
                .authorization(
                    &call.endpoint,
                    &call.identity,
                    repository,
                    "pull,push",
                    refused.as_ref(),
                )
                .await;
            let credential = match authorization {
                Ok(credential) => credential,
                Err(fault) => return Answer::fault(&fault),
            };
            request.headers_mut().remove(header::AUTHORIZATION);
            if let Some(value) = credential.clone() {
                request.headers_mut().insert(header::AUTHORIZATION, value);
            }
            let response = match self.upstream.send(&call.endpoint.name, request).await {
                Ok(response) => response,
                Err(fault) => return Answer::fault(&fault),
            };
            let callers = matches!(call.identity, Identity::Caller(_));
            if response.status() != StatusCode::UNAUTHORIZED || callers {
                return relay::relayed(response);
            }
            let no = Refusal {
                challenge: response.headers().clone(),
                credential,
            };
            if again.is_some() && sent < SENT {
                refused = Some(no);
                continue;
            }
            return match self
                .upstream
                .push_refused(&call.endpoint, &call.identity, repository, &no)
            {
                Some(fault) => Answer::fault(&fault),
                None => relay::relayed(response),
            };
        }
    }
}

/// How often a change is sent: with what is held, with what upstream wanted to see instead, and with that
/// anew, should it have ended.
const SENT: u32 = 3;

fn upload_key(call: &Call, path: &str) -> String {
    format!("{}{path}", call.endpoint.id)
}

/// Passes a body on and copies it.
fn tee(request_body: Body, session: Session) -> Body {
    // A request without content must not become a chunked one.
    if request_body.is_end_stream() {
        return request_body;
    }
    let frames = stream::unfold(
        (request_body, session),
        |(mut request_body, session)| async {
            let frame = request_body.frame().await?;
            if let Ok(frame) = &frame
                && let Some(data) = frame.data_ref()
                && let Some(capture) = session.lock().await.as_mut()
            {
                capture.append(Bytes::clone(data)).await;
            }
            Some((frame, (request_body, session)))
        },
    );
    StreamBody::new(frames).boxed_unsync()
}

/// What the query of an upload says it brings (end-4b, end-6 and end-11).
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    digest: Option<Digest>,
    mount: Option<Digest>,
    /// It asks for a mount, whether or not of a digest that is known here.
    mounts: bool,
    from: String,
}

// === impl Said ===

impl Said {
    /// Reads it as upstream does, whatever is escaped. What could be read in two ways is an error: the
    /// gateway would take note of one blob, and upstream of another.
    fn parse(query: &str) -> Result<Self, String> {
        let mut found = HashMap::new();
        for pair in query.split(['&', ';']) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name);
            if ["digest", "mount", "from"].contains(&&*name)
                && found.insert(name.clone(), decoded(value)).is_some()
            {
                return Err(format!("the query of the upload has {name} twice"));
            }
        }
        if found.contains_key("digest") && found.contains_key("mount") {
            return Err("an upload brings a blob, or mounts one: its query has both".into());
        }
        let digest = |name| found.get(name).and_then(|text: &String| text.parse().ok());
        Ok(Self {
            digest: digest("digest"),
            mount: digest("mount"),
            mounts: found.contains_key("mount"),
            from: found.get("from").cloned().unwrap_or_default(),
        })
    }

    /// `query` as upstream is to read it, where that is another: `from`, the repository that a mount reads, by
    /// its name there; and no mount from wherever the registry has the blob (end-11), where not every
    /// repository is open. Without it the blob is sent.
    fn for_upstream(&self, query: &str, from: &str, call: &Call) -> Option<String> {
        let anywhere = self.mounts && from.is_empty() && call.registry().allows_catalog().is_err();
        let renamed = from.len() < self.from.len() && from.parse::<RepoName>().is_ok();
        if !anywhere && !renamed {
            return None;
        }
        let pairs = query.split(['&', ';']).filter_map(|pair| {
            let name = pair.split('=').next().unwrap_or(pair);
            match decoded(name).as_str() {
                "mount" | "from" if anywhere => None,
                "from" => Some(format!("from={from}")),
                _ => Some(pair.to_owned()),
            }
        });
        Some(pairs.collect::<Vec<_>>().join("&"))
    }
}

/// A name or a value of a query.
fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

/// Whether upstream says that this is the blob which is there now.
fn names(answer: &Response<Body>, digest: &Digest) -> bool {
    let says = |name: &HeaderName, tail: &str| {
        let value = answer.headers().get(name);
        let value = value.and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value == digest.as_str() || value.ends_with(tail))
    };
    says(&DOCKER_CONTENT_DIGEST, digest.as_str())
        || says(&header::LOCATION, &format!("/blobs/{digest}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Algorithm;

    #[test]
    fn an_upload_says_one_thing_however_it_is_spelled() {
        let digest = Digest::of(Algorithm::Sha256, b"a");
        for query in [
            format!("_state=x&digest={digest}"),
            format!("%64igest={}", digest.as_str().replace(':', "%3A")),
        ] {
            let said = Said::parse(&query).unwrap();
            assert_eq!(said.digest.as_ref(), Some(&digest), "{query}");
            assert_eq!(said.mount, None);
        }
        let said = Said::parse(&format!("mount={digest}&fr%6fm=team%2Fsecret")).unwrap();
        assert_eq!(said.mount, Some(digest.clone()));
        assert_eq!(said.from, "team/secret");
        for query in [
            format!("digest={digest}&%64igest={digest}"),
            format!("mount={digest}&digest={digest}"),
            format!("mount={digest}&from=a&f%72om=b"),
            format!("digest;digest={digest}"),
        ] {
            assert!(Said::parse(&query).is_err(), "{query}");
        }
        assert_eq!(Said::parse(""), Ok(Said::default()));
    }
}
