//! Tags: as fresh as `tag_ttl` says, confirmed by one HEAD, stale while upstream is away.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, StatusCode};

use super::accepts::{Accepted, WIDEST};
use super::access::is_away;
use super::call::{Answer, Call};
use super::manifest::{Got, asking, manifest_answer, manifest_type, nonsense};
use super::reply::{self, DOCKER_CONTENT_DIGEST, content, is_nonsense};
use super::{Registries, relay};
use crate::cache::Manifest;
use crate::cache::index::{TagRecord, now_seconds, tag_key, tag_prefix};
use crate::oci::digest::Digest;
use crate::oci::error::Code;
use crate::oci::reference::{Reference, RepoName, Tag};
use crate::store::Key;
use crate::telemetry::access::Outcome;
use crate::upstream::{self, Fault};
use crate::wire::body::{self, Body};

struct Question<'a> {
    key: String,
    /// The key of the `Accept` that takes every kind.
    widest: String,
    tag: &'a Tag,
    accept: &'a Accepted,
    ttl: Duration,
}

enum Judged {
    /// The tag is this, by upstream's word of now.
    Stands(TagRecord),
    /// It answered well, but not enough to go by.
    Unclear,
    Away(Box<Answer>),
    No(Box<Answer>),
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

// === impl Registries ===

impl Registries {
    /// The manifest in memory that a tag stands for, where upstream need not be asked again.
    pub(super) fn tag_at_hand(
        &self,
        call: &Call,
        repo: &RepoName,
        tag: &Tag,
        accept: &Accepted,
    ) -> Option<Manifest> {
        let question = Question::new(call, repo, tag, accept);
        let record = self.fresh_record(call, &question)?;
        self.cache.manifest_at_hand(&record.digest.parse().ok()?)
    }

    /// Upstream has taken `manifest` as what the tag stands for.
    pub(super) async fn tag_stands_for(
        &self,
        call: &Call,
        repo: &RepoName,
        tag: &Tag,
        manifest: &Manifest,
    ) {
        let key = tag_key(
            &call.endpoint.id,
            repo.as_str(),
            tag.as_str(),
            WIDEST.hash(),
        );
        self.remember(&key, manifest).await;
    }

    pub(super) async fn by_tag(&self, call: &Call, repo: &RepoName, tag: &Tag) -> Answer {
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
                // The manifest itself says what a HEAD of it leaves out.
                Judged::Unclear => {}
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
            let index = self.cache.index();
            let went = index.tag(&question.key).is_some();
            index.set_tag(question.key.clone(), None).await;
            // A kind that this `Accept` names and was not given is there for no other one. Some registries
            // answer who names none with a 404 for what they have.
            let named = |record: &TagRecord| question.accept.names(&record.media_type);
            if went {
                // What was said of the tag a moment ago has to be in the table.
                self.access.is_on_disk().await;
                index.forget_variants(&name, named).await;
            }
        }
    }
}
