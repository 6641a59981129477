//! A gateway with something to show: images of several registries, some of them pulled, some shared,
//! some pinned; a limit, a denial, and an upstream that fails.

use serde_json::{Value, json};

use crate::support::image::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::support::{Blob, Fault, Gateway, Manifest, On, Repo, Setup, Upstream};

pub const HUB: &str = "registry-1.docker.io";

/// Images as they are published.
pub struct Gallery {
    pub up: Upstream,
    pub alpine: Published,
    pub nginx: Published,
    pub app: Published,
}

/// An index of two platforms, of which clients pull the first.
pub struct Published {
    pub repo: Repo,
    pub tag: &'static str,
    pub index: Manifest,
    pub image: Manifest,
    pub config: Blob,
    pub layers: Vec<Blob>,
}

// === impl Gallery ===

impl Gallery {
    pub async fn open() -> Self {
        let up = Upstream::start().await;
        let base = Blob::noise(1, 900_000);
        let alpine = publish(
            &up.repo(HUB, "library/alpine"),
            "3.20",
            &[(
                &base,
                "ADD alpine-minirootfs-3.20.3-x86_64.tar.gz / # buildkit",
            )],
            json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/usr/bin", "TOKEN=do-not-show-me"] }),
        );
        let nginx = publish(
            &up.repo(HUB, "library/nginx"),
            "1.27-alpine",
            &[
                (
                    &base,
                    "ADD alpine-minirootfs-3.20.3-x86_64.tar.gz / # buildkit",
                ),
                (
                    &Blob::noise(2, 2_400_000),
                    "/bin/sh -c set -x     && addgroup -g 101 -S nginx",
                ),
                (
                    &Blob::noise(3, 620),
                    "COPY docker-entrypoint.sh / # buildkit",
                ),
            ],
            json!({
                "Entrypoint": ["/docker-entrypoint.sh"], "Cmd": ["nginx", "-g", "daemon off;"],
                "ExposedPorts": { "80/tcp": {} }, "WorkingDir": "/",
                "Labels": { "maintainer": "NGINX Docker Maintainers", "org.opencontainers.image.version": "1.27" },
            }),
        );
        let app = publish(
            &up.repo("ghcr.io", "acme/shop-backend"),
            "2.4.1",
            &[
                (
                    &base,
                    "ADD alpine-minirootfs-3.20.3-x86_64.tar.gz / # buildkit",
                ),
                (
                    &Blob::noise(4, 5_100_000),
                    "COPY /build/shop /usr/local/bin/shop # buildkit",
                ),
            ],
            json!({ "Entrypoint": ["/usr/local/bin/shop"], "User": "10001", "ExposedPorts": { "8080/tcp": {} } }),
        );
        Self {
            up,
            alpine,
            nginx,
            app,
        }
    }

    /// A gateway before it that knows the public registries as every gateway does.
    pub fn setup(&self) -> Setup {
        Gateway::before(&self.up)
            .no_registry(HUB)
            .no_registry("ghcr.io")
            .registry("registry.partner.example", "auth = \"gateway\"")
            .resolve("registry.partner.example", self.up.addr())
            .text("cache", "tag_ttl", "10m")
            // What stands shall stand, however long the browser takes.
            .text("limits", "upstream_idle", "5m")
            .text("cache", "max_size", "64MiB")
    }

    /// A gateway that was used: everything pulled, some of it twice, one thing denied.
    pub async fn used(&self) -> Gateway {
        self.used_as(self.setup()).await
    }

    /// The same with another configuration.
    pub async fn used_as(&self, setup: Setup) -> Gateway {
        self.limited();
        let gateway = setup.start().await;
        for image in [&self.alpine, &self.nginx, &self.app, &self.nginx] {
            image.pull(&gateway).await;
        }
        let denied = gateway
            .client()
            .try_connect("telemetry.example.com:443")
            .await;
        assert_eq!(denied.0.status, 403);
        // Nobody is there to answer.
        self.up.fault(
            On::any("/v2/").at("registry.partner.example").always(),
            Fault::Status(503, Vec::new(), "maintenance"),
        );
        let missing = "https://registry.partner.example/v2/team/app/manifests/1";
        gateway.client().get(missing).send().await;
        gateway
    }

    /// Docker Hub says what it allows, with the answer to one request.
    fn limited(&self) {
        let fields = vec![
            ("content-type", OCI_INDEX.to_owned()),
            ("docker-content-digest", self.alpine.index.digest.clone()),
            ("ratelimit-limit", "100;w=21600".to_owned()),
            ("ratelimit-remaining", "64;w=21600".to_owned()),
        ];
        let body = String::from_utf8(self.alpine.index.bytes.to_vec()).expect("JSON");
        self.up.fault(
            On::get(&format!("/manifests/{}", self.alpine.index.digest)),
            Fault::Status(200, fields, body.leak()),
        );
    }
}

// === impl Published ===

impl Published {
    /// As containerd pulls it: the tag, the index, one platform's manifest, its blobs.
    pub async fn pull(&self, gateway: &Gateway) {
        let client = gateway.client();
        assert_eq!(
            client.resolve(&self.repo, self.tag).await,
            self.index.digest
        );
        client.manifest(&self.repo, &self.index.digest).await;
        client.manifest(&self.repo, &self.image.digest).await;
        for blob in self.layers.iter().chain([&self.config]) {
            let reply = client.get(&self.repo.blob_url(&blob.digest)).send().await;
            reply.verified(&blob.digest).await;
        }
    }
}

fn publish(repo: &Repo, tag: &'static str, steps: &[(&Blob, &str)], run: Value) -> Published {
    let layers: Vec<Blob> = steps.iter().map(|(blob, _)| (*blob).clone()).collect();
    let config = |architecture: &str| {
        let history: Vec<Value> = steps
            .iter()
            .map(|(_, by)| json!({ "created_by": by }))
            .collect();
        let config = json!({
            "created": "2026-09-06T22:20:07Z", "os": "linux", "architecture": architecture, "config": run,
            "history": history, "rootfs": { "type": "layers", "diff_ids": [] },
        });
        Blob::of(config.to_string())
    };
    let (amd64, arm64) = (config("amd64"), config("arm64"));
    for blob in layers.iter().chain([&amd64, &arm64]) {
        repo.put(blob);
    }
    let image = Manifest::image(OCI_MANIFEST, &amd64, &layers);
    let other = Manifest::image(DOCKER_MANIFEST, &arm64, &layers);
    let index = Manifest::index(OCI_INDEX, &[&image, &other]);
    repo.put_manifest(&image)
        .put_manifest(&other)
        .tag(tag, &[&index]);
    Published {
        repo: repo.clone(),
        tag,
        index,
        image,
        config: amd64,
        layers,
    }
}
