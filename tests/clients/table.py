"""The table of clients in docs/clients.md: what ran and passed in one run, and nothing that did not run.

A test's name says whom and how: `CLIENT_exec_with_PROFILE` and the same after `gateway_` (from an empty home),
`setup_CLIENT…` or `CLIENT_is_set_up_by…`, `gateway_CLIENT…` (exec --gateway), `CLIENT_…exec…`; one that has none of these
is about the login file that both share. So new tests appear by themselves. A pair that cannot be has a reason instead of a
mark.
"""

import json
import re
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent.parent / "docs/clients.md"
BEGIN, END = "<!-- begin: written by `tests/clients/run --write` -->", "<!-- end -->"

# As tests call a client: its name in the table, and its package's where that is another.
CLIENTS = {
    "opencode": ("opencode", "opencode-linux-x64"),
    "qwen_code": ("Qwen Code", "@qwen-code/qwen-code"),
    "codex": ("Codex", "@openai/codex-linux-x64"),
    "claude_code": ("Claude Code", "@anthropic-ai/claude-code-linux-x64"),
    "aider": ("aider", "aider-chat"),
    "llm": ("llm", "llm"),
    "continue": ("Continue", "@continuedev/cli"),
    "cline": ("Cline", "@cline/cli-linux-x64"),
    "pi": ("pi", "@earendil-works/pi-coding-agent"),
    "openai_python": ("OpenAI SDK, Python", "openai"),
    "openai_node": ("OpenAI SDK, Node", "openai"),
    "langchain": ("LangChain", "langchain-openai"),
    "crush": ("crush", None),
    "goose": ("goose", None),
    "zed": ("Zed", None),
}
NOT_HERE = {
    "crush": "its npm package contains no program, but downloads one during the installation",
    "goose": "no package on npm, PyPI, crates.io or Debian contains the program",
    "Zed": "a graphical editor that no package on npm, PyPI, crates.io or Debian contains",
}
EMPTY_HOME = "from an empty home"
WAYS = (EMPTY_HOME, "setup", "exec", "exec --gateway", "login file")
PLAIN = (EMPTY_HOME, "login file")  # no commands

LIBRARY = "a library without a configuration file; it reads `OPENAI_*` from `exec` or `env`"
NOT_SET_UP = "`setup` does not support it; `exec` runs it without configuration"
REASONS = {
    ("OpenAI SDK, Python", "setup"): LIBRARY,
    ("OpenAI SDK, Node", "setup"): LIBRARY,
    ("LangChain", "setup"): LIBRARY,
    ("LangChain", EMPTY_HOME): "tested in the column `exec`: the model is named in its script",
    ("pi", "setup"): NOT_SET_UP,
}
ANOTHER_LOGIN = "only Qwen Code reads and renews the shared login file"
PARSED = "not run: the output of `setup` was parsed, and its names were compared with the tool's documentation"


def case(name, packages):
    """The row and the column of a test; nothing if it is not about a client."""
    about = re.sub("^(setup|gateway)_(refuses_)?", "", name)
    client = next((client for client in CLIENTS if about.startswith(client)), None)
    if client is None or "in_the_sandbox" in name:
        return None
    if name.startswith("setup_") or "_is_set_up_by_" in name:
        way = "setup"
    elif "_exec_with_" in name:
        way = EMPTY_HOME
    elif name.startswith("gateway_"):
        way = "exec --gateway"
    else:
        way = "exec" if "exec" in about.split("_") else "login file"
    title, package = CLIENTS[client]
    return (title, version(packages, package) if package else "not installed"), way


def version(packages, wanted):
    """What the lock files pin."""
    for package in packages:
        folder = HERE / "packages" / package
        if (folder / "package.json").exists():
            pins = json.loads((folder / "package.json").read_text())["dependencies"]
            if wanted in pins:
                return re.search(r"\d+(\.\d+)+", pins[wanted].rpartition("@")[2])[0]
        elif pin := re.search(rf"^{wanted}==(\S+)", (folder / "requirements.txt").read_text(), re.MULTILINE):
            return pin[1]
    raise LookupError(f"no package of {packages} pins {wanted}")


def cell(results, title, way, note):
    """One cell from the results of its tests: passed, failed, or None where a test was not run."""
    if False in results:
        return f"**{results.count(False)} of {len(results)} failed**"
    if None in results:
        return "not run"
    reason = REASONS.get((title, way)) or (way == "login file" and not results and ANOTHER_LOGIN)
    if reason or not results:
        reason = reason or NOT_HERE.get(title)
        return f"no {note(reason)}" if reason else "–"
    if title in NOT_HERE:
        return f"parsed {note(PARSED)}"
    return "✓" if len(results) == 1 else f"✓ ({len(results)} tests)"


def table(tests, passed):
    """Markdown of all clients; `passed` holds name → bool of what was run."""
    rows = {}
    for name, (packages, _) in tests.items():
        if found := case(name, packages):
            row, way = found
            rows.setdefault(row, {way: [] for way in WAYS})[way].append(passed.get(name))
    notes = []

    def note(text):
        if text not in notes:
            notes.append(text)
        return f"[{notes.index(text) + 1}]"

    order = [title for title, _ in CLIENTS.values()]
    lines = [f"| client | version | {' | '.join(way if way in PLAIN else f'`{way}`' for way in WAYS)} |"]
    lines.append("|---|---|" + ":-:|" * len(WAYS))
    for title, pinned in sorted(rows, key=lambda row: (order.index(row[0]), row[1])):
        cells = [cell(results, title, way, note) for way, results in rows[title, pinned].items()]
        lines.append(f"| {title} | {pinned} | {' | '.join(cells)} |")
    lines += ["", *(f"[{number}] {text}.  " for number, text in enumerate(notes, 1))]
    return "\n".join(line.rstrip() if line.startswith("|") else line for line in lines) + "\n"


def write(markdown, command):
    text = PAGE.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{PAGE} has lost the marks around its table"
    day = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    PAGE.write_text(f"{before}{BEGIN}\n{day}, `{command}`:\n\n{markdown}{END}{after}")
