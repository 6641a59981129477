//! squid with `ssl_bump`: a proxy that opens TLS with certificates it makes, as pierhead does, and
//! caches what is in it on disk. It is told that registries' content stays what it is.

use std::net::SocketAddr;
use std::process::Command;

use super::daemon::{Daemon, Folder, free, run};
use super::{Kind, Peer, Route, TUNNEL};
use crate::client::Trust;
use crate::origin::{HOST, Origin};
use crate::support::authority::TestCa;

pub(super) async fn start(origin: &Origin, source: Option<SocketAddr>) -> Peer {
    let folder = Folder::new();
    let addr = free();
    let own = TestCa::new("squid");
    let ca = folder.write("ca.crt", &own.pem);
    let key = folder.write("ca.key", &own.key_pem);
    let roots = folder.write("origin.crt", &origin.ca.pem);
    let hosts = folder.write("hosts", &format!("127.0.0.1 {HOST} {TUNNEL} localhost\n"));
    let root = folder.root().display();
    let tunnels = match source {
        Some(_) => format!("acl tunnels dstdomain {TUNNEL}\nssl_bump splice tunnels\n"),
        None => String::new(),
    };
    let config = folder.write(
        "squid.conf",
        &format!(
            "http_port {addr} ssl-bump generate-host-certificates=on dynamic_cert_mem_cache_size=64MB tls-cert={ca} tls-key={key}
sslcrtd_program {CERTGEN} -s {root}/certs -M 64MB
tls_outgoing_options cafile={roots} default-ca=off
{tunnels}ssl_bump bump all
http_access allow all
hosts_file {hosts}
dns_nameservers 127.0.0.1
cache_dir ufs {root}/cache 16384 16 256
cache_mem 256 MB
maximum_object_size 4 GB
refresh_pattern -i /v2/ 1440 100% 1440 override-expire override-lastmod ignore-reload ignore-no-store ignore-private
collapsed_forwarding on
client_lifetime 1 day
max_filedescriptors 16384
access_log stdio:{root}/access.log
buffered_logs on
cache_log {root}/cache.log
pid_filename {root}/pid
coredump_dir {root}
visible_hostname squid.example
shutdown_lifetime 0 seconds
"
        ),
    );
    run(Command::new(CERTGEN).args(["-c", "-s", &folder.text("certs"), "-M", "64MB"]));
    run(Command::new("chown").args(["-R", "proxy:proxy", &root.to_string()]));
    run(Command::new("squid").args(["-N", "-z", "-f", &config]));
    let mut command = Command::new("squid");
    command.args(["-N", "-f", &config]);
    let daemon = Daemon::start(command, folder, addr).await;
    let route = Route {
        addr,
        connect: Some(origin.addr.port()),
        trust: Trust::only(&own.pem),
    };
    Peer::new(Kind::Squid, Box::new(daemon), route)
}

const CERTGEN: &str = "/usr/lib/squid/security_file_certgen";
