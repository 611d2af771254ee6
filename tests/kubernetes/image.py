"""Makes an image of programs of this machine, with the libraries that they need, without a registry:

    image.py NAME:TAG OUT.tar ENTRYPOINT FILE[=PLACE]...

The archive is what `ctr images import` and `docker load` read. The stand-in for an image that `docker build` makes.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

name, out, entrypoint, *files = sys.argv[1:]

wanted = {}
for item in files:
    source, _, place = item.partition("=")
    wanted[place or source] = source
    linked = subprocess.run(["ldd", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    for line in linked.splitlines():
        for word in line.split():
            if word.startswith("/"):
                wanted[word] = word

data = io.BytesIO()
with tarfile.open(fileobj=data, mode="w") as layer:
    for place in ("tmp",):
        folder = tarfile.TarInfo(place)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        layer.addfile(folder)
    for place, source in sorted(wanted.items()):
        real = os.path.realpath(source)
        info = tarfile.TarInfo(place.lstrip("/"))
        info.size, info.mode = os.path.getsize(real), 0o755
        with open(real, "rb") as file:
            layer.addfile(info, file)
layer_bytes = data.getvalue()
digest = hashlib.sha256(layer_bytes).hexdigest()
config = json.dumps({
    "architecture": "amd64",
    "os": "linux",
    "config": {"Entrypoint": [entrypoint], "User": "65532:65532", "Env": ["PATH=/usr/bin:/bin"]},
    "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
}).encode()
config_name = hashlib.sha256(config).hexdigest() + ".json"
manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
with tarfile.open(out, "w") as archive:
    for file, content in [(config_name, config), ("layer.tar", layer_bytes), ("manifest.json", manifest)]:
        info = tarfile.TarInfo(file)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
