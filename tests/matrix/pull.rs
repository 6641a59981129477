//! A pull, and what came of each of its requests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{HeaderMap, Method};

use crate::{
    case::{Case, Place, Step},
    support::{
        Client,
        client::{Ask, Session},
        pull::ACCEPT_ALL,
    },
};

/// What came of one request.
#[derive(Debug)]
pub struct Got {
    pub step: Step,
    pub head: bool,
    /// The part that was asked for: its first byte, and the first one behind it.
    pub part: Option<(usize, usize)>,
    /// 0: no answer.
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    /// The body ended as it should.
    pub whole: bool,
    pub took: Duration,
    /// It was asked with a token.
    pub with_token: bool,
}

struct Puller {
    client: Client,
    authority: String,
    session: Option<Session>,
    token: Option<String>,
    got: Vec<Got>,
}

/// Pulls, as a client does that goes on whatever happens. `odd`: with HEADs and parts, too.
pub async fn pull(case: &Case, place: &Place, client: &Client, odd: bool) -> Vec<Got> {
    let mut puller = Puller {
        client: case.client(client),
        authority: format!("{}:443", place.host),
        session: None,
        token: None,
        got: Vec::new(),
    };
    puller.pull(place, odd).await;
    puller.got
}

// === impl Puller ===

impl Puller {
    async fn pull(&mut self, place: &Place, odd: bool) {
        let ping = self
            .ask(Step::Ping, Method::GET, &place.repo_root(), None)
            .await;
        let challenge = self.got[ping].header("www-authenticate").to_owned();
        if self.got[ping].status == 401 && challenge.starts_with("Bearer ") {
            let url = format!(
                "https://{0}/token?service={0}&scope=repository:team/app:pull",
                place.host
            );
            let answer = self.ask(Step::Token, Method::GET, &url, None).await;
            let json: Option<serde_json::Value> =
                serde_json::from_slice(&self.got[answer].bytes).ok();
            let token = json.and_then(|json| Some(json["token"].as_str()?.to_owned()));
            self.token = token;
        }
        let tag = place.repo.manifest_url(place.tag);
        self.ask(Step::Tag, Method::HEAD, &tag, None).await;
        self.ask(Step::Tag, Method::GET, &tag, None).await;
        for (step, digest) in [
            (Step::Index, &place.index.digest),
            (Step::Digest, &place.manifest.digest),
        ] {
            let url = place.repo.manifest_url(digest);
            if odd {
                self.ask(step, Method::HEAD, &url, None).await;
            }
            self.ask(step, Method::GET, &url, None).await;
        }
        for (step, blob) in [(Step::Config, &place.config), (Step::Blob, &place.layer)] {
            let url = place.repo.blob_url(&blob.digest);
            if odd {
                self.ask(step, Method::HEAD, &url, None).await;
                let part = (blob.len() / 3, blob.len() / 2);
                self.ask(step, Method::GET, &url, Some(part)).await;
            }
            self.ask(step, Method::GET, &url, None).await;
        }
    }

    async fn ask(
        &mut self,
        step: Step,
        method: Method,
        url: &str,
        part: Option<(usize, usize)>,
    ) -> usize {
        let began = Instant::now();
        let client = self.client.clone();
        let mut ask = client.ask(method.clone(), url);
        if matches!(step, Step::Tag | Step::Index | Step::Digest) {
            for media_type in ACCEPT_ALL {
                ask = ask.header("accept", media_type);
            }
        }
        if let Some(token) = &self.token
            && step != Step::Token
        {
            ask = ask.header("authorization", &format!("Bearer {token}"));
        }
        if let Some((start, end)) = part {
            ask = ask.header("range", &format!("bytes={start}-{}", end - 1));
        }
        let mut got = Got {
            step,
            head: method == Method::HEAD,
            part,
            status: 0,
            headers: HeaderMap::new(),
            bytes: Bytes::new(),
            whole: false,
            took: Duration::ZERO,
            with_token: self.token.is_some(),
        };
        let answered = tokio::time::timeout(LONGEST, self.answer(ask, &mut got)).await;
        if answered.is_err() {
            self.session = None;
        }
        got.took = began.elapsed();
        self.got.push(got);
        self.got.len() - 1
    }

    async fn answer(&mut self, ask: Ask<'_>, got: &mut Got) {
        let session = match &mut self.session {
            Some(session) if !session.is_closed() => session,
            session => session.insert(self.client.session(&self.authority).await),
        };
        let Ok(reply) = ask.try_send_on(session).await else {
            self.session = None;
            return;
        };
        got.status = reply.status;
        got.headers = reply.headers.clone();
        let rest = reply.rest().await;
        (got.bytes, got.whole) = (rest.bytes, rest.whole);
        let closes = got.header("connection").contains("close");
        if !got.whole || closes {
            self.session = None;
        }
    }
}

/// Nobody is waited for longer than this.
const LONGEST: Duration = Duration::from_secs(95);

// === impl Got ===

impl Got {
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }

    /// For the message about it.
    pub fn told(&self) -> String {
        let method = if self.head { "HEAD" } else { "GET" };
        let body = String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(160)]);
        let part = self
            .part
            .map(|part| format!(" {part:?}"))
            .unwrap_or_default();
        format!(
            "{method} {:?}{part}: {} after {:.1?}, {} bytes, {}, cache-status {:?}, warning {:?}: {body:?}",
            self.step,
            self.status,
            self.took,
            self.bytes.len(),
            if self.whole { "whole" } else { "broken" },
            self.header("cache-status"),
            self.header("warning"),
        )
    }
}

// === impl Place ===

impl Place {
    fn repo_root(&self) -> String {
        format!("https://{}/v2/", self.host)
    }
}
