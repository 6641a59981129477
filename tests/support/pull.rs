//! Whole pulls, in the order that clients make their requests.

use super::{Client, Image, Repo, image};

/// The `Accept` lines of a client that takes everything.
pub const ACCEPT_ALL: [&str; 4] = [
    image::OCI_INDEX,
    image::OCI_MANIFEST,
    image::DOCKER_LIST,
    image::DOCKER_MANIFEST,
];

// === impl Client ===

impl Client {
    /// As containerd: HEAD the tag, GET the manifest by digest, then every blob. All of it is
    /// verified.
    pub async fn pull(&self, image: &Image) {
        let digest = self.resolve(&image.repo, &image.tag).await;
        assert_eq!(digest, image.manifest.digest, "the tag points elsewhere");
        self.pull_digest(image).await;
    }

    /// The part of a pull that comes after the tag.
    pub async fn pull_digest(&self, image: &Image) {
        self.manifest(&image.repo, &image.manifest.digest).await;
        for blob in image.blobs() {
            let reply = self.get(&image.repo.blob_url(&blob.digest)).send().await;
            reply.verified(&blob.digest).await;
        }
    }

    /// HEAD of a tag: the digest it points at.
    pub async fn resolve(&self, repo: &Repo, tag: &str) -> String {
        let mut ask = self.head(&repo.manifest_url(tag));
        for media_type in ACCEPT_ALL {
            ask = ask.header("accept", media_type);
        }
        let reply = ask.send().await;
        assert_eq!(reply.status, 200, "HEAD of {tag}");
        reply.header("docker-content-digest").to_owned()
    }

    /// GET of a manifest by tag or digest, which must be there: its digest.
    pub async fn manifest(&self, repo: &Repo, reference: &str) -> String {
        let reply = self.ask_manifest(repo, reference).await;
        let digest = reply.header("docker-content-digest").to_owned();
        reply.verified(&digest).await;
        if reference.contains(':') {
            assert_eq!(digest, reference);
        }
        digest
    }

    /// GET of a manifest by tag or digest, whatever comes.
    pub async fn ask_manifest(&self, repo: &Repo, reference: &str) -> super::Reply {
        let mut ask = self.get(&repo.manifest_url(reference));
        for media_type in ACCEPT_ALL {
            ask = ask.header("accept", media_type);
        }
        ask.send().await
    }
}
