//! Manifests: by digest for ever; what a tag stands for is [`super::tag`]'s.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use super::access::{Proof, is_away};
use super::call::{Answer, Call};
use super::reply::{self, DOCKER_CONTENT_DIGEST, content, is_nonsense, not_modified};
use super::{Registries, relay};
use crate::cache::Manifest;
use crate::cache::index::{TagRecord, now_seconds};
use crate::oci::accept::Accept;
use crate::oci::digest::{Algorithm, Digest};
use crate::oci::error::{Code, OciError};
use crate::oci::manifest::{DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED};
use crate::oci::reference::{Reference, RepoName};
use crate::store::{Key, Mismatch};
use crate::telemetry::access::Outcome;
use crate::upstream::{self, Fault, FaultKind};
use crate::wire::body;

impl Registries {
    /// `GET` and `HEAD` of a manifest (distribution spec, end-3).
    pub(super) async fn manifest(
        &self,
        call: &Call,
        repo: &RepoName,
        reference: &Reference,
    ) -> Answer {
        match reference {
            Reference::Digest(digest) => self.by_digest(call, repo, digest).await,
            Reference::Tag(tag) => self.by_tag(call, repo, tag).await,
        }
    }

    /// What can be said at once: it is in memory, fresh, and open to the caller. All else is
    /// [`Registries::manifest`]'s.
    pub(super) fn at_once(
        &self,
        call: &Call,
        repo: &RepoName,
        reference: &Reference,
    ) -> Option<Answer> {
        let accept = self.accepts.of(&call.headers);
        let manifest = match reference {
            Reference::Digest(digest) => {
                let manifest = self.cache.manifest_at_hand(digest)?;
                accept.allows(&manifest.media_type).then_some(manifest)?
            }
            Reference::Tag(tag) => self.tag_at_hand(call, repo, tag, &accept)?,
        };
        let open = self
            .access
            .is_open(call, repo, &Key::manifest(&manifest.digest));
        open.then(|| manifest_answer(call, &manifest, Outcome::Hit))
    }

    async fn by_digest(&self, call: &Call, repo: &RepoName, digest: &Digest) -> Answer {
        let accept = self.accepts.of(&call.headers);
        if let Some(answer) = self.cached_manifest(call, repo, digest, &accept).await {
            return answer;
        }
        // What upstream has may hang on what the client takes.
        let question = format!("{digest} {}", accept.hash());
        if let Some(answer) = self.remembered_missing(call, repo, &question) {
            return answer;
        }
        let reference = Reference::Digest(digest.clone());
        if call.is_head() {
            return self.head_manifest(call, repo, &reference, &accept).await;
        }
        // One asks upstream, the others find the answer in the cache.
        let _turn = self
            .turns
            .take(format!("{}/{repo}@{digest}", call.endpoint.id))
            .await;
        if let Some(answer) = self.cached_manifest(call, repo, digest, &accept).await {
            return answer;
        }
        if let Some(answer) = self.remembered_missing(call, repo, &question) {
            return answer;
        }
        let path = format!("/v2/{repo}/manifests/{digest}");
        let asking = self.access.ask_for_everybody(call, repo, &path);
        let got = self
            .get_manifest(call, repo, &reference, &accept, None)
            .await;
        if matches!(got, Got::Manifest(_)) {
            asking.settled().await;
        }
        match got {
            Got::Manifest(manifest) => manifest_answer(call, &manifest, Outcome::Miss),
            Got::Answer(answer) => {
                if answer.response.status() == StatusCode::NOT_FOUND {
                    let what = format!("manifest {digest} in {repo}");
                    self.remember_missing(call, repo, &question, Code::ManifestUnknown, &what);
                }
                *answer
            }
            Got::Away(answer) => *answer,
        }
    }

    async fn cached_manifest(
        &self,
        call: &Call,
        repo: &RepoName,
        digest: &Digest,
        accept: &Accept,
    ) -> Option<Answer> {
        let manifest = self.cache.manifest(digest).await?;
        // Upstream may answer 404 to an `Accept` without the stored type, or convert: it decides.
        if !accept.allows(&manifest.media_type) {
            return None;
        }
        let proof = self
            .access
            .manifest(
                call,
                repo,
                digest,
                &manifest.media_type,
                manifest.bytes.len() as u64,
            )
            .await;
        Some(match proof {
            Proof::Granted => manifest_answer(call, &manifest, Outcome::Hit),
            Proof::Offline => manifest_answer(call, &manifest, Outcome::Stale),
            Proof::Refused(answer) => *answer,
        })
    }

    /// Fetches a manifest with the caller's own credential, verifies and keeps it; as what the tag of
    /// `tag_key` stands for, where it was asked for by tag.
    pub(super) async fn get_manifest(
        &self,
        call: &Call,
        repo: &RepoName,
        reference: &Reference,
        accept: &Accept,
        tag_key: Option<&str>,
    ) -> Got {
        let path = format!("/v2/{repo}/manifests/{reference}");
        let mut tries = 0;
        let (parts, media_type, bytes) = loop {
            tries += 1;
            let got = self
                .upstream
                .fetch(
                    &call.endpoint,
                    &call.identity,
                    Method::GET,
                    &path,
                    asking(call, accept),
                    repo.as_str(),
                )
                .await;
            let response = match got {
                Ok(response) => response,
                Err(fault) if call.is_refusal(&fault) => {
                    self.access.refused(call, repo).await;
                    return Got::Answer(Box::new(Answer::fault(&fault)));
                }
                Err(fault) => return Got::Away(Box::new(Answer::fault(&fault))),
            };
            let status = response.status();
            if is_away(status) {
                return Got::Away(Box::new(relay::relayed(response)));
            }
            if is_nonsense(status) || status == StatusCode::PARTIAL_CONTENT {
                return Got::Away(Box::new(Answer::fault(&nonsense(status.as_str()))));
            }
            if status != StatusCode::OK {
                self.note_refusal(call, repo, status).await;
                return Got::Answer(Box::new(relay::relayed(response)));
            }
            let Some(media_type) = manifest_type(response.headers()) else {
                return Got::Away(Box::new(Answer::fault(&nonsense("no manifest"))));
            };
            // Its digest covers less than its bytes, so there is nothing to verify it by.
            if media_type == DOCKER_SCHEMA1_SIGNED || media_type == DOCKER_SCHEMA1 {
                return Got::Answer(Box::new(relay::relayed(response)));
            }
            let (parts, body) = response.into_parts();
            match upstream::collect(body, call.rules.manifest_size).await {
                Ok(bytes) => break (parts, media_type, bytes),
                // It broke in the middle: once more, from its beginning.
                Err(fault) if fault.kind == FaultKind::Unreachable && tries < TRIES => {}
                Err(fault) => return Got::Away(Box::new(Answer::fault(&fault))),
            }
        };
        let announced = parts
            .headers
            .get(DOCKER_CONTENT_DIGEST)
            .and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        let manifest = match verified(reference, announced, media_type, bytes) {
            Ok(manifest) => manifest,
            Err(Unfit::Mismatch(mismatch)) => {
                tracing::warn!(
                    registry = %call.endpoint.id, %repo, %reference,
                    digest = %mismatch.expected, received = %mismatch.actual, size = mismatch.size,
                    "upstream sent another manifest than the digest says; dropped"
                );
                let error = OciError::new(Code::DigestInvalid, mismatch.to_string());
                return Got::Away(Box::new(Answer::error(StatusCode::BAD_GATEWAY, &error)));
            }
            Err(Unfit::Shapeless) => {
                let fault = nonsense("what is no manifest");
                return Got::Away(Box::new(Answer::fault(&fault)));
            }
        };
        // The index writes in order: once the object is known durably, so is all that was said of it.
        self.access.granted(call, repo).await;
        self.access
            .shown(&call.endpoint, repo, &Key::manifest(&manifest.digest))
            .await;
        if let Some(key) = tag_key {
            self.remember(key, &manifest).await;
        }
        self.cache.keep_manifest(&manifest).await;
        self.lookahead.begin(call, repo, &manifest);
        Got::Manifest(manifest)
    }

    /// `HEAD` by digest of what is not here.
    async fn head_manifest(
        &self,
        call: &Call,
        repo: &RepoName,
        reference: &Reference,
        accept: &Accept,
    ) -> Answer {
        let path = format!("/v2/{repo}/manifests/{reference}");
        let head = self
            .upstream
            .fetch(
                &call.endpoint,
                &call.identity,
                Method::HEAD,
                &path,
                asking(call, accept),
                repo.as_str(),
            )
            .await;
        match head {
            Ok(head)
                if is_nonsense(head.status())
                    || (head.status().is_success() && manifest_type(head.headers()).is_none()) =>
            {
                Answer::fault(&nonsense("no manifest"))
            }
            Ok(head) => {
                let named = head.headers().get(DOCKER_CONTENT_DIGEST);
                let about = reference.digest().is_some_and(|digest| {
                    named.is_some_and(|named| named.as_bytes() == digest.as_str().as_bytes())
                });
                if head.status().is_success() && about && manifest_type(head.headers()).is_some() {
                    self.access.granted(call, repo).await;
                }
                self.note_refusal(call, repo, head.status()).await;
                relay::relayed(head)
            }
            Err(fault) => Answer::fault(&fault),
        }
    }

    pub(super) async fn remember(&self, key: &str, manifest: &Manifest) {
        let record = TagRecord {
            digest: manifest.digest.to_string(),
            media_type: manifest.media_type.to_string(),
            size: manifest.bytes.len() as u64,
            confirmed: now_seconds(),
        };
        self.cache.index().hear_tag(key.to_owned(), record).await;
    }

    pub(super) async fn note_refusal(&self, call: &Call, repo: &RepoName, status: StatusCode) {
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            self.access.refused(call, repo).await;
        }
    }
}

/// How often a manifest is asked for whose transfer breaks.
const TRIES: u32 = 2;

pub(super) enum Got {
    Manifest(Manifest),
    Answer(Box<Answer>),
    /// Upstream is not well; what to say where nothing stale can be served.
    Away(Box<Answer>),
}

pub(super) fn manifest_answer(call: &Call, manifest: &Manifest, outcome: Outcome) -> Answer {
    if let Some(response) = not_modified(call, &manifest.digest) {
        return Answer::cached(response, outcome);
    }
    let length = manifest.bytes.len() as u64;
    let head = content(&manifest.digest, &manifest.media_type, Some(length));
    let body = if call.is_head() {
        body::empty()
    } else {
        body::full(manifest.bytes.clone())
    };
    Answer::cached(reply::finish(head, body), outcome)
}

pub(super) fn asking(call: &Call, accept: &Accept) -> HeaderMap {
    let list = accept.to_header();
    call.asking(list.and_then(|list| HeaderValue::try_from(list).ok()))
}

/// The media type, if it can be a manifest's: a captive portal's page is none.
pub(super) fn manifest_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let media_type = value.split(';').next()?.trim().to_ascii_lowercase();
    let of_a_registry = media_type.starts_with("application/vnd.")
        && (media_type.contains("json") || media_type.contains("prettyjws"));
    // Plain JSON may be anything; a registry says what it is about.
    let named = headers.contains_key(DOCKER_CONTENT_DIGEST);
    (of_a_registry || (named && media_type.contains("json"))).then_some(media_type)
}

/// Why what came is not the manifest.
enum Unfit {
    Mismatch(Mismatch),
    /// Nothing names its digest, and it does not look like one.
    Shapeless,
}

fn verified(
    reference: &Reference,
    announced: Option<Digest>,
    media_type: String,
    bytes: Bytes,
) -> Result<Manifest, Unfit> {
    let expected = reference.digest().cloned().or(announced);
    let expected_none = expected.is_none();
    let algorithm = expected
        .as_ref()
        .map_or(Algorithm::Sha256, Digest::algorithm);
    let digest = Digest::of(algorithm, &bytes);
    if let Some(expected) = expected
        && expected != digest
    {
        return Err(Unfit::Mismatch(Mismatch {
            expected,
            actual: digest,
            size: bytes.len() as u64,
        }));
    }
    // Where nothing names the digest, the shape must speak for itself.
    if expected_none && crate::oci::manifest::sniff(&bytes).is_none() {
        return Err(Unfit::Shapeless);
    }
    // The same bytes may come from another registry: what they say of themselves counts there, too.
    let media_type = crate::oci::manifest::stated(&bytes).unwrap_or(media_type);
    Ok(Manifest {
        digest,
        media_type: media_type.into(),
        bytes,
    })
}

pub(super) fn nonsense(what: &str) -> Fault {
    Fault {
        kind: FaultKind::Nonsense,
        message: format!("upstream answered with {what} where a manifest was due"),
    }
}
