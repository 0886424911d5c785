"""Archives whose bytes depend on nothing but what is in them: names sorted, one date, no owner."""

import gzip
import io
import tarfile
import zipfile
from datetime import datetime, timezone

from . import project

# A tree is {path: (bytes, mode)}; a path that ends in `/` is a directory.


def tar(tree, epoch, owners=None):
    """`owners` gives a path another owner than root, as a number for both user and group."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, (content, mode) in sorted(tree.items()):
            entry = tarfile.TarInfo(path.rstrip("/"))
            entry.mtime, entry.mode = epoch, mode
            entry.uid = entry.gid = (owners or {}).get(path, 0)
            if path.endswith("/"):
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def gz(content):
    return gzip.compress(content, compresslevel=9, mtime=0)


def zip_(tree, epoch):
    buffer = io.BytesIO()
    # No zip can say what was before 1980.
    date = datetime.fromtimestamp(max(epoch, 315532800), timezone.utc).timetuple()[:6]
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, (content, mode) in tree.items():
            entry = zipfile.ZipInfo(path, date)
            entry.create_system = 3  # so that the mode is read
            entry.external_attr = (0o100000 | mode) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def make(about, target, program):
    """The archive of one target: the program, its completions, manual pages and documents."""
    top = f"qwenauth-{about.version}-{target.triple}"
    tree = {f"{top}/{target.program}": (program, 0o755)}
    tree |= {f"{top}/{name}": (about.document(name), 0o644) for name in project.DOCUMENTS}
    tree |= {f"{top}/completions/{name}": (text, 0o644) for name, text in project.completion_files().values()}
    tree |= {f"{top}/man/{name}": (text, 0o644) for name, text in project.manual_pages().items()}
    if target.is_windows:
        return {f"{top}.zip": zip_(dict(sorted(tree.items())), about.epoch)}
    return {f"{top}.tar.gz": gz(tar(tree, about.epoch))}
