#!/usr/bin/env python3
"""Random interleavings of `qwenauth` and Qwen Code on one login: `interleavings.py [--rounds N] [--seed S] [--jobs J]`.

In each round two Qwen Code processes and three of `qwenauth` start at random moments on an expired login, some are
interrupted, and the server, whose refresh tokens are single use, takes a random time to answer. Then the same with Qwen
Code alone. Held against each round: `qwenauth` sends no token that its file no longer holds, removes no good
credentials, leaves no lock; whatever the server saw presented twice is listed by who sent it.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import random
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE))

import machine as machines  # noqa: E402
from provider import Provider, Request  # noqa: E402
from qwen_code_tests import QwenCode  # noqa: E402

VERSIONS = ("0.12.0", "0.24.4")
LONGEST_START = 4.0  # seconds; Qwen Code takes about two until it looks at its login
LONGEST_WAIT = 15.0
LONGEST_ANSWER = 2.0
KINDS = (("token",), ("refresh",), ("exec", "--", "true"))


class StrictProvider(Provider):
    """Tells who presented a token again, and whether `qwenauth` sent what stands in its file. Grants no new login."""

    def __init__(self, delays, credential_file):
        super().__init__()
        self._delays = delays
        self._credential_file = credential_file
        self._spent = set()
        self.refreshes = collections.Counter()
        self.reuses = collections.Counter()
        self.not_in_file = []
        self.logins_wanted = 0

    def login(self):
        with self._lock:
            return self._issue()

    def device_code(self, _form):
        self.logins_wanted += 1
        return 503, {"error": "temporarily_unavailable"}

    def record(self, request: Request):
        super().record(request)
        if request.kind != "refresh":
            return
        who = sender(request.user_agent)
        held = read_credential(self._credential_file).get("refresh_token")
        with self._lock:
            self.refreshes[who] += 1
            self.reuses[who] += request.token in self._spent
            self._spent.add(request.token)
            if who == "qwenauth" and request.token != held:
                self.not_in_file.append((request.token, held))

    def refresh(self, form):
        answer = super().refresh(form)
        time.sleep(self._delays.random() * LONGEST_ANSWER)
        return answer


def sender(user_agent):
    return "qwenauth" if user_agent.startswith("qwenauth/") else "Qwen Code"


def read_credential(path):
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


class Round:
    def __init__(self, program, version, seed, beside, folders):
        self.seed = seed
        self.beside = beside
        self._random = random.Random(f"{version} {seed} {beside}")
        self._machine = machines.Machine(program, folders)
        self._machine.provider.close()
        delays = random.Random(self._random.random())
        self._machine.provider = StrictProvider(delays, self._machine.credential_file)
        self._qwen = QwenCode(version, self._machine)

    def run(self):
        machine, provider = self._machine, self._machine.provider
        try:
            login = provider.login()
            credential = {key: login[key] for key in ("access_token", "refresh_token", "token_type", "resource_url")}
            machine.credential_file.write_text(json.dumps(credential | {"expiry_date": 1}))
            machine.credential_file.chmod(0o600)
            actors = [threading.Thread(target=self._act, args=plan) for plan in self._plans()]
            for actor in actors:
                actor.start()
            for actor in actors:
                actor.join()
            return self._judge()
        finally:
            machine.close()

    def _plans(self):
        """What starts when and is interrupted when, if at all; drawn before anything runs."""
        commands = [lambda: self._qwen.start("ping")] * 2
        if self.beside:
            kinds = [self._random.choice(KINDS) for _ in range(3)]
            commands += [lambda kind=kind: self._machine.start_qwenauth(*kind) for kind in kinds]
        late = self._random.random() < 2 / 3  # Qwen Code starts slowly: else it would never be the first
        for number, start in enumerate(commands):
            waits = late and number >= 2
            begin = self._random.random() * (1 if waits else LONGEST_START)
            interrupted = self._random.random() < 1 / 3
            yield start, waits, begin, self._random.random() * LONGEST_START if interrupted else None

    def _act(self, start, waits, begin, interrupt):
        deadline = time.monotonic() + LONGEST_WAIT
        while waits and time.monotonic() < deadline and not self._machine.lock_file.exists():
            time.sleep(0.005)
        time.sleep(begin)
        process = start()
        if interrupt is not None:
            time.sleep(interrupt)
            try:
                process.interrupt()
            except ProcessLookupError:
                pass  # it was quicker
        process.wait_for_all()

    def _judge(self):
        machine, provider = self._machine, self._machine.provider
        good = provider.current_refresh_tokens()
        held = read_credential(machine.credential_file).get("refresh_token")
        notes = read_credential(machine.credential_file.parent / ".oauth_creds.qwenauth-lock")
        lock = machine.lock_file.read_text() if machine.lock_file.exists() else None
        removed_good = held is None and bool(good) and not self._qwen_code_removed()
        count = collections.Counter(
            rounds=1,
            refreshes_qwenauth=provider.refreshes["qwenauth"],
            refreshes_qwen_code=provider.refreshes["Qwen Code"],
            reuse_qwenauth=provider.reuses["qwenauth"],
            reuse_qwen_code=provider.reuses["Qwen Code"],
            login_lost=held not in good,
            logins_wanted=provider.logins_wanted > 0,
        )
        wrong = []
        if provider.not_in_file:
            wrong.append("qwenauth sent a token that its file did not hold")
        if removed_good:
            wrong.append("qwenauth removed good credentials")
        if lock is not None and lock == notes.get("qwen_code_lock"):
            wrong.append("qwenauth left its lock")
        return count, [f"{text} (seed {self.seed})" for text in wrong]

    def _qwen_code_removed(self):
        return (self._machine.root / "signs" / "removed").exists()


COLUMNS = (
    ("rounds", "rounds"),
    ("refreshes_qwenauth", "refreshes by qwenauth"),
    ("refreshes_qwen_code", "by Qwen Code"),
    ("reuse_qwenauth", "token presented again by qwenauth"),
    ("reuse_qwen_code", "by Qwen Code"),
    ("login_lost", "rounds that lost the login"),
    ("logins_wanted", "rounds where Qwen Code wanted a new login"),
)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=6)
    options.add_argument("--seed", type=int, default=int(time.time()))
    options.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = options.parse_args()
    program = Path(os.environ.get("QWENAUTH", HERE.parent.parent / "target/debug/qwenauth")).absolute()
    folders = {name: HERE / ".cache" / name for name in [*(f"qwen-code-{version}" for version in VERSIONS), "node-22"]}
    missing = [name for name, folder in folders.items() if not (folder / ".installed").exists()]
    if missing:
        sys.exit(f"{', '.join(missing)} not installed: `tests/clients/run qwen_code` does it")
    print(f"seed {arguments.seed}\n\n| Qwen Code | | {' | '.join(title for _, title in COLUMNS)} |")
    print("|---|---|" + "---:|" * len(COLUMNS), flush=True)
    wrong = []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for version in VERSIONS:
            for beside in (True, False):
                rounds = range(arguments.seed, arguments.seed + arguments.rounds)
                done = pool.map(lambda seed: Round(program, version, seed, beside, folders).run(), rounds)
                total = collections.Counter()
                for count, found in done:
                    total += count
                    wrong += [f"Qwen Code {version}: {text}" for text in found]
                name = "beside qwenauth" if beside else "alone"
                if not total["refreshes_qwen_code"] and not beside:
                    wrong.append(f"Qwen Code {version} never refreshed, so this shows nothing")
                print(f"| {version} | {name} | {' | '.join(str(total[key]) for key, _ in COLUMNS)} |", flush=True)
    print("\n".join(["", *wrong]) if wrong else "\nqwenauth sent no token that its file did not hold, removed no good credentials, left no lock")
    sys.exit(1 if wrong else 0)


main()
