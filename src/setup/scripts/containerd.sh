
# --- containerd: as a service of its own, or inside a distribution of Kubernetes that brings it

UNITS="containerd k3s k3s-agent rke2-server rke2-agent"

has_unit() {
    for dir in etc usr/local/lib usr/lib lib; do
        if [ -f "$ROOT/$dir/systemd/system/$1.service" ]; then return; fi
    done
    return 1
}

set_up() {
    needs containerd containerd k3s rke2
    trust_in_store
    found=
    for one in $UNITS; do
        if has_unit "$one"; then found="$found $one"; fi
    done
    for one in ${found:-containerd}; do
        # What containerd starts inherits its environment, network plugins among them: their way to the
        # cluster must not lead through the gateway.
        drop_in "$one" localhost,127.0.0.0/8,::1,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,fc00::/7,.svc,.cluster.local
        restart "$one"
    done
    say "ctr asks registries itself: HTTPS_PROXY=$SCHEME://${login:+USER:PASSWORD@}$PLACE ctr images pull …"
}

take_back() {
    for one in $UNITS; do
        undo_drop_in "$one"
    done
    distrust_in_store
    for one in $UNITS; do
        if has_unit "$one"; then restart "$one"; fi
    done
}
