#!/usr/bin/env python3
"""Random interleavings of `qwenauth` and Qwen Code on one login: `interleavings.py [--rounds N] [--alone N] [--seed S]`.

Each round is a line of JSON on stderr; `interleavings.py --table FILE…` sums up such lines, of one run or of several. A
round in which `qwenauth` sent a spent token again has its story with it: what the server, the directory and each process did.

In each round two Qwen Code processes and three of `qwenauth` meet on an expired login. In half of the rounds Qwen Code is
first: `qwenauth` starts when its lock, its refresh or its answer is there. Half of all processes are interrupted, most of
them at such a moment too; one Qwen Code in eight of those is killed. The server, whose refresh tokens are single use and
who ends a login whose token comes twice, answers after a random time or once Qwen Code has met the lock, and in a third of
the rounds its API refuses the first token it sees. Then the same with Qwen Code alone.

Held against each round: `qwenauth` sends no token that its file no longer holds, loses nothing that it was granted,
removes no good credentials, leaves no lock, and ends well unless it was interrupted or the login was lost; whatever the
server saw twice is listed by who sent it.
"""

import argparse
import collections
import concurrent.futures
import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(HERE), str(HERE.parent / "python")]

import machine as machines  # noqa: E402
from provider import Provider, Request  # noqa: E402
from qwen_code_tests import QwenCode  # noqa: E402

VERSIONS = ("0.12.0", "0.24.4")
BEGIN, LOCK, MET, REFRESH, ANSWERED, MODEL = MOMENTS = ("begin", "lock", "met", "refresh", "answered", "model")
MOMENT_SECONDS = 120  # what does not happen for so long is waited for no longer
LONGEST_JITTER = 0.4
LONGEST_START = 3.0  # Qwen Code takes about two until it looks at its login
LONGEST_ANSWER = 1.0
LONGEST_HELD = 10.0  # half of what `qwenauth` grants a refresh
END_SECONDS = 240
CLIENT = """
import os, urllib.request
url, key = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
body = b'{"model":"coder-model","messages":[{"role":"user","content":"ping"}]}'
urllib.request.urlopen(urllib.request.Request(f"{url}/chat/completions", body, headers)).read()
"""
KINDS = (
    ("token",),
    ("refresh",),
    ("exec", "--", "true"),
    ("exec", "--gateway", "--", sys.executable, "-S", "-c", CLIENT),
)


class Story:
    """What happened in a round, in milliseconds from its beginning."""

    def __init__(self):
        self._began = time.monotonic()
        self._told = []

    def tell(self, what, at=None):
        self._told.append((round(((at or time.monotonic()) - self._began) * 1000), what))

    def lines(self):
        return [f"{at:6} {what}" for at, what in sorted(self._told)]


class Moments:
    """What has happened in a round; processes start and are interrupted when it has."""

    def __init__(self):
        self._happened = {moment: threading.Event() for moment in MOMENTS}

    def happened(self, moment):
        self._happened[moment].set()

    def wait(self, moment, seconds=MOMENT_SECONDS, unless=lambda: False):
        deadline = time.monotonic() + seconds
        while not self._happened[moment].wait(0.01) and not unless() and time.monotonic() < deadline:
            pass


class StrictProvider(Provider):
    """Tells who presented a token again, and whether `qwenauth` sent what stands in its file. Grants no new login."""

    def __init__(self, moments, draw, credential_file, story):
        super().__init__()
        self._moments = moments
        self._story = story
        self._draw = draw
        self._refuses = draw.random() < 1 / 3
        self._credential_file = credential_file
        self._spent = set()
        self._agents = threading.local()
        self.refreshes = []
        self.reuses = collections.Counter()
        self.granted_to = {}
        self.not_in_file = []
        self.logins_wanted = 0

    def device_code(self, _form):
        self.logins_wanted += 1
        return 503, {"error": "temporarily_unavailable"}

    def record(self, request: Request):
        super().record(request)
        if request.kind == "model":
            self._moments.happened(MODEL)
        if request.kind != "refresh":
            return
        who = self._agents.who = sender(request.user_agent)
        held = read_credential(self._credential_file).get("refresh_token")
        with self._lock:
            self.refreshes.append(who)
            again = " AGAIN" if request.token in self._spent else ""
            self._story.tell(f"server: {who} sends {short(request.token)}{again}, the file holds {short(held)}")
            if again and who == "qwenauth":
                self._story.tell("directory as it is then:\n" + listing(self._credential_file.parent))
            self.reuses[who] += request.token in self._spent
            self._spent.add(request.token)
            if who == "qwenauth" and request.token != held:
                self.not_in_file.append((request.token, held))

    def refresh(self, form):
        status, reply = super().refresh(form)
        self._moments.happened(REFRESH)
        if status == 200:
            self.granted_to[reply["refresh_token"]] = self._agents.who
        if self._draw.random() < 1 / 3:
            self._moments.wait(MET, LONGEST_HELD)
        time.sleep(self._draw.random() * LONGEST_ANSWER)
        self._story.tell(f"server: answers {self._agents.who} {status} {short(reply.get('refresh_token'))}")
        self._moments.happened(ANSWERED)
        return status, reply

    def knows(self, bearer):
        with self._lock:
            refuses, self._refuses = self._refuses, False
            if refuses:
                self._access_tokens.discard(bearer)
        return super().knows(bearer)


def sender(user_agent):
    return "qwenauth" if user_agent.startswith("qwenauth/") else "Qwen Code"


def listing(directory):
    """When each entry was made, changed and written, and the directory itself."""
    paths = [directory, *sorted(directory.iterdir())]
    command = ["stat", "--format", "       %n made %w changed %z written %y", *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def short(token):
    return token and token[-6:]


def read_credential(path):
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


class Actor:
    """One process: what it is, when it starts, when and by what it is interrupted, if at all."""

    def __init__(self, who, what, start, draw, moments, starts_at, story, is_in_vain=lambda: False):
        self.who = who
        self.what = what
        self._start = start
        self._moments = moments
        self._starts_at = starts_at
        self._is_in_vain = is_in_vain
        self._story = story
        # An answer that is out, or a request that is on its way: where a login can be lost.
        self._ends_at = draw.choice((None, BEGIN, MET, REFRESH, ANSWERED, MODEL)) if draw.random() < 1 / 2 else ()
        self._ends_after = draw.random() * (LONGEST_START if self._ends_at is None else LONGEST_JITTER)
        caught = [signal.SIGINT, signal.SIGTERM]
        # Qwen Code does not catch HUP: to it that is a kill.
        rare = signal.SIGHUP if who == "qwenauth" else signal.SIGKILL
        self.signal = rare if draw.random() < 1 / 8 else draw.choice(caught)
        self.interrupted = False
        self.is_over = False
        self.code = None
        self.said = ""

    def act(self):
        moment, after = self._starts_at
        self._moments.wait(moment, unless=self._is_in_vain)
        time.sleep(after)
        process = self._start()
        name = f"{self.who} {id(self) % 1000} {' '.join(self.what)}"
        self._story.tell(f"{name}: starts")
        if self._ends_at != ():
            if self._ends_at is not None:
                self._moments.wait(self._ends_at, unless=process.is_over)
            time.sleep(self._ends_after)
            self.interrupted = not process.is_over()
            if self.interrupted:
                self._story.tell(f"{name}: gets {self.signal!r}")
                process.signal(self.signal)
        try:
            self.code = process.wait(END_SECONDS)
            self._story.tell(f"{name}: ended with {self.code}")
            process.wait_for_all()
            self.said = process.stderr
        except AssertionError as endless:  # it is killed with the machine, and judged
            self.said = str(endless)
        for at, line in process.said_at:
            self._story.tell(f"{name}: {line}", at)
        self.is_over = True

    def ended_well(self):
        """At the end, or by the signal it got; beside a gateway it is the client's affair how it takes a signal."""
        if self.interrupted and "--gateway" in self.what:
            return True
        return self.code == 0 or self.interrupted and self.code in (-self.signal, 128 + self.signal)


class Round:
    def __init__(self, program, version, seed, beside, folders):
        self.seed = seed
        draw = random.Random(f"{version} {seed} {beside}")
        self._moments = Moments()
        self._story = Story()
        self._machine = machine = machines.Machine(program, folders)
        machine.provider.close()
        machine.provider = StrictProvider(
            self._moments, random.Random(draw.random()), machine.credential_file, self._story
        )
        self._qwen = QwenCode(version, machine)
        if draw.random() < 3 / 4:  # the rest starts itself once more, as people have it, at twice the time
            self._qwen.environment["QWEN_CODE_NO_RELAUNCH"] = "true"
        self._actors = self._cast(draw, beside)

    def _cast(self, draw, beside):
        actors = []
        for _ in range(2):
            begin = BEGIN, draw.random()
            start = functools.partial(self._qwen.start, "ping")
            actors.append(Actor("Qwen Code", (), start, draw, self._moments, begin, self._story))
        qwen_code = tuple(actors)
        is_late = draw.random() < 1 / 2
        for _ in range(3 if beside else 0):
            moment = draw.choice((LOCK, REFRESH, ANSWERED, MODEL)) if is_late else BEGIN
            starts_at = moment, draw.random() * (LONGEST_JITTER if is_late else LONGEST_START)
            kind = draw.choice(KINDS)
            start = functools.partial(self._machine.start_qwenauth, *kind, QWENAUTH_LOG="debug")
            is_in_vain = lambda: all(actor.is_over for actor in qwen_code)
            actors.append(Actor("qwenauth", kind, start, draw, self._moments, starts_at, self._story, is_in_vain))
        return actors

    def run(self):
        machine, provider = self._machine, self._machine.provider
        over = threading.Event()
        try:
            provider.log_in(machine.home, expiry_date=1)
            threading.Thread(target=self._watch, args=(over,), daemon=True).start()
            with concurrent.futures.ThreadPoolExecutor(len(self._actors)) as pool:
                acts = [pool.submit(actor.act) for actor in self._actors]
                self._moments.happened(BEGIN)
                for act in acts:
                    act.result()
            return self._judge()
        finally:
            over.set()
            machine.close()

    def _watch(self, over):
        """Qwen Code tells nobody of its lock, so the file is looked for."""
        before = None
        while not over.wait(0.005):
            if self._machine.lock_file.exists():
                self._moments.happened(LOCK)
            now = self._directory()
            if now != before:
                self._story.tell(f"directory: {now}")
                before = now
            if self._qwen.lock_tries():
                self._moments.happened(MET)

    def _directory(self):
        token = read_credential(self._machine.credential_file).get("refresh_token")
        try:
            lock = self._machine.lock_file.read_text()[:6]
        except FileNotFoundError:
            lock = None
        return f"the file holds {short(token)}, the lock {lock}"

    def _judge(self):
        machine, provider = self._machine, self._machine.provider
        good = provider.current_refresh_tokens()
        held = read_credential(machine.credential_file).get("refresh_token")
        notes = read_credential(machine.credential_file.parent / ".oauth_creds.qwenauth-lock")
        lock = machine.lock_file.read_text() if machine.lock_file.exists() else None
        qwen_code_removed = (machine.root / "signs" / "removed").exists()
        lost = held not in good
        refreshes, reuses = collections.Counter(provider.refreshes), provider.reuses
        unsaved = {provider.granted_to.get(token) for token in good} if lost else set()
        qwen_codes = [actor for actor in self._actors if actor.who == "Qwen Code"]
        killed = any(actor.interrupted and actor.signal == signal.SIGKILL for actor in qwen_codes)
        count = collections.Counter(
            rounds=1,
            qwen_code_first=provider.refreshes[:1] == ["Qwen Code"],
            both_refreshed=len(refreshes) == 2,
            interrupted_qwenauth=sum(actor.interrupted for actor in self._actors if actor.who == "qwenauth"),
            interrupted_qwen_code=sum(actor.interrupted for actor in self._actors if actor.who == "Qwen Code"),
            refreshes_qwenauth=refreshes["qwenauth"],
            refreshes_qwen_code=refreshes["Qwen Code"],
            reuse_qwenauth=reuses["qwenauth"],
            reuse_after_kill=reuses["qwenauth"] if killed else 0,
            reuse_qwen_code=reuses["Qwen Code"],
            lost=lost,
            lost_unsaved_qwen_code="Qwen Code" in unsaved,
            lost_reuse=lost and provider.reuse_seen,
            logins_wanted=provider.logins_wanted > 0,
            endless_qwen_code=sum(actor.code is None for actor in self._actors if actor.who == "Qwen Code"),
        )
        wrong = []
        if provider.not_in_file:
            wrong.append("qwenauth sent a token that its file did not hold")
        if "qwenauth" in unsaved and not qwen_code_removed and provider.granted_to.get(held) != "Qwen Code":
            wrong.append("qwenauth lost what it was granted")
        if held is None and good and not qwen_code_removed:
            wrong.append("qwenauth removed good credentials")
        if lock is not None and lock == notes.get("qwen_code_lock"):
            wrong.append("qwenauth left its lock")
        for actor in self._actors:
            if actor.who == "qwenauth" and (actor.code is None or not lost and not actor.ended_well()):
                wrong.append(f"{' '.join(actor.what)} ended with {actor.code}: {actor.said.strip()}")
        return count, [f"{text} (seed {self.seed})" for text in wrong], self._story.lines()


ROWS = (
    ("rounds", "rounds"),
    ("qwen_code_first", "… in which Qwen Code was the first to refresh"),
    ("both_refreshed", "… in which both programs refreshed"),
    ("interrupted_qwenauth", "qwenauth processes interrupted"),
    ("interrupted_qwen_code", "Qwen Code processes interrupted"),
    ("refreshes_qwenauth", "refreshes by qwenauth"),
    ("refreshes_qwen_code", "refreshes by Qwen Code"),
    ("reuse_qwenauth", "spent token sent again by qwenauth, its file still holding it"),
    ("reuse_after_kill", "… where a Qwen Code was killed, perhaps with its answer unsaved"),
    ("reuse_qwen_code", "spent token sent again by Qwen Code"),
    ("lost", "rounds that lost the login"),
    ("lost_unsaved_qwen_code", "… what Qwen Code was granted and did not save"),
    ("lost_reuse", "… ended by the server for a token sent twice"),
    ("logins_wanted", "rounds in which Qwen Code asked for a new login"),
    ("endless_qwen_code", f"Qwen Code processes that did not end within {END_SECONDS} s"),
)


def read_arguments():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=6, help="with each version of Qwen Code")
    options.add_argument("--alone", type=int, help="rounds of each version alone; as many by default")
    options.add_argument("--seed", type=int, default=int(time.time()))
    options.add_argument("--jobs", type=int, default=os.cpu_count())
    options.add_argument("--versions", nargs="+", choices=VERSIONS, default=VERSIONS)
    options.add_argument("--table", nargs="+", type=Path, metavar="FILE", help="lines of earlier runs")
    arguments = options.parse_args()
    if arguments.alone is None:
        arguments.alone = arguments.rounds
    return arguments


def play(arguments):
    """Plays the rounds; each is a line as soon as it is over."""
    # A background job of a script has INT ignored, one of nohup HUP, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    program = Path(os.environ.get("QWENAUTH", HERE.parent.parent / "target/debug/qwenauth")).absolute()
    names = [*(f"qwen-code-{version}" for version in arguments.versions), "node-22"]
    folders = {name: HERE / ".cache" / name for name in names}
    missing = [name for name, folder in folders.items() if not (folder / ".installed").exists()]
    if missing:
        sys.exit(f"{', '.join(missing)} not installed: `tests/clients/run qwen_code` does it")

    def one(version, beside, seed):
        count, wrong, story = Round(program, version, seed, beside, folders).run()
        where = f"{version} {'beside qwenauth' if beside else 'alone'}"
        line = {"where": where, "seed": seed, "count": count, "wrong": wrong}
        if wrong or count["reuse_qwenauth"]:
            line["story"] = story
        print(json.dumps(line), file=sys.stderr, flush=True)
        return line

    rounds = [
        (version, beside, seed)
        for version in arguments.versions
        for beside, count in ((True, arguments.rounds), (False, arguments.alone))
        for seed in range(arguments.seed, arguments.seed + count)
    ]
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        return list(pool.map(lambda drawn: one(*drawn), rounds))


def read_lines(files):
    lines = [line for file in files for line in file.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def main():
    arguments = read_arguments()
    rounds = read_lines(arguments.table) if arguments.table else play(arguments)
    columns = {line["where"]: collections.Counter() for line in rounds}
    for line in rounds:
        columns[line["where"]].update(line["count"])
    wrong = [f"{line['where']}: {text}" for line in rounds for text in line["wrong"]]
    for name, total in columns.items():
        if not total["refreshes_qwen_code"]:
            wrong.append(f"{name}: Qwen Code never refreshed, so this shows nothing")
    print(f"| Qwen Code | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for key, title in ROWS:
        print(f"| {title} | {' | '.join(str(total[key]) for total in columns.values())} |")
    print("\n".join(["", *(wrong or ["qwenauth held all its rules"])]))
    sys.exit(1 if wrong else 0)


main()
