"""What a build of the image is given (.dockerignore): every file that Cargo wants, and no secret, document or history.

Run by scripts/image with the folder that holds it.
"""

import re
import sys
import tomllib
from pathlib import Path

context = Path(sys.argv[1])
faults = []

manifest = tomllib.loads((context / "Cargo.toml").read_text())
for kind, folder in (("bench", "benches"), ("example", "examples"), ("bin", "src/bin"), ("test", "tests")):
    for target in manifest.get(kind, []):
        path = target.get("path", f"{folder}/{target['name']}.rs")
        if not (context / path).exists():
            faults.append(f"Cargo.toml declares {path}, and .dockerignore leaves it out")
crates = [path.parent.relative_to(context).as_posix() for path in context.glob("crates/*/Cargo.toml")]
if not crates:
    faults.append("the crates are left out")
for needed in ("Cargo.lock", "build.rs", "src/main.rs", "src/lib.rs", *(f"{crate}/src/lib.rs" for crate in crates)):
    if not (context / needed).exists():
        faults.append(f"{needed} is left out")

# Files that the sources take into the binary. Names that a macro puts together are below src/, which is there whole.
for source in [path for folder in ("src", "crates") for path in (context / folder).rglob("*.rs")]:
    for name in re.findall(r'include_(?:str|bytes)!\("([^"]+)"\)', source.read_text()):
        if not (source.parent / name).exists() and name.startswith(".."):
            faults.append(f"{source.relative_to(context)} includes {name}, and .dockerignore leaves it out")

files = [path for path in context.rglob("*") if path.is_file()]
for path in files:
    inside = path.relative_to(context).as_posix()
    if re.search(r"^(\.git|target|\.tools|docs|report|deploy|k6)(/|$)|(^|/)\.env$", inside):
        faults.append(f"{inside} is no part of a build")
size = sum(path.stat().st_size for path in files)
if size > 8 << 20:
    faults.append(f"the context has {size / 1e6:.1f} MB, and 8 MiB is the most")
if faults:
    sys.exit("\n".join(faults))
print(f"context: {len(files)} files, {size / 1e6:.1f} MB")
