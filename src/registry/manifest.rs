//! Manifests: by digest for ever, by tag as fresh as `tag_ttl` says, stale while upstream is away.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};

use super::accepts::{Accepted, WIDEST};
use super::access::{Proof, is_away};
use super::call::{Answer, Call};
use super::reply::{self, DOCKER_CONTENT_DIGEST, content, is_nonsense, not_modified};
use super::{Registries, relay};
use crate::cache::Manifest;
use crate::cache::index::{TagRecord, now_seconds, tag_key, tag_prefix};
use crate::oci::accept::Accept;
use crate::oci::digest::{Algorithm, Digest};
use crate::oci::error::{Code, OciError};
use crate::oci::manifest::{DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED};
use crate::oci::reference::{Reference, RepoName, Tag};
use crate::store::Key;
use crate::telemetry::access::Outcome;
use crate::upstream::{self, Fault, FaultKind};
use crate::wire::body::{self, Body};

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
            Reference::Tag(tag) => {
                let question = Question::new(call, repo, tag, &accept);
                let record = self.fresh_record(call, &question)?;
                self.cache.manifest_at_hand(&record.digest.parse().ok()?)?
            }
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
            Got::Answer(answer) => *answer,
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

    async fn by_tag(&self, call: &Call, repo: &RepoName, tag: &Tag) -> Answer {
        let accept = self.accepts.of(&call.headers);
        let question = Question::new(call, repo, tag, &accept);
        if let Some(answer) = self.fresh_tag(call, repo, &question).await {
            return answer;
        }
        let _turn = self.turns.take(question.key.clone()).await;
        if let Some(answer) = self.fresh_tag(call, repo, &question).await {
            return answer;
        }
        self.ask_for_tag(call, repo, &question).await
    }

    /// What is known of the tag for this caller without asking: its manifest, or that there is none.
    async fn fresh_tag(
        &self,
        call: &Call,
        repo: &RepoName,
        question: &Question<'_>,
    ) -> Option<Answer> {
        if call.refresh {
            return None;
        }
        if let Some(answer) = self.remembered_missing(call, repo, &question.key) {
            return Some(answer);
        }
        let record = self.fresh_record(call, question)?;
        if !self.access.is_fresh(call, repo) {
            return None;
        }
        self.recorded(call, repo, &record, Outcome::Hit).await
    }

    /// What is known of the tag, where upstream need not be asked again.
    fn fresh_record(&self, call: &Call, question: &Question<'_>) -> Option<Arc<TagRecord>> {
        if call.refresh {
            return None;
        }
        let heard = self.cache.index().heard_tag(&question.key);
        let record = heard.or_else(|| self.known_tag(question))?;
        let age = now_seconds().checked_sub(record.confirmed)?;
        (age < question.ttl.as_secs()).then_some(record)
    }

    /// What is known of the tag for this `Accept`. Who takes the manifest that upstream chose when all
    /// kinds were to choose from, as for an image that is kept warm, would be answered the same.
    fn known_tag(&self, question: &Question<'_>) -> Option<Arc<TagRecord>> {
        let index = self.cache.index();
        let own = index.tag(&question.key);
        let widest = || index.tag(&question.widest);
        let newer = |other: &Arc<TagRecord>| {
            !question.accept.takes_anything()
                && question.accept.allows(&other.media_type)
                && own
                    .as_ref()
                    .is_none_or(|own| own.confirmed < other.confirmed)
        };
        widest().filter(newer).or(own.clone())
    }

    /// The answer that a record stands for, where what it takes is here.
    async fn recorded(
        &self,
        call: &Call,
        repo: &RepoName,
        record: &TagRecord,
        outcome: Outcome,
    ) -> Option<Answer> {
        let digest: Digest = record.digest.parse().ok()?;
        if let Some(manifest) = self.cache.manifest(&digest).await {
            // The tag's record is upstream's word that the manifest is in this repository.
            self.access
                .shown(&call.endpoint, repo, &Key::manifest(&digest))
                .await;
            return Some(manifest_answer(call, &manifest, outcome));
        }
        if call.is_head() {
            let head = content(&digest, &record.media_type, Some(record.size));
            return Some(Answer::cached(reply::finish(head, body::empty()), outcome));
        }
        None
    }

    /// Asks upstream, and meanwhile whether anybody may see the answer.
    async fn ask_for_tag(&self, call: &Call, repo: &RepoName, question: &Question<'_>) -> Answer {
        let path = format!("/v2/{repo}/manifests/{}", question.tag);
        let asking = self.access.ask_for_everybody(call, repo, &path);
        let answer = self.confirm_tag(call, repo, question).await;
        if answer.response.status().is_success() {
            asking.settled().await;
        }
        answer
    }

    /// One HEAD where the tag was known, and a GET only where it moved.
    async fn confirm_tag(&self, call: &Call, repo: &RepoName, question: &Question<'_>) -> Answer {
        let path = format!("/v2/{repo}/manifests/{}", question.tag);
        let known = self.known_tag(question);
        let stale = self.stale(call, repo, question, known.as_deref()).await;
        if known.is_some() || call.is_head() {
            let ask = self.upstream.fetch(
                &call.endpoint,
                &call.identity,
                Method::HEAD,
                &path,
                asking(call, question.accept),
                repo.as_str(),
            );
            let head = match stale {
                Some(_) => self.access.confirm(call, ask).await,
                None => ask.await,
            };
            match self.judge(call, repo, question, head).await {
                Judged::Stands(record) => {
                    let moved = known.is_none_or(|known| known.digest != record.digest);
                    let outcome = match (moved, call.is_head()) {
                        (false, _) => Outcome::Revalidated,
                        (true, true) => Outcome::Relay,
                        (true, false) => Outcome::Hit,
                    };
                    if let Some(answer) = self.recorded(call, repo, &record, outcome).await {
                        if moved && !call.is_head() {
                            self.access.is_on_disk().await;
                        }
                        return answer;
                    }
                }
                Judged::Unclear if !call.is_head() => {}
                Judged::Unclear => {
                    return Answer::fault(&nonsense("a manifest without a digest or type"));
                }
                Judged::Away(error) => return stale.unwrap_or(*error),
                Judged::No(answer) => return *answer,
            }
        }
        let reference = Reference::Tag(question.tag.clone());
        let get = self.get_manifest(call, repo, &reference, question.accept, Some(&question.key));
        let got = match stale {
            None => get.await,
            Some(_) => self
                .access
                .confirm(call, async { Ok(get.await) })
                .await
                .unwrap_or_else(|fault| Got::Away(Box::new(Answer::fault(&fault)))),
        };
        match got {
            Got::Manifest(manifest) => manifest_answer(call, &manifest, Outcome::Miss),
            Got::Away(error) => stale.unwrap_or(*error),
            Got::Answer(answer) => {
                self.note_missing(call, repo, question, answer.response.status())
                    .await;
                *answer
            }
        }
    }

    /// What may be served should upstream be away: the record, or one that another `Accept` got and
    /// this one allows; to a caller upstream has accepted within `offline_for`.
    async fn stale(
        &self,
        call: &Call,
        repo: &RepoName,
        question: &Question<'_>,
        known: Option<&TagRecord>,
    ) -> Option<Answer> {
        let holds = self.access.holds_offline(call, repo);
        let oldest = now_seconds().saturating_sub(call.rules.offline_for.as_secs());
        let prefix = tag_prefix(&call.endpoint.id, repo.as_str(), question.tag.as_str());
        let others = self
            .cache
            .index()
            .tag_variants(&prefix, |record| question.accept.allows(&record.media_type));
        let mut others: Vec<&TagRecord> = others.iter().collect();
        others.sort_by_key(|record| std::cmp::Reverse(record.confirmed));
        let mut records: Vec<&TagRecord> = known.into_iter().chain(others).collect();
        // A client that is told by a HEAD what is not here would be told so in vain.
        records.sort_by_key(|record| !self.holds(record));
        let pinned = self.cache.index().pins().is_pinned(&prefix);
        for record in records {
            let counts = (holds && record.confirmed > oldest)
                || (pinned && self.holds_pinned_tag(call, repo, record));
            if counts && let Some(answer) = self.recorded(call, repo, record, Outcome::Stale).await
            {
                return Some(answer);
            }
        }
        None
    }

    /// Whether the manifest that a record stands for is here.
    fn holds(&self, record: &TagRecord) -> bool {
        let digest = record.digest.parse::<Digest>();
        digest.is_ok_and(|digest| {
            let key = Key::manifest(&digest);
            self.cache.index().object(&key).is_some()
        })
    }

    fn holds_pinned_tag(&self, call: &Call, repo: &RepoName, record: &TagRecord) -> bool {
        let digest = record.digest.parse::<Digest>();
        digest.is_ok_and(|digest| {
            self.access
                .holds_pinned(call, repo, &Key::manifest(&digest))
        })
    }

    /// Reads upstream's answer to a HEAD of a tag.
    async fn judge(
        &self,
        call: &Call,
        repo: &RepoName,
        question: &Question<'_>,
        head: Result<Response<Body>, Fault>,
    ) -> Judged {
        let head = match head {
            Ok(head) => head,
            Err(fault) if call.is_refusal(&fault) => {
                self.access.refused(call, repo).await;
                return Judged::No(Box::new(Answer::fault(&fault)));
            }
            Err(fault) => return Judged::Away(Box::new(Answer::fault(&fault))),
        };
        let status = head.status();
        if status.is_success() {
            let Some(media_type) = manifest_type(head.headers()) else {
                return Judged::Away(Box::new(Answer::fault(&nonsense("no manifest"))));
            };
            self.access.granted(call, repo).await;
            let digest = head
                .headers()
                .get(DOCKER_CONTENT_DIGEST)
                .and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
            let size = upstream::extent(&head).1;
            let (Some(digest), Some(size)) = (digest, size) else {
                return Judged::Unclear;
            };
            let record = TagRecord {
                digest: digest.to_string(),
                media_type,
                size,
                confirmed: now_seconds(),
            };
            self.cache
                .index()
                .hear_tag(question.key.clone(), record.clone())
                .await;
            return Judged::Stands(record);
        }
        if is_away(status) {
            return Judged::Away(Box::new(relay::relayed(head).with_words(call)));
        }
        if matches!(status.as_u16(), 405 | 501) {
            return Judged::Unclear;
        }
        if is_nonsense(status) {
            return Judged::Away(Box::new(Answer::fault(&nonsense(status.as_str()))));
        }
        let challenge = head.headers().clone();
        let answer = relay::relayed(head).with_words(call);
        if status == StatusCode::UNAUTHORIZED
            && call.credential().is_none()
            && self.access.no_token_to_be_had(call, &challenge).await
        {
            return Judged::Away(Box::new(answer));
        }
        self.note_refusal(call, repo, status).await;
        self.note_missing(call, repo, question, answer.response.status())
            .await;
        Judged::No(Box::new(answer))
    }

    /// Fetches a manifest with the caller's own credential, verifies and keeps it; as what the tag of
    /// `tag_key` stands for, where it was asked for by tag.
    async fn get_manifest(
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
            Err(answer) => {
                tracing::warn!(registry = %call.endpoint.id, %repo, %reference, "upstream sent another manifest than the digest says; dropped");
                return Got::Away(answer);
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

    async fn remember(&self, key: &str, manifest: &Manifest) {
        let record = TagRecord {
            digest: manifest.digest.to_string(),
            media_type: manifest.media_type.to_string(),
            size: manifest.bytes.len() as u64,
            confirmed: now_seconds(),
        };
        self.cache.index().hear_tag(key.to_owned(), record).await;
    }

    async fn note_refusal(&self, call: &Call, repo: &RepoName, status: StatusCode) {
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            self.access.refused(call, repo).await;
        }
    }

    /// A tag that is gone is forgotten, and its 404 remembered for seconds.
    async fn note_missing(
        &self,
        call: &Call,
        repo: &RepoName,
        question: &Question<'_>,
        status: StatusCode,
    ) {
        if status != StatusCode::NOT_FOUND {
            return;
        }
        let what = format!("manifest {repo}:{} for this Accept", question.tag);
        self.remember_missing(call, repo, &question.key, Code::ManifestUnknown, &what);
        let name = tag_prefix(&call.endpoint.id, repo.as_str(), question.tag.as_str());
        // Upstream may say so to who must not know: then the tag stays, for those who may. And who
        // pinned it wants it kept.
        if self.access.holds_offline(call, repo) && !self.cache.index().pins().is_pinned(&name) {
            self.cache.index().set_tag(question.key.clone(), None).await;
        }
    }
}

struct Question<'a> {
    key: String,
    /// The key of the `Accept` that takes every kind.
    widest: String,
    tag: &'a Tag,
    accept: &'a Accepted,
    ttl: Duration,
}

// === impl Question ===

impl<'a> Question<'a> {
    fn new(call: &Call, repo: &RepoName, tag: &'a Tag, accept: &'a Accepted) -> Self {
        let key = |accept| tag_key(&call.endpoint.id, repo.as_str(), tag.as_str(), accept);
        Self {
            key: key(accept.hash()),
            widest: key(WIDEST.hash()),
            tag,
            accept,
            ttl: call.registry().tag_ttl(tag.as_str(), call.rules.tag_ttl),
        }
    }
}

/// How often a manifest is asked for whose transfer breaks.
const TRIES: u32 = 2;

enum Judged {
    /// The tag is this, by upstream's word of now.
    Stands(TagRecord),
    /// It answered well, but not enough to go by.
    Unclear,
    Away(Box<Answer>),
    No(Box<Answer>),
}

enum Got {
    Manifest(Manifest),
    Answer(Box<Answer>),
    /// Upstream is not well; what to say where nothing stale can be served.
    Away(Box<Answer>),
}

fn manifest_answer(call: &Call, manifest: &Manifest, outcome: Outcome) -> Answer {
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

fn asking(call: &Call, accept: &Accept) -> HeaderMap {
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

fn verified(
    reference: &Reference,
    announced: Option<Digest>,
    media_type: String,
    bytes: Bytes,
) -> Result<Manifest, Box<Answer>> {
    let expected = reference.digest().cloned().or(announced);
    let expected_none = expected.is_none();
    let algorithm = expected
        .as_ref()
        .map_or(Algorithm::Sha256, Digest::algorithm);
    let digest = Digest::of(algorithm, &bytes);
    if let Some(expected) = expected
        && expected != digest
    {
        let message =
            format!("upstream sent a manifest of digest {digest} where {expected} was due");
        return Err(Box::new(Answer::error(
            StatusCode::BAD_GATEWAY,
            &OciError::new(Code::DigestInvalid, message),
        )));
    }
    // Where nothing names the digest, the shape must speak for itself.
    if expected_none && crate::oci::manifest::sniff(&bytes).is_none() {
        return Err(Box::new(Answer::fault(&nonsense("what is no manifest"))));
    }
    Ok(Manifest {
        digest,
        media_type: media_type.into(),
        bytes,
    })
}

fn nonsense(what: &str) -> Fault {
    Fault {
        kind: FaultKind::Nonsense,
        message: format!("upstream answered with {what} where a manifest was due"),
    }
}
