
# --- podman, buildah, skopeo

settings=/etc/containers/containers.conf.d/pierhead.conf

set_up() {
    needs "podman, skopeo or buildah" podman skopeo buildah
    trust_in_store
    trust_in_certs /etc/containers/certs.d
    no_proxy=${PIERHEAD_NO_PROXY-}
    if [ -z "${PIERHEAD_NO_PROXY+given}" ] && ours "$ROOT$settings"; then
        no_proxy=$(sed -n 's/.*"NO_PROXY=\([^"]*\)".*/\1/p' "$ROOT$settings")
    fi
    if [ -n "${PIERHEAD_PROXY_LOGIN-}" ]; then
        # Every user's podman reads the settings in /etc, and fails on what it may not read.
        remove "$settings"
        say "A login is no secret in /etc, which every user's podman has to read. Whoever pulls puts into"
        say "\$HOME/.config/containers/containers.conf (mode 0600), as root and as any other user:"
        say "    [engine]"
        say "    env = [\"HTTPS_PROXY=$SCHEME://USER:PASSWORD@$PLACE\", \"HTTP_PROXY=$SCHEME://USER:PASSWORD@$PLACE\"]"
    else
        put "$settings" 644 "[engine]
env = [\"HTTPS_PROXY=$SCHEME://$PLACE\", \"HTTP_PROXY=$SCHEME://$PLACE\"${no_proxy:+, \"NO_PROXY=$no_proxy\"}]"
    fi
    say "skopeo and buildah take the proxy from the shell: export HTTPS_PROXY=$SCHEME://${PIERHEAD_PROXY_LOGIN:+USER:PASSWORD@}$PLACE"
}

take_back() {
    remove "$settings"
    distrust_in_certs /etc/containers/certs.d
    distrust_in_store
}
