"""A gateway on one machine, its members on another: TLS, a proxy before it, and the files of contrib/."""

import json
import re
import signal

from hosts import Network, certify
from processes import REPOSITORY

KEY = "sk-provider-0123456789abcdef"
MODEL = "qwen3-coder-plus"
ASK = """
import json, os, urllib.request
body = json.dumps({"model": "%s", "messages": [{"role": "user", "content": "hi"}]}).encode()
headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body, headers)
print(json.load(urllib.request.urlopen(request, timeout=60))["choices"][0]["message"]["content"])
""" % MODEL


class Team:
    """A provider in the cloud and two machines that reach it and each other by name."""

    def __init__(self, program, *names):
        self.network = Network(program.parent, *(names or ("cloud", "one", "two")))

    def __enter__(self):
        self.network.__enter__()
        self.ca = self.network.root / "ca"
        certify(self.ca, "cloud", "one", "two", "cache")
        self.trust = {"QWENAUTH_CA_FILE": str(self.ca / "ca.pem")}
        self.log = self.network.root / "log"
        provider = REPOSITORY / "tests/team/provider.py"
        words = [provider, self.ca / "cloud.pem", self.ca / "cloud.key", self.log, KEY]
        self.network["cloud"].start("python3", *words).wait_for_stdout("ready")
        return self

    def __exit__(self, *error):
        self.network.__exit__(*error)

    def configure(self, host):
        """The provider's key as a file, and its address."""
        secret = host.file("secret", f"{KEY}\n")
        host.file(
            ".config/qwenauth/config.toml",
            f'profile = "dashscope"\n[providers.dashscope]\nbase_url = "https://cloud.test/v1"\nkey_file = "{secret}"\n',
        )

    def gateway(self, host, *more, **environment):
        """A gateway with TLS; its base URL and key."""
        self.configure(host)
        pair = ["--tls-cert", self.ca / f"{host.name}.pem", "--tls-key", self.ca / f"{host.name}.key"]
        words = ["qwenauth", "gateway", "--listen", "0.0.0.0:8443", *pair, *more]
        running = host.start(*words, **self.trust, **environment).wait_for_stdout("\n")
        running.wait_for_stdout("\nsk-")
        return running, *running.stdout.split()[:2]

    def asked(self):
        """What the provider was asked."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


def a_member_on_another_machine_logs_in_and_asks(program):
    with Team(program) as team:
        one, two = team.network["one"], team.network["two"]
        gateway, url, key = team.gateway(one)
        assert url == "https://one.test:8443/v1", url
        login = ["qwenauth", "login", "team", "--base-url", url, "--api-key-stdin", "--model", MODEL]
        # Whoever does not trust the certificate sends no key.
        untrusted = two.run(*login, "--profile", "untrusted", stdin=key)
        assert "its certificate is not trusted" in untrusted.stderr and team.asked() == [], untrusted
        assert "profile `team` (active)" in two.run(*login, stdin=key, **team.trust).stderr
        answer = two.run("qwenauth", "exec", "--", "python3", "-c", ASK, **team.trust)
        assert "practice answer to: hi" in answer.stdout, answer
        # Node trusts the CA as well, by what `exec` passes on.
        fetch = "fetch(process.env.OPENAI_BASE_URL + '/models', {headers: {authorization: `Bearer ${process.env.OPENAI_API_KEY}`}}).then(async (got) => console.log(got.status, await got.text()))"
        answer = two.run("qwenauth", "exec", "--", "node", "-e", fetch, **team.trust)
        assert answer.stdout.startswith("200 ") and MODEL in answer.stdout, answer
        checked = two.run("qwenauth", "status", "--check", **team.trust)
        assert key not in checked.stdout, checked
        doctor = two.start("qwenauth", "doctor", "--team", **team.trust)
        doctor.wait()
        assert "the gateway at `one.test` is ready" in doctor.stdout, doctor
        # Its certificate is of two days.
        assert re.search(r"^warn +certificate +the certificate of `one.test` is valid until 20", doctor.stdout, re.M), doctor
        assert key not in doctor.stdout + doctor.stderr, doctor
        assert {line["from"] for line in team.asked()} == {one.address}, "a member reached the provider"
        assert {line["authorization"] for line in team.asked()} == {f"Bearer {KEY}"}
        gateway.signal(signal.SIGTERM)
        gateway.wait()
        assert KEY not in gateway.stdout + gateway.stderr


def plain_http_is_for_its_own_machine_only(program):
    with Team(program) as team:
        one, two = team.network["one"], team.network["two"]
        team.configure(one)
        refused = one.start("qwenauth", "gateway", "--listen", "0.0.0.0:8399", **team.trust)
        assert refused.wait() == 2 and "--tls-cert" in refused.stderr and "--plain-http" in refused.stderr, refused
        words = ["qwenauth", "gateway", "--listen", "0.0.0.0:8399", "--plain-http"]
        gateway = one.start(*words, **team.trust).wait_for_stdout("\nsk-")
        url, key = gateway.stdout.split()
        assert url == f"http://{one.address}:8399/v1", url
        login = two.start("qwenauth", "login", "team", "--base-url", url, "--api-key-stdin", stdin=key)
        assert login.wait() == 2 and "plain `http`" in login.stderr, login


NGINX = """
daemon off; master_process off; error_log stderr; pid {root}/nginx.pid;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;
  server {{
    listen 443 ssl;
    ssl_certificate {ca}/one.pem; ssl_certificate_key {ca}/one.key;
    location / {{
      proxy_pass http://unix:{root}/qwenauth.sock;
      proxy_http_version 1.1; proxy_set_header Host $host; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"""


def nginx_before_the_socket_serves_members(program):
    with Team(program) as team:
        one, two = team.network["one"], team.network["two"]
        team.configure(one)
        words = ["qwenauth", "gateway", "--listen", f"unix:{one.home}/qwenauth.sock", "--public-url", "https://one.test"]
        gateway = one.start(*words, **team.trust).wait_for_stdout("\nsk-")
        url, key = gateway.stdout.split()
        assert url == "https://one.test/v1", url
        config = one.file("nginx.conf", NGINX.format(root=one.home, ca=team.ca))
        nginx = one.start("nginx", "-c", config)
        until_open = ["curl", "-sS", "--retry", "50", "--retry-connrefused", "--retry-delay", "0", "--cacert", team.ca / "ca.pem"]
        assert json.loads(two.run(*until_open, "https://one.test/readyz").stdout)["ready"], nginx
        login = ["qwenauth", "login", "team", "--base-url", url, "--api-key-stdin", "--model", MODEL]
        two.run(*login, stdin=key, **team.trust)
        body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hi"}]})
        ask = f"""curl -sS -N --cacert {team.ca}/ca.pem -H "Authorization: Bearer $OPENAI_API_KEY" -d '{body}' $OPENAI_BASE_URL/chat/completions"""
        answer = two.run("qwenauth", "exec", "--", "sh", "-c", ask, **team.trust)
        assert "practice" in answer.stdout and answer.stdout.rstrip().endswith("data: [DONE]"), answer


TESTS = {
    test.__name__: (needs, test)
    for needs, test in (
        (["node"], a_member_on_another_machine_logs_in_and_asks),
        ([], plain_http_is_for_its_own_machine_only),
        (["nginx", "curl"], nginx_before_the_socket_serves_members),
    )
}
