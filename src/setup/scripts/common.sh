
# --- what every client's script has in common

# Every file we write begins so; nothing without it is touched.
MARK='# pierhead setup'
ROOT=${PIERHEAD_ROOT:-}
ROOT=${ROOT%/}
dry=
changed=
left=
umask 022
# `su` without a dash, and users who look before they run, have no sbin.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '%s\n' "$*"; }

die() {
    printf 'pierhead: %s\n' "$*" >&2
    exit 1
}

run() {
    if [ -n "$dry" ]; then
        say "would run: $*"
        return
    fi
    say "running: $*"
    "$@" || die "\`$*\` failed. Mend that, and run it by hand."
}

ours() { [ -r "$1" ] && [ -f "$1" ] && [ "$(head -n 1 "$1" | cut -c "1-${#MARK}")" = "$MARK" ]; }

# checksum: of a file's text, but for the line that remembers it.
checksum() { grep -v '^# pierhead wrote ' | sha256sum | cut -d ' ' -f 1; }

# edited PATH: somebody has changed a file of ours since. It is theirs now: we leave it, and name it.
edited() {
    [ "$(sed -n 's/^# pierhead wrote //p' "$ROOT$1")" = "$(checksum < "$ROOT$1")" ] && return 1
    left=yes
    say "$1 was changed by hand: left as it is"
}

# put PATH MODE CONTENT: makes it so, and says if that changed anything. The header remembers which
# folders had to be made, so that they can go again, and what was written.
put() {
    target=$ROOT$1
    made=
    if [ -e "$target" ] || [ -h "$target" ]; then
        if [ -n "$dry" ] && [ ! -r "$target" ]; then
            say "would look into $1, which this user may not read"
            return
        fi
        ours "$target" || die "$1 is there and not from pierhead. Move it away, and run this again."
        if edited "$1"; then return; fi
        made=$(sed -n 's/^# pierhead made \(.*\)$/# pierhead made \1/p' "$target")
    else
        dir=${1%/*}
        while [ -n "$dir" ] && [ ! -d "$ROOT$dir" ]; do
            made="# pierhead made $dir${made:+
$made}"
            dir=${dir%/*}
        done
    fi
    head="$MARK $CLIENT: the same script takes this away with --undo.${made:+
$made}"
    content="$head
# pierhead wrote $(printf '%s\n' "$head" "$3" | checksum)
$3"
    if [ -f "$target" ] && [ "$(cat "$target")" = "$content" ]; then
        return
    fi
    changed=yes
    if [ -n "$dry" ]; then
        say "would write $1"
        return
    fi
    mkdir -p "${target%/*}"
    # Never readable by more than it shall be, and never half there.
    rm -f "$target.pierhead-new"
    (umask 077 && printf '%s\n' "$content" > "$target.pierhead-new")
    chmod "$2" "$target.pierhead-new"
    mv -f "$target.pierhead-new" "$target"
    say "wrote $1"
}

# remove PATH...: takes our files back, and then the folders that were made for them, if they are empty.
remove() {
    folders=
    for path in "$@"; do
        target=$ROOT$path
        ours "$target" || continue
        if edited "$path"; then continue; fi
        changed=yes
        if [ -n "$dry" ]; then
            say "would remove $path"
            continue
        fi
        folders="$folders
$(sed -n 's/^# pierhead made //p' "$target")"
        rm -f "$target"
        say "removed $path"
    done
    # The deepest first.
    printf '%s\n' "$folders" | sort -ru | while IFS= read -r dir; do
        if [ -n "$dir" ] && [ -d "$ROOT$dir" ]; then
            rmdir "$ROOT$dir" 2> /dev/null || :
        fi
    done
}

# on_path COMMAND
on_path() {
    if [ -z "$ROOT" ]; then
        command -v "$1" > /dev/null 2>&1
        return
    fi
    for dir in usr/local/sbin usr/local/bin usr/sbin usr/bin sbin bin; do
        if [ -x "$ROOT/$dir/$1" ]; then return; fi
    done
    return 1
}

# needs NAME COMMAND...: refuses, before anything is changed, where there is nothing to set up.
needs() {
    name=$1
    shift
    for command in "$@"; do
        if on_path "$command"; then return; fi
    done
    place="on this machine"
    if [ -n "$ROOT" ]; then place="in $ROOT"; fi
    die "there is no $name $place (looked for: $*). Install it, and run this again; nothing was changed."
}

# Which folder the administrator's own roots lie in, and what reads it.
find_store() {
    refresh=update-ca-certificates
    fresh=--fresh
    if [ -d "$ROOT/etc/pki/ca-trust/source/anchors" ]; then # Fedora, RHEL
        store=/etc/pki/ca-trust/source/anchors refresh=update-ca-trust fresh=
    elif [ -d "$ROOT/etc/pki/trust/anchors" ]; then # SUSE
        store=/etc/pki/trust/anchors
    elif [ -d "$ROOT/etc/ca-certificates/trust-source/anchors" ]; then # Arch
        store=/etc/ca-certificates/trust-source/anchors refresh=update-ca-trust fresh=
    elif [ -d "$ROOT/usr/local/share/ca-certificates" ] || [ -d "$ROOT/usr/share/ca-certificates" ]; then
        store=/usr/local/share/ca-certificates # Debian, Ubuntu, Alpine
    else
        return 1
    fi
    anchor=$store/pierhead-$CLIENT.crt
}

NO_STORE="no system store of certificates was found. Install the package ca-certificates, and run this again."

# refresh_store [OPTION]: lets the system read the folder again.
refresh_store() {
    if [ -z "$ROOT" ]; then
        run "$refresh" "$@"
    elif on_path "$refresh"; then
        run chroot "$ROOT" "$refresh" "$@"
    else
        say "$refresh is not in $ROOT: run it there before the image is used"
    fi
}

trust_in_store() {
    find_store || die "$NO_STORE"
    if [ -z "$ROOT" ] && ! on_path "$refresh"; then die "$refresh is missing. $NO_STORE"; fi
    before=$changed changed=
    put "$anchor" 644 "$CA"
    if [ -n "$changed" ]; then refresh_store; fi
    changed=$before${changed:+yes}
}

distrust_in_store() {
    if ! find_store; then return; fi
    before=$changed changed=
    remove "$anchor"
    # Without --fresh Debian's leaves a link that leads nowhere.
    if [ -n "$changed" ]; then refresh_store ${fresh:+"$fresh"}; fi
    changed=$before${changed:+yes}
}

# trust_in_certs FOLDER: it has CAs by registry. Any name that ends in .crt counts there, so that what
# others put beside ours stays.
trust_in_certs() {
    folder=$1
    set -- # those of registries that the gateway has no more
    for found in "$ROOT$folder"/*/pierhead.crt; do
        host=${found%/pierhead.crt}
        case "
$REGISTRIES
" in
            *"
${host##*/}
"*) ;;
            *) set -- "$@" "${found#"$ROOT"}" ;;
        esac
    done
    remove "$@"
    set -f # [::1] is no pattern
    for host in $REGISTRIES; do
        put "$folder/$host/pierhead.crt" 644 "$CA"
    done
    set +f
}

distrust_in_certs() {
    for found in "$ROOT$1"/*/pierhead.crt; do
        set -- "$@" "${found#"$ROOT"}"
    done
    shift
    remove "$@"
}

# The text as it may stand in a URL before the @.
encoded() {
    case $1 in
        *[!A-Za-z0-9._~-]*) printf %s "$1" | od -An -v -tx1 | tr -d '\n' | tr ' ' % ;;
        *) printf %s "$1" ;;
    esac
}

# find_login FILE: user:password as in a URL, from PIERHEAD_PROXY_LOGIN, else as FILE has it already.
find_login() {
    case ${PIERHEAD_PROXY_LOGIN-unset} in
        unset) if ours "$ROOT$1"; then login=$(sed -n 's|^HTTPS_PROXY=[a-z]*://\([^@]*\)@.*|\1|p' "$ROOT$1"); else login=; fi ;;
        '') login= ;;
        *:*) login=$(encoded "${PIERHEAD_PROXY_LOGIN%%:*}"):$(encoded "${PIERHEAD_PROXY_LOGIN#*:}") ;;
        *) die "PIERHEAD_PROXY_LOGIN is to be user:password" ;;
    esac
    proxy=$SCHEME://${login:+$login@}$PLACE
}

has_systemd() { [ -d "$ROOT/etc/systemd/system" ] || [ -d "$ROOT/usr/lib/systemd/system" ] || [ -d "$ROOT/lib/systemd/system" ]; }

# drop_in SERVICE [NO_PROXY]: gives a service its proxy. NO_PROXY is for where nobody has set one.
drop_in() {
    unit=$1.service
    folder=/etc/systemd/system/$unit.d
    find_login "$folder/pierhead.env"
    if [ -z "$ROOT" ] && [ ! -d /run/systemd/system ]; then
        say "systemd does not run here. Where $1 is started (OpenRC: /etc/conf.d/$1, SysV init: /etc/default/$1) it needs:"
        say "    export HTTPS_PROXY=$SCHEME://${login:+USER:PASSWORD@}$PLACE HTTP_PROXY=$SCHEME://${login:+USER:PASSWORD@}$PLACE"
    fi
    if ! has_systemd; then return; fi
    no_proxy=${PIERHEAD_NO_PROXY-}
    if [ -z "${PIERHEAD_NO_PROXY+given}" ] && ours "$ROOT$folder/pierhead.conf"; then
        # Said by an earlier run, unless it is what goes without saying.
        no_proxy=$(sed -n 's/^Environment=NO_PROXY=//p' "$ROOT$folder/pierhead.conf")
        if [ "$no_proxy" = "${2-}" ]; then no_proxy=; fi
    fi
    for file in "$ROOT/etc/systemd/system/$unit" "$ROOT/usr/lib/systemd/system/$unit" "$ROOT/lib/systemd/system/$unit" "$ROOT$folder"/*.conf; do
        if [ ! -f "$file" ] || ours "$file"; then continue; fi
        if grep -qi '^[^#]*no_proxy=' "$file"; then set -- "$1"; fi
        if grep -qi '^[^#]*https_proxy=' "$file"; then
            say "Note: ${file#"$ROOT"} sets a proxy, too; of several files the last by name counts."
        fi
    done
    no_proxy=${no_proxy:-${2-}}
    if [ -n "$login" ]; then
        # In a file of its own: everybody may ask systemd for what stands in Environment=.
        put "$folder/pierhead.env" 600 "HTTPS_PROXY=$proxy
HTTP_PROXY=$proxy"
        environment="EnvironmentFile=$folder/pierhead.env"
    else
        remove "$folder/pierhead.env"
        environment="Environment=HTTPS_PROXY=$proxy
Environment=HTTP_PROXY=$proxy"
    fi
    put "$folder/pierhead.conf" 644 "[Service]
$environment${no_proxy:+
Environment=NO_PROXY=$no_proxy}"
}

undo_drop_in() {
    folder=/etc/systemd/system/$1.service.d
    remove "$folder/pierhead.conf" "$folder/pierhead.env"
}

# restart SERVICE: what was changed counts from its next start.
restart() {
    if [ -z "$changed" ]; then return; fi
    if [ -n "$ROOT" ]; then
        say "$1 reads this when the image starts"
    elif [ ! -d /run/systemd/system ]; then
        say "start $1 again for this to count"
    else
        run systemctl daemon-reload
        if ! systemctl is-active --quiet "$1"; then
            say "$1 does not run now; it reads this at its next start"
        elif [ -n "$no_restart" ]; then
            say "for this to count: systemctl restart $1"
        else
            run systemctl restart "$1"
        fi
    fi
}

finish() {
    again=yes
    if [ -n "$undo" ]; then again=; fi
    if [ -n "$left" ]; then
        say "What was changed by hand is left as it is. Take it away yourself${again:+, and run this again}."
    fi
    if [ -n "$dry" ]; then
        say "That was a dry run; nothing was changed."
    elif [ -n "$changed" ]; then
        say "Done."
    elif [ -n "$left" ]; then
        say "Nothing else was changed."
    elif [ -n "$undo" ]; then
        say "Nothing to take back."
    else
        say "All is as it should be; nothing was changed."
    fi
}

main() {
    undo=
    no_restart=
    for option in "$@"; do
        case $option in
            --undo) undo=yes ;;
            --dry-run) dry=yes ;;
            --no-restart) no_restart=yes ;;
            *) die "$option is no option: --undo, --dry-run and --no-restart are" ;;
        esac
    done
    if [ -z "$ROOT$dry" ] && [ "$(id -u)" -ne 0 ]; then
        die "this changes the system: run it as root (… | sudo sh), or see what it would do with --dry-run"
    fi
    if [ -n "$undo" ]; then
        take_back
    else
        say "pierhead at $SCHEME://$PLACE for $CLIENT"
        say "CA sha256 $FINGERPRINT"
        say "Compare it with what \`pierhead ca show\` prints on the gateway."
        set_up
    fi
    finish
}
