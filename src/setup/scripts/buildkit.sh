
# --- BuildKit: buildkitd as a service, and in a container that buildx makes

set_up() {
    needs "BuildKit" buildkitd docker
    trust_in_store
    put /etc/buildkit/pierhead.crt 644 "$CA"
    tables=
    set -f
    for host in $REGISTRIES; do
        tables="${tables:+$tables
}[registry.\"$host\"]
ca = [\"/etc/buildkit/pierhead.crt\"]"
    done
    set +f
    put /etc/buildkit/pierhead.toml 644 "$tables"
    drop_in buildkit
    restart buildkit
    say "A builder in a container takes it from the command that makes it:"
    say "    docker buildx create --use --name pierhead --config /etc/buildkit/pierhead.toml \\"
    say "        --driver-opt env.HTTPS_PROXY=$SCHEME://${login:+USER:PASSWORD@}$PLACE --driver-opt env.HTTP_PROXY=$SCHEME://${login:+USER:PASSWORD@}$PLACE"
    say "buildx itself asks for tokens: export HTTPS_PROXY=$SCHEME://${login:+USER:PASSWORD@}$PLACE in its shell."
}

take_back() {
    undo_drop_in buildkit
    remove /etc/buildkit/pierhead.toml /etc/buildkit/pierhead.crt
    distrust_in_store
    restart buildkit
}
