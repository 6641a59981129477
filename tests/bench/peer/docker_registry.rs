//! docker-registry as a pull-through cache: it is the registry to its clients, in TLS.

use std::process::Command;

use super::daemon::{Daemon, Folder, free};
use super::{Kind, Peer};
use crate::origin::Origin;

pub(super) async fn start(origin: &Origin) -> Peer {
    let folder = Folder::new();
    let addr = free();
    let [certificate, key, roots] = folder.front(origin);
    let root = folder.root().display();
    let port = origin.addr.port();
    let config = folder.write(
        "config.yml",
        &format!(
            "version: 0.1
log:
  level: error
storage:
  filesystem:
    rootdirectory: {root}/data
  cache:
    blobdescriptor: inmemory
http:
  addr: {addr}
  secret: not-so-secret
  tls:
    certificate: {certificate}
    key: {key}
proxy:
  remoteurl: https://localhost:{port}
"
        ),
    );
    let mut command = Command::new("docker-registry");
    command.args(["serve", &config]).env("SSL_CERT_FILE", roots);
    let daemon = Daemon::start(command, folder, addr).await;
    Peer::registry(Kind::DockerRegistry, Box::new(daemon), addr, origin)
}
