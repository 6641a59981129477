//! What is about a manifest (distribution spec, end-12): upstream's list, or while it is away what is
//! cached of it. Signatures are checked where nobody can be asked, too.

use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::Registries;
use super::access::is_away;
use super::call::{Answer, Call};
use super::reply::finish;
use crate::cache::Manifest;
use crate::oci::digest::Digest;
use crate::oci::manifest::OCI_INDEX;
use crate::oci::reference::RepoName;
use crate::store::Key;
use crate::telemetry::access::Outcome;
use crate::wire::body::{self, Body};

impl Registries {
    pub(super) async fn referrers(
        &self,
        call: &Call,
        repo: &RepoName,
        subject: &Digest,
        request_body: Body,
    ) -> Answer {
        let answer = self.pass_on(call, request_body, repo.as_str()).await;
        if !is_away(answer.response.status()) {
            return answer;
        }
        if !self
            .access
            .shows_offline(call, repo, &Key::manifest(subject))
        {
            return answer;
        }
        let wanted = artifact_type(&call.path_and_query);
        let mut listed = Vec::new();
        for digest in self.cache.referrers(subject).await {
            if let Some(manifest) = self.cache.manifest(&digest).await
                && self
                    .access
                    .shows_offline(call, repo, &Key::manifest(&digest))
            {
                listed.extend(described(&manifest, wanted.as_deref()));
            }
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed });
        let mut head = Response::builder()
            .status(StatusCode::OK)
            .header(header::CONTENT_TYPE, OCI_INDEX);
        if wanted.is_some() {
            head = head.header(FILTERS, HeaderValue::from_static("artifactType"));
        }
        let text = match call.is_head() {
            true => body::empty(),
            false => body::full(index.to_string()),
        };
        Answer::cached(finish(head, text), Outcome::Stale)
    }
}

/// A manifest as an index lists it; `None` for one of another type than the one that is wanted.
fn described(manifest: &Manifest, wanted: Option<&str>) -> Option<Value> {
    let parsed: Value = serde_json::from_slice(&manifest.bytes).ok()?;
    // Where none is given it is the configuration's (image specification, "Referrers").
    let own = parsed.get("artifactType").and_then(Value::as_str);
    let own = own.or_else(|| parsed.get("config")?.get("mediaType")?.as_str());
    if wanted.is_some() && wanted != own {
        return None;
    }
    let mut descriptor = json!({
        "mediaType": &*manifest.media_type,
        "digest": manifest.digest.as_str(),
        "size": manifest.bytes.len(),
    });
    if let Some(own) = own {
        descriptor["artifactType"] = own.into();
    }
    if let Some(annotations) = parsed.get("annotations") {
        descriptor["annotations"] = annotations.clone();
    }
    Some(descriptor)
}

/// `?artifactType=…`
fn artifact_type(path_and_query: &str) -> Option<String> {
    let (_, query) = path_and_query.split_once('?')?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == "artifactType")?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

const FILTERS: &str = "oci-filters-applied";
