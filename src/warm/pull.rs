//! One image, pulled: its manifests, then their blobs, a few at a time.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::BodyExt;

use super::place::Place;
use super::platforms::Platforms;
use super::{Event, PullError, Warm};
use crate::cache::catalog::ImageId;
use crate::oci::digest::Digest;
use crate::oci::manifest::{
    Children, DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, Descriptor, MANIFEST_TYPES, OCI_INDEX,
};
use crate::oci::name::ImageName;
use crate::registry::{Answer, Asked};
use crate::telemetry::access::Outcome;
use crate::wire::body::{self, Body};

/// How an image is pulled.
#[derive(Clone, Default)]
pub struct Options {
    pub platforms: Platforms,
    /// Upstream is asked for the tag whatever `tag_ttl` says.
    pub refresh: bool,
    /// What refers to the image comes too: signatures, bills of material.
    pub referrers: bool,
    /// `Authorization` of the one it is pulled for; `None`: in the gateway's own name.
    pub credentials: Option<HeaderValue>,
}

/// What a pull found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    pub digest: Digest,
    pub media_type: String,
    pub manifests: usize,
    pub blobs: usize,
    /// Bytes of all blobs, and of those that were not here before.
    pub bytes: u64,
    pub fetched: u64,
}

// === impl Options ===

// The credentials stay secret.
impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("platforms", &self.platforms)
            .field("refresh", &self.refresh)
            .field("referrers", &self.referrers)
            .finish_non_exhaustive()
    }
}

// === impl Warm ===

impl Warm {
    /// Pulls an image into the cache, or makes sure that it is there.
    pub async fn pull(
        &self,
        image: &ImageName,
        options: &Options,
        progress: impl Fn(Event) + Send + Sync,
    ) -> Result<Pulled, PullError> {
        let puller = Puller {
            warm: self,
            place: self.place(&image.registry)?,
            image,
            options,
            progress,
        };
        puller.run().await
    }

    /// Asks upstream what the tag stands for now, and pulls that.
    pub async fn refresh(
        &self,
        image: &ImageName,
        options: &Options,
        progress: impl Fn(Event) + Send + Sync,
    ) -> Result<Pulled, PullError> {
        let options = Options {
            refresh: true,
            ..options.clone()
        };
        self.pull(image, &options, progress).await
    }

    /// Under which id the cache keeps an image, for the catalog of [`crate::cache::Cache`].
    pub fn image_id(&self, image: &ImageName) -> Result<ImageId, PullError> {
        Ok(ImageId {
            origin: self.place(&image.registry)?.origin()?,
            repository: image.repository.clone(),
            reference: image.reference.clone(),
        })
    }
}

pub(super) struct Puller<'a, F> {
    pub(super) warm: &'a Warm,
    place: Place,
    pub(super) image: &'a ImageName,
    pub(super) options: &'a Options,
    progress: F,
}

/// A manifest that came.
struct Came {
    digest: Digest,
    media_type: String,
    children: Children,
}

// === impl Puller ===

impl<F: Fn(Event) + Send + Sync> Puller<'_, F> {
    async fn run(&self) -> Result<Pulled, PullError> {
        let root = self.manifest(self.image.reference.to_string()).await?;
        let (digest, media_type) = (root.digest.clone(), root.media_type.clone());
        let judged = self.judge(&root.children).await?;
        let mut seen = HashSet::from([root.digest.clone()]);
        let mut blobs: Vec<Descriptor> = Vec::new();
        let mut level = vec![root];
        let mut depth = 0;
        while !level.is_empty() {
            if depth > DEEPEST {
                return Err(PullError::TooDeep(DEEPEST));
            }
            let mut next: Vec<Digest> = Vec::new();
            for came in level {
                let children = &came.children;
                next.extend(self.chosen(children)?);
                // What refers to what refers to an image is asked for by nobody.
                if self.options.referrers && depth <= 1 {
                    next.extend(self.referrers(&came.digest).await?);
                }
                let own = children.config.iter().chain(&children.layers);
                blobs.extend(own.filter(|one| !one.is_foreign()).cloned());
            }
            next.retain(|digest| seen.insert(digest.clone()));
            // Owned by each: a borrowed one would not outlive the closure.
            let coming = next.into_iter();
            let coming = coming.map(|digest| self.manifest(digest.to_string()));
            level = stream::iter(coming).buffered(AT_ONCE).try_collect().await?;
            depth += 1;
        }
        let mut known = HashSet::new();
        blobs.retain(|blob| known.insert(blob.digest.clone()));
        let is_here = |blob: &Descriptor| {
            let judged = judged.as_ref();
            judged.is_some_and(|(config, _)| *config == blob.digest)
        };
        let rest: Vec<Descriptor> = blobs.iter().filter(|one| !is_here(one)).cloned().collect();
        rest.iter().for_each(|blob| self.tell_of(blob));
        let coming = rest.into_iter().map(|blob| self.blob(blob));
        let fetched: Vec<u64> = stream::iter(coming)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(Pulled {
            digest,
            media_type,
            manifests: seen.len(),
            blobs: blobs.len(),
            bytes: blobs.iter().map(|blob| blob.size).sum(),
            fetched: fetched.iter().sum::<u64>() + judged.map_or(0, |(_, came)| came),
        })
    }

    async fn manifest(&self, reference: String) -> Result<Came, PullError> {
        let what = format!("the manifest {reference} of {}", self.image.repository);
        let path = format!("manifests/{reference}");
        let accept = MANIFEST_TYPES.join(", ");
        let answer = self.ask(&path, &accept).await?;
        // Who wants to know what a tag stands for now is not told what it stood for.
        let wants_now = self.options.refresh && reference == self.image.reference.to_string();
        if wants_now && answer.outcome == Outcome::Stale {
            let image = self.image.to_string();
            return Err(PullError::Unconfirmed { image });
        }
        let (head, bytes) = self.whole(&what, answer).await?;
        let field = |name| head.get(name).and_then(|value| value.to_str().ok());
        let media_type = field(header::CONTENT_TYPE.as_str()).unwrap_or_default();
        if matches!(media_type, DOCKER_SCHEMA1 | DOCKER_SCHEMA1_SIGNED) {
            return Err(PullError::TooOld {
                what,
                media_type: media_type.to_owned(),
            });
        }
        let digest = field(DIGEST).and_then(|digest| digest.parse::<Digest>().ok());
        let digest = digest.ok_or_else(|| PullError::Broken {
            what,
            reason: "the answer names no digest".to_owned(),
        })?;
        let children = Children::try_parse(&bytes).map_err(|source| PullError::Manifest {
            digest: digest.clone(),
            source,
        })?;
        (self.progress)(Event::Manifest {
            digest: digest.clone(),
            media_type: media_type.to_owned(),
        });
        Ok(Came {
            digest,
            media_type: media_type.to_owned(),
            children,
        })
    }

    /// What refers to a manifest (distribution spec, end-12a). A registry that does not say has none.
    async fn referrers(&self, digest: &Digest) -> Result<Vec<Digest>, PullError> {
        let path = format!("referrers/{digest}");
        let answer = self.ask(&path, OCI_INDEX).await?;
        if answer.response.status().is_client_error() {
            return Ok(Vec::new());
        }
        let what = format!("the list of what refers to {digest}");
        let (_, bytes) = self.whole(&what, answer).await?;
        let children = Children::parse(&bytes);
        Ok(children
            .manifests
            .into_iter()
            .map(|one| one.digest)
            .collect())
    }

    pub(super) fn tell_of(&self, blob: &Descriptor) {
        (self.progress)(Event::Blob {
            digest: blob.digest.clone(),
            total: blob.size,
        });
    }

    /// Fetches one blob, or proves that it may be had; answers how many bytes came.
    pub(super) async fn blob(&self, blob: Descriptor) -> Result<u64, PullError> {
        let digest = &blob.digest;
        let path = format!("blobs/{digest}");
        let what = format!("the blob {digest} of {}", self.image.repository);
        let cached = self.warm.cache.blob(digest).await.is_some();
        let mut came = 0;
        // Of what is cached nothing is read; but the door asks upstream where it has to, and remembers the
        // answer. No HEAD: that is for who may want to push it.
        let answer = self.ask(&path, "*/*").await?;
        let answer = self.well(&what, answer).await?;
        if !cached {
            if answer.outcome == Outcome::Relay {
                return Err(PullError::NoRoom {
                    digest: digest.clone(),
                });
            }
            let mut body = answer.response.into_body();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| PullError::Broken {
                    what: what.clone(),
                    reason: e.to_string(),
                })?;
                came += frame.data_ref().map_or(0, |data| data.len() as u64);
                (self.progress)(Event::Bytes {
                    digest: digest.clone(),
                    done: came,
                });
            }
            self.is_kept(digest, &what).await?;
        }
        (self.progress)(Event::Done {
            digest: digest.clone(),
            cached,
        });
        Ok(came)
    }

    /// Waits until a download is verified and in place.
    async fn is_kept(&self, digest: &Digest, what: &str) -> Result<(), PullError> {
        let cache = &self.warm.cache;
        while let Some(flight) = cache.flight(digest) {
            flight.finished().await.map_err(|e| PullError::Broken {
                what: what.to_owned(),
                reason: e.to_string(),
            })?;
            if cache.blob(digest).await.is_some() {
                return Ok(());
            }
            tokio::time::sleep(MOMENT).await;
        }
        match cache.blob(digest).await {
            Some(_) => Ok(()),
            None => Err(PullError::NoRoom {
                digest: digest.clone(),
            }),
        }
    }

    async fn ask(&self, path: &str, accept: &str) -> Result<Answer, PullError> {
        let mut headers = HeaderMap::new();
        if let Ok(accept) = HeaderValue::try_from(accept) {
            headers.insert(header::ACCEPT, accept);
        }
        let agent = HeaderValue::from_static(concat!("pierhead/", env!("CARGO_PKG_VERSION")));
        headers.insert(header::USER_AGENT, agent);
        if let Some(credentials) = &self.options.credentials {
            headers.insert(header::AUTHORIZATION, credentials.clone());
        }
        let asked = Asked {
            endpoint: Arc::new(self.place.endpoint()?),
            method: Method::GET,
            path_and_query: format!("/v2/{}/{path}", self.image.repository),
            headers,
            client: super::place::OWN_ADDRESS,
            mirror: true,
            refresh: self.options.refresh,
            name_prefix: String::new(),
            realm: None,
            site: self.place.site(),
            rules: self.place.rules(),
        };
        Ok(self.warm.registries.serve(asked, body::empty()).await)
    }

    async fn whole(&self, what: &str, answer: Answer) -> Result<(HeaderMap, Bytes), PullError> {
        let answer = self.well(what, answer).await?;
        let (head, body) = answer.response.into_parts();
        let bytes = collect(body, LARGEST).await;
        let bytes = bytes.map_err(|reason| PullError::Broken {
            what: what.to_owned(),
            reason,
        })?;
        Ok((head.headers, bytes))
    }

    /// An answer of success, or what the other one says.
    async fn well(&self, what: &str, answer: Answer) -> Result<Answer, PullError> {
        let status = answer.response.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = collect(answer.response.into_body(), LARGEST).await;
        Err(PullError::Refused {
            what: what.to_owned(),
            status: status.as_u16(),
            message: said(&bytes.unwrap_or_default(), status),
        })
    }
}

/// The words of a registry's error JSON, or the status in words.
fn said(bytes: &[u8], status: StatusCode) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let message = json.as_ref().and_then(|json| {
        let first = json.get("errors")?.get(0)?;
        first.get("message")?.as_str()
    });
    let message = message.unwrap_or_else(|| status.canonical_reason().unwrap_or("an error"));
    let shown = message.chars().filter(|c| !c.is_control());
    shown.take(LONGEST_MESSAGE).collect()
}

async fn collect(mut body: Body, most: usize) -> Result<Bytes, String> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|e| e.to_string())?.into_data() {
            if bytes.len() + data.len() > most {
                return Err(format!("more than {most} bytes"));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.freeze())
}

const DIGEST: &str = "docker-content-digest";
/// Requests of one pull at a time.
const AT_ONCE: usize = 4;
/// An index may name indexes; this many below one another.
const DEEPEST: usize = 4;
/// Bytes; manifests have a bound of their own, `limits.manifest_size`.
const LARGEST: usize = 64 << 20;
const LONGEST_MESSAGE: usize = 500;
const MOMENT: std::time::Duration = std::time::Duration::from_millis(10);
