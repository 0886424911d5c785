"""The image from scratch: an OCI layout in one tar, which podman, skopeo and `docker load` read."""

import hashlib
import json
from datetime import datetime, timezone

from . import archive

# No account of a host: the number that images without a user of their own commonly take.
USER = 65532


def root(program, certificates):
    """The whole file system of the image."""
    return {
        "data/": (b"", 0o700),
        "etc/": (b"", 0o755),
        "etc/group": (f"root:x:0:\nqwenauth:x:{USER}:\n".encode(), 0o644),
        "etc/passwd": (f"root:x:0:0:root:/:/sbin/nologin\nqwenauth:x:{USER}:{USER}::/data:/sbin/nologin\n".encode(), 0o644),
        "etc/ssl/": (b"", 0o755),
        "etc/ssl/certs/": (b"", 0o755),
        "etc/ssl/certs/ca-certificates.crt": (certificates, 0o644),
        "qwenauth": (program, 0o755),
        "tmp/": (b"", 0o1777),
    }


class Layout:
    def __init__(self):
        self.tree = {"oci-layout": (b'{"imageLayoutVersion":"1.0.0"}', 0o644)}

    def add(self, content, kind, **more):
        digest = hashlib.sha256(content).hexdigest()
        self.tree[f"blobs/sha256/{digest}"] = (content, 0o644)
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)} | more

    def add_json(self, value, kind, **more):
        return self.add(json.dumps(value, separators=(",", ":")).encode(), f"{kind}.v1+json", **more)


def make(about, programs, certificates):
    """`programs` is {target: program}; the index names one image a platform."""
    layout = Layout()
    images = []
    for target, program in programs.items():
        files = root(program, certificates)
        tar = archive.tar(files, about.epoch, owners={"data/": USER})
        platform = {"os": "linux", "architecture": target.linux}
        config = layout.add_json(configuration(about, tar) | platform, "config")
        layer = layout.add(archive.gz(tar), "layer.v1.tar+gzip")
        image = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}
        images.append(layout.add_json(image | {"config": config, "layers": [layer]}, "manifest", platform=platform))
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": images}
    name = {"org.opencontainers.image.ref.name": about.version}
    top = index | {"manifests": [layout.add_json(index, "index", annotations=name)]}
    layout.tree["index.json"] = (json.dumps(top).encode(), 0o644)
    return {f"qwenauth-{about.version}-image.tar": archive.tar(layout.tree, about.epoch)}


def configuration(about, tar):
    date = datetime.fromtimestamp(about.epoch, timezone.utc).isoformat().replace("+00:00", "Z")
    return {
        "created": date,
        "config": {
            "User": f"{USER}:{USER}",
            "Entrypoint": ["/qwenauth"],
            "Env": ["PATH=/", "HOME=/data", "QWENAUTH_HOME=/data"],
            "Volumes": {"/data": {}},
            "WorkingDir": "/data",
            "Labels": {
                "org.opencontainers.image.title": "qwenauth",
                "org.opencontainers.image.description": about.description,
                "org.opencontainers.image.licenses": about.license,
                "org.opencontainers.image.version": about.version,
                "org.opencontainers.image.source": about.repository,
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}"]},
        "history": [{"created": date, "created_by": "packaging/build"}],
    }
