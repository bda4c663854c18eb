"""image.py OUT.tar NAME FILE:PATH...

Builds an image without a base from files of this machine, as a tar of the OCI layout. NAME is a
full name with a tag, such as localhost/app:1. The first FILE is the entry point. The libraries that
a FILE is linked to, as printed by `ldd`, are added at the same paths. The image runs as user 65532.
"""

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile

MEDIA = "application/vnd.oci.image."
PLATFORM = {"architecture": "amd64", "os": "linux"}
FOLDERS = [("tmp", 0o1777), ("etc", 0o755)]
USERS = b"root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"
GROUPS = b"root:x:0:\nnonroot:x:65532:\n"
NAMES = b"hosts: files dns\n"


def read(path):
    with open(path, "rb") as file:
        return file.read()


def libraries(path):
    """The libraries that `path` is linked to; an empty list if it is static."""
    output = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    if "not found" in output:
        sys.exit(f"image.py: a library of {path} is missing:\n{output}")
    return re.findall(r"^\s(?:\S+ => )?(/\S+) \(0x", output, re.MULTILINE)


def layer(files):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path, mode in FOLDERS:
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        for path, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def main(out, name, *pairs):
    files = {
        "/etc/passwd": (USERS, 0o644),
        "/etc/group": (GROUPS, 0o644),
        "/etc/nsswitch.conf": (NAMES, 0o644),
    }
    paths = [pair.rsplit(":", 1) for pair in pairs]
    for source, path in paths:
        files[path] = (read(source), 0o755)
        for library in libraries(source):
            files[library] = (read(library), 0o755)

    blobs = {}

    def blob(media, content):
        digest = hashlib.sha256(content).hexdigest()
        blobs["blobs/sha256/" + digest] = content
        return {"mediaType": MEDIA + media, "digest": "sha256:" + digest, "size": len(content)}

    only = blob("layer.v1.tar", layer(files))
    settings = {
        "Entrypoint": [paths[0][1]],
        "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"],
        "User": "65532:65532",
    }
    layers = {"type": "layers", "diff_ids": [only["digest"]]}
    config = {**PLATFORM, "config": settings, "rootfs": layers}
    content = {
        "schemaVersion": 2,
        "mediaType": MEDIA + "manifest.v1+json",
        "config": blob("config.v1+json", json.dumps(config).encode()),
        "layers": [only],
    }
    manifest = blob("manifest.v1+json", json.dumps(content).encode())
    manifest.update(platform=PLATFORM, annotations={"io.containerd.image.name": name})
    index = json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode()
    entries = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": index, **blobs}
    with tarfile.open(out, "w") as tar:
        for path, content in entries.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
