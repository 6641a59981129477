
# --- Docker

set_up() {
    needs Docker dockerd
    # Docker Hub is verified against the system store alone, read once when dockerd starts.
    trust_in_store
    trust_in_certs /etc/docker/certs.d
    drop_in docker
    if [ -f "$ROOT/etc/docker/daemon.json" ] && grep -q '"proxies"' "$ROOT/etc/docker/daemon.json"; then
        say "Note: /etc/docker/daemon.json has \"proxies\", which counts before this."
    fi
    restart docker
}

take_back() {
    undo_drop_in docker
    distrust_in_certs /etc/docker/certs.d
    distrust_in_store
    restart docker
}
