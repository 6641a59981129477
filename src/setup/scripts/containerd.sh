
# --- containerd

set_up() {
    trust_in_store
    # What containerd starts inherits its environment, network plugins among them: their way to the
    # cluster must not lead through the gateway.
    drop_in containerd localhost,127.0.0.0/8,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7,.svc,.cluster.local
    restart containerd
    say "ctr asks registries itself: HTTPS_PROXY=$SCHEME://$PLACE ctr images pull …"
}

take_back() {
    undo_drop_in containerd
    distrust_in_store
    restart containerd
}
