"""The crate as it would be published: whole, without a broken link, passing its own tests, installed as it was locked."""

import os
import re
import shutil
import tarfile

from processes import REPOSITORY, run
from rooms import VERSION, WORK, tree

CRATE = WORK / f"crate/qwenauth-{VERSION}"
# What reads files of the repository; the whole suite takes minutes and runs in .ci/long.
READING = ["architecture::", "generated::", "claims::", "recipes::", "providers::", "profiles::"]


def cargo_environment(target):
    return os.environ | {"CARGO_TARGET_DIR": str(target), "CARGO_NET_OFFLINE": "true", "CARGO_PROFILE_DEV_DEBUG": "line-tables-only"}


def unpack():
    shutil.rmtree(CRATE.parent, ignore_errors=True)
    environment = cargo_environment(WORK / "crate-package")
    run(["cargo", "package", "--locked", "--no-verify", "--allow-dirty"], environment=environment, directory=REPOSITORY).ok()
    CRATE.parent.mkdir(parents=True)
    run(["tar", "-x", "-C", CRATE.parent, "-f", WORK / f"crate-package/package/qwenauth-{VERSION}.crate"]).ok()


def crate_links(packages):
    """Each relative link of each document leads to a file of the crate."""
    unpack()
    count = 0
    for document in CRATE.rglob("*.md"):
        text = re.sub(r"```.*?```", "", document.read_text(), flags=re.S)
        links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
        for link in links:
            if re.match(r"[a-z]+:|#", link):
                continue
            count += 1
            target = document.parent / link.split("#")[0]
            assert target.exists(), f"{document.relative_to(CRATE)}: {link} is not in the crate"
    assert count > 10, count


def crate(packages):
    """Its tests pass in a directory of its own, and `cargo install --locked` installs it from there."""
    unpack()
    target = WORK / "crate-target"
    # The dependencies that are built already: only the crate itself is compiled.
    built = REPOSITORY / "target/debug"
    if built.exists() and not target.exists():
        (target / "debug").mkdir(parents=True)
        for name in ("deps", "build", ".fingerprint"):
            run(["cp", "-al", built / name, target / "debug"]).ok()
    environment = cargo_environment(target)
    tests = ["cargo", "test", "--locked", "--test", "cli", "--", *READING]
    if os.environ.get("QWENAUTH_WHOLE_CRATE"):
        tests = ["cargo", "test", "--locked"]
    done = run(tests, environment=environment, directory=CRATE, seconds=1800).ok()
    passed = sum(map(int, re.findall(r"(\d+) passed", done.stdout)))
    assert passed > 30, done
    root = WORK / "crate-root"
    shutil.rmtree(root, ignore_errors=True)
    install = ["cargo", "install", "--locked", "--debug", "--path", CRATE, "--root", root]
    run(install, environment=environment, seconds=900).ok()
    assert set(tree(root / "bin")) == {"qwenauth"}
    home = {"HOME": str(root), "PATH": str(root / "bin")}
    run([root / "bin/qwenauth", "sandbox", "--tour"], environment=home).ok()
    doctor = run([root / "bin/qwenauth", "doctor", "--json"], environment=home).json()["checks"]
    (told,) = [check["message"] for check in doctor if check["name"] == "installed"]
    assert told.startswith("installed by cargo: ") and f"cargo install --locked --path {CRATE}" in told, told
    run(["cargo", "uninstall", "--root", root, "qwenauth"], environment=environment).ok()
    assert set(tree(root / "bin")) == set()
    shutil.rmtree(CRATE.parent)
    shutil.rmtree(target)


def crate_metadata(packages):
    """What binstall looks for is what a release is called."""
    import tomllib

    package = tomllib.loads((REPOSITORY / "Cargo.toml").read_text())["package"]
    binstall = package["metadata"]["binstall"]
    values = {"name": "qwenauth", "version": VERSION, "target": "x86_64-unknown-linux-musl", "archive-suffix": ".tar.gz"}
    values |= {"repo": "R", "bin": "qwenauth", "binary-ext": ""}

    def fill(text):
        return re.sub(r"\{ ([a-z-]+) \}", lambda match: values[match[1]], text)

    file = fill(binstall["pkg-url"]).rpartition("/")[2]
    with tarfile.open(packages / file) as archive:
        assert fill(binstall["bin-dir"]) in archive.getnames()


TESTS = {"crate_metadata": crate_metadata, "crate_links": crate_links, "crate": crate}
