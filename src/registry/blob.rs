//! Blobs: from the cache, from a download under way, or from upstream into both.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};

use super::access::Proof;
use super::call::{Answer, Call};
use super::reply::{content, finish, is_nonsense, is_page, not_modified};
use super::source::BlobSource;
use super::{Registries, relay, wait};
use crate::cache::Download;
use crate::cache::flight::{Failure, Flight};
use crate::cache::origin::{FetchError, Origin, Part};
use crate::cache::passthrough::Passthrough;
use crate::cache::reader::Reader;
use crate::oci::digest::Digest;
use crate::oci::error::Code;
use crate::oci::range::Wanted;
use crate::oci::reference::RepoName;
use crate::store::Key;
use crate::telemetry::access::Outcome;
use crate::upstream::{self, Fault};
use crate::wire::body;

impl Registries {
    /// `GET` and `HEAD` of a blob (distribution spec, end-2).
    pub(super) async fn blob(&self, call: &Call, repo: &RepoName, digest: &Digest) -> Answer {
        let path = format!("/v2/{repo}/blobs/{digest}");
        // Upstream's no to the caller's token, while the blob is asked for as anybody.
        let mut token_ended: Option<Arc<Response<Bytes>>> = None;
        let way = |token_ended: bool| {
            let upstream = self.upstream.clone();
            Arc::new(match token_ended {
                false => BlobSource::of(call, upstream, repo, digest),
                true => BlobSource::anonymous(call, upstream, repo, digest),
            })
        };
        for _ in 0..TURNS {
            if let Some(object) = self.cache.blob(digest).await {
                let outcome = match self.access.blob(call, repo, digest, object.size()).await {
                    Proof::Granted => Outcome::Hit,
                    Proof::Offline => Outcome::Stale,
                    Proof::Refused(answer) => return *answer,
                };
                let size = object.size();
                return blob_answer(call, digest, Some(size), outcome, |start, end| {
                    Some(Reader::complete(object, start, end.unwrap_or(size)).into_body())
                });
            }
            let own = way(token_ended.is_some());
            let member = self
                .access
                .member_key(&call.endpoint, repo, &Key::blob(digest));
            if let Some(flight) = self.cache.flight(digest) {
                let shown = flight.proves(&member);
                // What upstream says of its size, or of nothing if it refused whoever began it.
                let size = flight.head().await.ok().flatten();
                if let Proof::Refused(answer) =
                    self.access.download(call, repo, digest, shown, size).await
                {
                    return *answer;
                }
                flight.offer(own.clone());
                let outcome = match flight.is_verified() {
                    true => Outcome::Hit,
                    false => Outcome::Follow,
                };
                match self
                    .follow(call, digest, &flight, own.clone(), outcome)
                    .await
                {
                    Ok(answer) => return answer,
                    // The patience with this upstream was spent once for all who waited.
                    Err(failure) if shown && failure.is_everybodys() => {
                        return Answer::failure(&failure);
                    }
                    // It was refused to whoever began it, there or elsewhere, or has no room: ours to
                    // begin anew.
                    Err(_) => continue,
                }
            }
            if let Some(answer) = self.remembered_missing(call, repo, digest.as_str()) {
                return answer;
            }
            if call.is_head() {
                return self.head_blob(call, repo, digest, &path).await;
            }
            let Some(share) = wait(&self.downloads, call).await else {
                return Answer::too_many(call);
            };
            let upstream = self.upstream.clone();
            let begins = match token_ended {
                None => BlobSource::granting(call, self.access.clone(), upstream, repo, digest),
                // What anybody may have says nothing of this caller.
                Some(_) => BlobSource::anonymous(call, upstream, repo, digest),
            };
            let begins = Arc::new(begins.counted(share));
            let Download::Begun(flight) = self.cache.download(digest, member, begins) else {
                continue;
            };
            match flight.head().await {
                Ok(_) if token_ended.is_some() => {}
                Ok(_) => {
                    // Where anybody may, the gateway finishes by itself what a token that ended began.
                    let upstream = self.upstream.clone();
                    let anybody = BlobSource::anonymous(call, upstream, repo, digest);
                    flight.offer(Arc::new(anybody));
                }
                Err(Failure::Answer(answer)) => {
                    if let Some(no) = &token_ended {
                        return Answer::relayed(no);
                    }
                    // A token that has ended since the manifest, which skopeo and dockerd do not renew
                    // for a blob. Whoever comes without one gets what is public, and so does it.
                    if answer.status() == StatusCode::UNAUTHORIZED && !call.is_lasting() {
                        self.access.refused(call, repo).await;
                        token_ended = Some(answer);
                        continue;
                    }
                    self.note_missing_blob(call, repo, digest, answer.status());
                    return Answer::relayed(&answer);
                }
                Err(Failure::NoRoom(_)) => {}
                Err(failure) => return Answer::failure(&failure),
            }
            match self
                .follow(call, digest, &flight, own.clone(), Outcome::Miss)
                .await
            {
                Ok(answer) => return answer,
                Err(Failure::NoRoom(_)) => return self.pass_through(call, digest, own).await,
                Err(failure) => return Answer::failure(&failure),
            }
        }
        // Downloads that others began ended before this caller could follow: it goes alone.
        let own = way(token_ended.is_some());
        self.pass_through(call, digest, own).await
    }

    fn note_missing_blob(&self, call: &Call, repo: &RepoName, digest: &Digest, status: StatusCode) {
        if status == StatusCode::NOT_FOUND {
            let what = format!("blob {digest} in {repo}");
            self.remember_missing(call, repo, digest.as_str(), Code::BlobUnknown, &what);
        }
    }

    /// An answer that follows `flight`; an error where there is nothing to follow.
    async fn follow(
        &self,
        call: &Call,
        digest: &Digest,
        flight: &Arc<Flight>,
        own: Arc<dyn Origin>,
        outcome: Outcome,
    ) -> Result<Answer, Failure> {
        let mut total = flight.head().await?;
        if total.is_some_and(|total| total <= SMALL) {
            // Small ones are verified before the first word, so that a failure can be told in words.
            flight.finished().await?;
        } else if total.is_none() && call.headers.contains_key(header::RANGE) {
            // A part of an unknown whole: wait until it is known.
            flight.finished().await?;
            total = flight.head().await?;
        }
        let mut nothing = None;
        let answer = blob_answer(call, digest, total, outcome, |start, end| {
            let reader = flight.follow(start, end, own);
            if reader.is_none() {
                nothing = Some(Failure::NoRoom("there is no file to follow".into()));
            }
            reader.map(Reader::into_body)
        });
        match nothing {
            Some(failure) => Err(failure),
            None => Ok(answer),
        }
    }

    /// `HEAD` of a blob that is not here: upstream knows its size, and nothing is downloaded.
    async fn head_blob(&self, call: &Call, repo: &RepoName, digest: &Digest, path: &str) -> Answer {
        let mut headers = call.asking(Some(HeaderValue::from_static("*/*")));
        let head = self
            .upstream
            .fetch(
                &call.endpoint,
                &call.identity,
                Method::HEAD,
                path,
                headers.clone(),
                repo.as_str(),
            )
            .await;
        let mut answer = match head {
            Ok(answer) => answer,
            Err(fault) => return Answer::fault(&fault),
        };
        let refused = matches!(answer.status().as_u16(), 401 | 403 | 405);
        let unclear = answer.status().is_success() && upstream::extent(&answer).1.is_none();
        if (refused && call.credential().is_some()) || unclear {
            // Some refuse the HEAD of what they let one GET, or do not tell the size; the first byte does.
            headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
            match self
                .upstream
                .fetch(
                    &call.endpoint,
                    &call.identity,
                    Method::GET,
                    path,
                    headers,
                    repo.as_str(),
                )
                .await
            {
                Ok(second) if second.status().is_success() => answer = second,
                _ => {}
            }
        }
        if is_nonsense(answer.status()) {
            return Answer::fault(&not_a_blob(call, answer.status().as_str()));
        }
        if !answer.status().is_success() {
            self.note_missing_blob(call, repo, digest, answer.status());
            return relay::relayed(answer);
        }
        let (_, total) = upstream::extent(&answer);
        if total.is_none() || is_page(answer.headers()) {
            return Answer::fault(&not_a_blob(call, "a page, or something without a length"));
        }
        blob_answer(call, digest, total, Outcome::Relay, |_, _| {
            Some(body::empty())
        })
    }

    /// Upstream to client, for what the disk cannot take.
    async fn pass_through(&self, call: &Call, digest: &Digest, own: Arc<BlobSource>) -> Answer {
        let fetched = match own.fetch(Part::from(0)).await {
            Ok(fetched) => fetched,
            Err(FetchError::PastTheEnd { .. }) => {
                return Answer::failure(&Failure::NoRoom("upstream has no bytes of it".into()));
            }
            Err(error) => return Answer::failure(&error.into()),
        };
        let total = fetched.total;
        let mut first = Some(fetched);
        let mut answer = blob_answer(call, digest, total, Outcome::Relay, |start, end| {
            let whole = end.is_none() || end == total;
            let mut passing =
                Passthrough::begin(own.clone(), digest.clone(), start, end.or(total), whole);
            if start == 0
                && let Some(fetched) = first.take_if(|fetched| fetched.start == 0)
            {
                passing = passing.with(fetched);
            }
            Some(passing.into_body())
        });
        answer.rule = "cache is full".into();
        answer
    }
}

/// The head that fits what is asked of a blob, and the part of it that `open` makes.
fn blob_answer(
    call: &Call,
    digest: &Digest,
    total: Option<u64>,
    outcome: Outcome,
    open: impl FnOnce(u64, Option<u64>) -> Option<body::Body>,
) -> Answer {
    if let Some(response) = not_modified(call, digest) {
        return Answer::cached(response, outcome);
    }
    let wanted = match total {
        Some(total) => wanted(call, digest, total),
        None => Wanted::Full,
    };
    let (status, start, end) = match wanted {
        Wanted::Full => (StatusCode::OK, 0, total),
        Wanted::Partial { start, end } => (StatusCode::PARTIAL_CONTENT, start, Some(end + 1)),
        Wanted::Unsatisfiable => {
            let response = Response::builder()
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(
                    header::CONTENT_RANGE,
                    format!("bytes */{}", total.unwrap_or(0)),
                )
                .header(header::CONTENT_LENGTH, 0);
            return Answer::cached(finish(response, body::empty()), outcome);
        }
    };
    let mut head = content(
        digest,
        "application/octet-stream",
        end.map(|end| end - start),
    )
    .status(status)
    .header(header::ACCEPT_RANGES, "bytes")
    .header(header::CACHE_CONTROL, "max-age=31536000, immutable");
    if let (StatusCode::PARTIAL_CONTENT, Some(end), Some(total)) = (status, end, total) {
        head = head.header(
            header::CONTENT_RANGE,
            format!("bytes {start}-{}/{total}", end - 1),
        );
    }
    let body = if call.is_head() {
        Some(body::empty())
    } else {
        open(start, end)
    };
    Answer::cached(finish(head, body.unwrap_or_else(body::empty)), outcome)
}

/// The range asked for, unless `If-Range` names other content (RFC 9110 section 13.1.5).
fn wanted(call: &Call, digest: &Digest, total: u64) -> Wanted {
    // A HEAD has no body to take a part of.
    if call.is_head() {
        return Wanted::Full;
    }
    let same = call
        .headers
        .get(header::IF_RANGE)
        .is_none_or(|tag| tag.as_bytes() == format!("\"{digest}\"").as_bytes());
    let range = call
        .headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
        .filter(|_| same);
    Wanted::parse(range, total)
}

fn not_a_blob(call: &Call, what: &str) -> Fault {
    let name = &call.endpoint.name;
    Fault::nonsense(format!("{name} answered {what} where a blob was due"))
}

/// Bytes up to which a blob is verified before the first of them goes out.
const SMALL: u64 = 64 << 10;
/// A caller starts over when a download it meant to follow ended under it; this often.
const TURNS: usize = 5;
