# shellcheck shell=bash
# Containers of a test's own: buildah and podman with storage, settings and networks that vanish with the test. Nothing is
# pulled: base images come from Debian's packages. Sourced after lib.sh, as root.
# shellcheck disable=SC2154 # lib.sh sets root, tools and dam

((EUID == 0)) || fail "containers are run as root here: become root, or leave this part out (make test PARTS=…)"
"$root/scripts/need" containers

box=$(mktemp -d)
mkdir -p "$tools/stand-ins"
cat >"$box/storage.conf" <<TOML
[storage]
driver = "${CONTAINERS_DRIVER:-overlay}"
graphroot = "$box/images"
runroot = "$box/run"
TOML
# crun refuses machines with both versions of cgroups. Limits that this machine may give are said here, because the
# defaults of podman are higher than a machine without CAP_SYS_RESOURCE can set.
cat >"$box/containers.conf" <<TOML
[containers]
default_ulimits = ["nofile=$(ulimit -Hn):$(ulimit -Hn)", "nproc=30000:30000"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
tmp_dir = "$box/tmp"
[network]
network_backend = "netavark"
network_config_dir = "$box/networks"
TOML
printf '{"default":[{"type":"insecureAcceptAnything"}]}\n' >"$box/policy.json"
export CONTAINERS_STORAGE_CONF=$box/storage.conf CONTAINERS_CONF=$box/containers.conf BUILDAH_ISOLATION=chroot
# No settings of this machine's owner, and no registry by a short name.
export CONTAINERS_REGISTRIES_CONF=/dev/null REGISTRY_AUTH_FILE=$box/auth.json
printf '{}\n' >"$REGISTRY_AUTH_FILE"

# Health checks have no timer without systemd, which podman would say each time; scripts ask for them by hand.
mkdir "$box/bin"
printf '#!/usr/bin/env bash\nexec %s "$@" 2> >(grep -v "systemd connection" >&2)\n' "$(command -v podman)" >"$box/bin/podman"
chmod +x "$box/bin/podman"
PATH=$box/bin:$PATH

containers_gone() {
    local status=$?
    set +e
    podman pod rm --all --force --time 1 >/dev/null 2>&1 || true
    podman rm --all --force --time 1 >/dev/null 2>&1 || true
    podman network prune --force >/dev/null 2>&1 || true
    podman volume prune --force >/dev/null 2>&1 || true
    buildah rm --all >/dev/null 2>&1 || true
    umount "$box/images/overlay" 2>/dev/null || true
    rm -rf "$box"
    (exit "$status")
    stop_all
}
trap containers_gone EXIT

# stand_in_file FILE: has `make_FILE` make an image for .tools/stand-ins, if it is not there or if its recipe, the text of
# that function, has changed.
stand_in_file() {
    local file=$tools/stand-ins/$1.tar stamp=$tools/stand-ins/$1.stamp recipe
    recipe=$(declare -f "make_$1" | sha256sum)
    if [[ ! -f $file || ! -f $stamp || $(<"$stamp") != "$recipe" ]]; then
        rm -f "$file" "$stamp"
        "make_$1" "$box/$1" >"$box/$1.log" 2>&1 || { tail -n 15 "$box/$1.log" >&2; fail "the stand-in $1 could not be made"; }
        buildah push -q "stand-in-$1" "docker-archive:$file:stand-in-$1:latest" >/dev/null
        printf '%s\n' "$recipe" >"$stamp"
        rm -rf "${box:?}/$1"
        buildah rmi "stand-in-$1" >/dev/null
    fi
}

# stand_in FILE NAME...: loads that image, and tags it with names as they stand in Dockerfile and Compose.
stand_in() {
    local name
    if ! podman image exists "stand-in-$1"; then
        stand_in_file "$1"
        podman load -q -i "$tools/stand-ins/$1.tar" >/dev/null
    fi
    for name in "${@:2}"; do podman tag "stand-in-$1" "$name"; done
}

# image_of FOLDER NAME CONFIG...: an image of one layer.
image_of() {
    local container
    container=$(buildah from scratch)
    buildah copy -q "$container" "$1" / >/dev/null
    if (($# > 2)); then buildah config "${@:3}" "$container"; fi
    buildah commit -q --rm "$container" "$2" >/dev/null
}

# debian_files FOLDER PACKAGE...: the files of Debian's packages, without their scripts.
debian_files() {
    local folder=$1 archive
    mkdir -p "$folder.debs" "$folder"
    shift
    # What makes an image is called where the shell does not stop by itself.
    (cd "$folder.debs" && apt-get download -q "$@") || return 1
    for archive in "$folder.debs"/*.deb; do dpkg-deb -x "$archive" "$folder" || return 1; done
    rm -rf "$folder.debs" "$folder"/usr/share/{doc,man,locale,lintian,bug}
}

# distroless_tree FOLDER: roots for TLS and a user; no shell.
distroless_tree() {
    rm -rf "${1:?}"/{bin,sbin,usr/bin,usr/sbin} "$1"/usr/lib/*/gconv
    mkdir -p "$1"/etc/ssl/certs "$1"/{tmp,home/nonroot}
    chmod 1777 "$1/tmp"
    cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"
    printf 'root:x:0:0::/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n' >"$1/etc/passwd"
    printf 'root:x:0:\nnonroot:x:65532:\n' >"$1/etc/group"
}

# What gcr.io/distroless/cc-debian12:nonroot holds: glibc, libgcc, roots for TLS, time zones, a user. No shell.
make_distroless() {
    debian_files "$1" libc6 libgcc-s1 ca-certificates tzdata netbase base-files || return 1
    distroless_tree "$1"
    image_of "$1" stand-in-distroless --user 65532:65532 --workingdir /home/nonroot
}

# debian_tree FOLDER PACKAGES: Debian's own minimum and some packages, for what needs more than files.
debian_tree() {
    mmdebstrap --quiet --variant=minbase --include="$2" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$1"
    rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*
}

# own_image: the image `traffic-dam` by the real Dockerfile, its stages `build` and base replaced by `dam` and a stand-in.
own_image() {
    stand_in distroless gcr.io/distroless/cc-debian12:nonroot
    mkdir -p "$box/built"
    strip --strip-all -o "$box/built/traffic-dam" "$dam"
    image_version=$("$dam" --version | sed -E 's/^[^ ]+ ([^ ]+) .*/\1/')
    image_commit=$("$dam" --version | sed -E 's/.*\(commit ([^,]+),.*/\1/')
    buildah build -q --pull=never --format docker --timestamp "${SOURCE_DATE_EPOCH:-0}" \
        --build-arg "TARGETARCH=$(dpkg --print-architecture)" \
        --build-context "build=$box/built" --build-arg "VERSION=$image_version" \
        --build-arg "TRAFFIC_DAM_COMMIT=$image_commit" \
        -f "$root/deploy/Dockerfile" "$@" "$root" >/dev/null
}
