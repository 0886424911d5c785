"""The image from scratch: read by buildah, and run from its own root, read-only, as its own user."""

import hashlib
import json
import tarfile

from processes import run
from rooms import Root, VERSION, WORK, check

USER = 65532


def blobs(packages):
    """{digest: bytes} of the layout, each checked against its name, and the index."""
    with tarfile.open(packages / f"qwenauth-{VERSION}-image.tar") as archive:
        files = {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}
    found = {f"sha256:{name.rpartition('/')[2]}": content for name, content in files.items() if name.startswith("blobs/")}
    for digest, content in found.items():
        assert digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    return found, json.loads(files["index.json"])


def unpack(packages, root):
    """The root of the amd64 image; returns its configuration."""
    found, index = blobs(packages)
    (top,) = index["manifests"]
    images = json.loads(found[top["digest"]])["manifests"]
    (image,) = [image for image in images if image["platform"]["architecture"] == "amd64"]
    manifest = json.loads(found[image["digest"]])
    for layer in manifest["layers"]:
        file = WORK / "layer.tar.gz"
        file.write_bytes(found[layer["digest"]])
        run(["tar", "-xzpf", file, "-C", root.path, "--same-owner"]).ok()
        file.unlink()
    return json.loads(found[manifest["config"]["digest"]])["config"]


def image_root(packages):
    with Root() as root:
        config = unpack(packages, root)
        assert config["User"] == f"{USER}:{USER}" and config["Entrypoint"] == ["/qwenauth"], config
        files = {path for path in root.added() if not path.endswith("/")}
        assert files == {"etc/group", "etc/passwd", "etc/ssl/certs/ca-certificates.crt", "qwenauth"}, files
        owner = (root.path / "data").stat()
        assert (owner.st_uid, owner.st_mode & 0o777) == (USER, 0o700)
        variables = dict(variable.split("=", 1) for variable in config["Env"])
        for mode in ("rw", "ro"):
            version = root.run("/qwenauth", "--version", user=USER, mode=mode, **variables).ok()
            assert version.stdout == f"qwenauth {VERSION}\n"
            root.run("/qwenauth", "sandbox", "--tour", user=USER, mode=mode, **variables).ok()
        login = ["login", "custom", "--base-url", "http://127.0.0.1:9/v1", "--api-key-stdin", "--no-verify"]
        root.run("/qwenauth", *login, stdin="sk-packaging-0123456789", user=USER, **variables).ok()
        assert (root.path / "data/data/credentials/custom.json").stat().st_uid == USER
        check(root, "/qwenauth", "part of an image: `/qwenauth`")


def image_in_buildah(packages):
    """A program that knows images reads it, and runs it."""
    storage = WORK / "buildah"
    buildah = ["buildah", "--storage-driver", "vfs", "--root", storage / "root", "--runroot", storage / "run"]
    image = f"oci-archive:{packages / f'qwenauth-{VERSION}-image.tar'}"
    made = run([*buildah, "from", "--pull-always", image]).ok().stdout.strip()
    try:
        done = run([*buildah, "run", "--isolation", "chroot", made, "/qwenauth", "--version"]).ok()
        assert done.stdout == f"qwenauth {VERSION}\n", done
        config = run([*buildah, "inspect", "--format", "{{.OCIv1.Config.User}} {{.OCIv1.Config.Entrypoint}}", made]).ok()
        assert config.stdout.strip() == f"{USER}:{USER} [/qwenauth]", config
    finally:
        run([*buildah, "rm", made])
        run([*buildah, "rmi", "--all", "--force"])


TESTS = {"image_root": image_root, "image_in_buildah": image_in_buildah}
