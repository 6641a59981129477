//! Debian's `docker-registry`, plain HTTP on loopback: where the bytes of all upstreams live.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::image::{Blob, Document, Image, Index};
use crate::process::{Daemon, START_LIMIT, run};

/// The daemon with a client to it.
pub struct Backend {
    store: Store,
    _daemon: Daemon,
}

/// The client half; cheap to clone.
#[derive(Clone)]
pub struct Store {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

// === impl Backend ===

impl Backend {
    /// Starts an empty registry under `dir`. A client needs a runtime: call this inside one.
    pub fn start(dir: &Path) -> Self {
        Self::start_as(dir, "http: {addr: \"127.0.0.1:0\", relativeurls: true}\n")
    }

    /// The same as it comes from its package, for one user only: where an upload goes on is said with the
    /// host that it believes to be called by.
    pub fn behind_a_password(dir: &Path, user: &str, password: &str) -> Self {
        let users = dir.join("users");
        let mut htpasswd = Command::new("htpasswd");
        htpasswd.args(["-Bbc"]).arg(&users).args([user, password]);
        run(htpasswd, START_LIMIT).ok();
        let said = format!(
            "http: {{addr: \"127.0.0.1:0\"}}\nauth: {{htpasswd: {{realm: house, path: {}}}}}\n",
            users.display()
        );
        Self::start_as(dir, &said)
    }

    fn start_as(dir: &Path, said: &str) -> Self {
        let config = dir.join("registry.yml");
        let storage = dir.join("registry");
        std::fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n{said}",
                storage.display()
            ),
        )
        .expect("a configuration file");
        let mut command = Command::new("docker-registry");
        command
            // REGISTRY_* variables would override the file.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .arg("serve")
            .arg(&config);
        let mut daemon = Daemon::start("docker-registry", command, &dir.join("registry.log"));
        let address = daemon.wait_ready(|log| {
            let rest = log.split("listening on ").nth(1)?;
            let end = rest.find(|c: char| c != '.' && c != ':' && !c.is_ascii_digit())?;
            Some(rest[..end].to_owned())
        });
        let store = Store {
            base: format!("http://{address}"),
            client: Client::builder(TokioExecutor::new()).build_http(),
        };
        Self {
            store,
            _daemon: daemon,
        }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> &str {
        &self.store.base
    }
}

// === impl Store ===

impl Store {
    /// Sends a request as it is; the answer is read to its end.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Response<Bytes> {
        let uri = format!("{}{path}", self.base);
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse().expect("a path that is one");
        *request.headers_mut() = headers;
        let (head, body) = self
            .client
            .request(request)
            .await
            .expect("docker-registry to answer")
            .into_parts();
        let body = body.collect().await.expect("docker-registry to go on");
        Response::from_parts(head, body.to_bytes())
    }

    /// Pushes blobs, manifest and tag.
    pub async fn push(&self, repository: &str, tag: &str, image: &Image) {
        for blob in image.blobs() {
            self.push_blob(repository, blob).await;
        }
        self.push_document(repository, tag, &image.manifest).await;
    }

    /// Pushes every image of an index by digest, then the index by tag.
    pub async fn push_index(&self, repository: &str, tag: &str, index: &Index) {
        for image in &index.images {
            self.push(repository, &image.manifest.digest, image).await;
        }
        self.push_document(repository, tag, &index.list).await;
    }

    async fn push_blob(&self, repository: &str, blob: &Blob) {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let started = self
            .send(Method::POST, &path, HeaderMap::new(), Vec::new())
            .await;
        let location = started.headers()[header::LOCATION]
            .to_str()
            .expect("a location in ASCII");
        let joint = if location.contains('?') { '&' } else { '?' };
        let path = format!("{location}{joint}digest={}", blob.digest);
        let done = self
            .send(Method::PUT, &path, HeaderMap::new(), blob.bytes.clone())
            .await;
        assert_eq!(done.status(), 201, "push of {}: {done:?}", blob.digest);
    }

    async fn push_document(&self, repository: &str, reference: &str, document: &Document) {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            document.media_type.parse().expect("a header value"),
        );
        let done = self
            .send(Method::PUT, &path, headers, document.bytes.clone())
            .await;
        assert_eq!(done.status(), 201, "push of {reference}: {done:?}");
    }
}
