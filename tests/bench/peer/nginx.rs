//! nginx as a caching reverse proxy in TLS: it is the registry to its clients, who have no CONNECT to
//! make. Its buffers are larger than by default, which makes it cheaper.

use std::process::Command;

use super::daemon::{Daemon, Folder, free};
use super::{Kind, Peer};
use crate::origin::{HOST, Origin};

pub(super) async fn start(origin: &Origin) -> Peer {
    let folder = Folder::new();
    let addr = free();
    let [certificate, key, roots] = folder.front(origin);
    let root = folder.root().display();
    let port = origin.addr.port();
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    let config = folder.write(
        "nginx.conf",
        &format!(
            "daemon off;
user root;
worker_processes {workers};
worker_rlimit_nofile 65536;
pid {root}/pid;
error_log {root}/error.log error;
events {{ worker_connections 16384; }}
http {{
    access_log {root}/access.log combined buffer=64k flush=1s;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    proxy_cache_path {root}/cache levels=1:2 keys_zone=registry:16m max_size=16g inactive=1d use_temp_path=off;
    output_buffers 2 512k;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    upstream origin {{ server 127.0.0.1:{port}; keepalive 16; }}
    server {{
        listen {addr} ssl backlog=4096;
        ssl_certificate {certificate};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
        ssl_ecdh_curve X25519;
        ssl_session_tickets off;
        ssl_session_cache off;
        location / {{
            proxy_pass https://origin;
            proxy_http_version 1.1;
            proxy_set_header Host {HOST};
            proxy_set_header Connection \"\";
            proxy_ssl_server_name on;
            proxy_ssl_name {HOST};
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate {roots};
            proxy_buffer_size 64k;
            proxy_buffers 8 64k;
            proxy_busy_buffers_size 128k;
            proxy_max_temp_file_size 8192m;
            proxy_cache registry;
            proxy_cache_key \"$uri $http_accept\";
            proxy_cache_valid 200 1h;
            proxy_cache_lock on;
            proxy_cache_lock_timeout 1h;
            proxy_cache_lock_age 1h;
        }}
    }}
}}
"
        ),
    );
    let mut command = Command::new("nginx");
    command.args(["-e", &folder.text("error.log"), "-c", &config]);
    let daemon = Daemon::start(command, folder, addr).await;
    Peer::registry(Kind::Nginx, Box::new(daemon), addr, origin)
}
