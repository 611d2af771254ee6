# shellcheck shell=bash
# How packages are made. Sourced after lib.sh, from the root of the repository, with `dam` set.
# shellcheck disable=SC2154 # lib.sh and built_dam set root and dam

# generated FOLDER: the stripped binary, manual pages and completions.
generated() {
    mkdir -p "$1/man"
    strip --strip-all -o "$1/traffic-dam" "$dam"
    "$dam" man --to "$1/man"
    "$dam" man >"$1/man/traffic-dam.1"
    find "$1/man" -name '*.1' -exec gzip -9nf {} +
    "$dam" completions bash >"$1/traffic-dam.bash"
    "$dam" completions zsh >"$1/_traffic-dam"
    "$dam" completions fish >"$1/traffic-dam.fish"
}

# The version as the manifest has it.
package_version() {
    sed -n 's/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml" | head -n 1
}

# packed FOLDER RELEASE [CHANGE]: deb and rpm in FOLDER; CHANGE edits, for a test, the settings file that they bring.
packed() {
    local folder=$1 config kind
    FILES=$folder/files ARCH=$(dpkg --print-architecture) VERSION=$(package_version) RELEASE=$2
    export FILES ARCH VERSION RELEASE
    export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
    generated "$FILES"
    sed "${3:-}" deploy/packages/dam.yaml >"$FILES/dam.yaml"
    config=$folder/nfpm.yaml
    # nfpm fills variables into values of its own choice only.
    sed -e "s|\${FILES}|$FILES|; s|deploy/packages/dam.yaml|$FILES/dam.yaml|" deploy/packages/nfpm.yaml >"$config"
    for kind in deb rpm; do
        nfpm package --config "$config" --packager "$kind" --target "$folder" >/dev/null || fail "no $kind could be made"
    done
}

# archive FOLDER TARGET: the tarball of a target, the same bytes whenever it is made of the same commit and binary.
archive() {
    local name
    name=traffic-dam-$(package_version)-$2
    mkdir -p "$1/$name"
    generated "$1/files"
    cp -r "$1"/files/. "$1/$name"
    cp LICENSE README.md CHANGELOG.md examples/full.yaml deploy/packages/dam.yaml "$1/$name"
    cp -r deploy/systemd "$1/$name/systemd"
    tar --sort=name --owner=0 --group=0 --numeric-owner --mode=go-w --mtime="@$(git log -1 --format=%ct)" \
        -C "$1" -cf - "$name" | gzip -9n >"$1/$name.tar.gz"
    rm -rf "${1:?}/$name" "$1/files"
}

# components FILE: what the binary is made of, as CycloneDX: every crate of Cargo.lock, with its hash.
components() {
    local log
    log=$(mktemp)
    "$root/.tools/cdxgen/node_modules/.bin/cdxgen" -t rust --no-recurse --no-install-deps --spec-version 1.6 -o "$1" . \
        >"$log" 2>&1 </dev/null || { tail -n 10 "$log" >&2; fail "no list of components could be made"; }
    rm -f "$log"
    local crates listed
    # Crates of the registry: those of this repository are what the list is of.
    crates=$(grep -c '^checksum = ' Cargo.lock)
    listed=$(jq '[.components[] | select(.purl | startswith("pkg:cargo/"))] | length' "$1")
    ((listed >= crates)) || fail "the list has $listed crates, and Cargo.lock $crates"
}

checksums() {
    (cd "$1" && find . -maxdepth 1 -type f ! -name 'SHA256SUMS*' -printf '%f\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)
}
