"""The software bill of materials (CycloneDX 1.5): each crate that is in the program, with its checksum and license."""

import json
import subprocess
import tomllib
import uuid
from datetime import datetime, timezone

from . import project


def make(about, triple):
    """Of the program for one target, by what cargo says of the locked dependencies."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", triple]
    done = subprocess.run(command, cwd=project.ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise project.Refused(f"cargo metadata failed: {done.stderr.strip()}")
    metadata = json.loads(done.stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    edges = {node["id"]: used_by(node) for node in metadata["resolve"]["nodes"]}
    top = metadata["resolve"]["root"]
    inside = reached(top, edges)
    sums = checksums()
    others = [packages[name] for name in inside if name != top]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        # Of nothing but what it describes, so that it is the same wherever it is made.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, about.download(triple))}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(about.epoch, timezone.utc).isoformat(),
            "component": component(packages[top], sums) | {"type": "application"},
        },
        "components": [component(package, sums) for package in sorted(others, key=reference)],
        "dependencies": [
            {"ref": reference(packages[name]), "dependsOn": sorted(reference(packages[used]) for used in edges[name])}
            for name in sorted(inside)
        ],
    }
    return {f"qwenauth-sbom-{triple}.cdx.json": (json.dumps(document, indent=1) + "\n").encode()}


def used_by(node):
    """What ends up in the program or runs while it is built, but not what only tests use."""
    return [edge["pkg"] for edge in node["deps"] if any(kind["kind"] != "dev" for kind in edge["dep_kinds"])]


def reached(top, edges):
    found, waiting = set(), [top]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(edges[name])
    return found


def checksums():
    lock = tomllib.loads((project.ROOT / "Cargo.lock").read_text())
    return {(package["name"], package["version"]): package.get("checksum") for package in lock["package"]}


def reference(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, sums):
    described = {
        "type": "library",
        "bom-ref": reference(package),
        "name": package["name"],
        "version": package["version"],
        "purl": reference(package),
    }
    if package["license"]:
        # Older crates write `/` for `OR`, which SPDX does not know.
        described["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    if digest := sums.get((package["name"], package["version"])):
        described["hashes"] = [{"alg": "SHA-256", "content": digest}]
    return described
