"""A provider found by discovery: node-oidc-provider, its pages walked as a browser walks them."""

import html.parser
import http.cookiejar
import json
import urllib.error
import urllib.parse
import urllib.request

from processes import until


class Page(html.parser.HTMLParser):
    """The forms of a page: (action, fields)."""

    def __init__(self, url, text):
        super().__init__()
        self.url, self.text, self.forms = url, text, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "form":
            self.forms.append((urllib.parse.urljoin(self.url, attributes.get("action") or self.url), {}))
        if tag in ("input", "button") and self.forms and attributes.get("name"):
            self.forms[-1][1][attributes["name"]] = attributes.get("value") or ""


class Browser:
    def __init__(self):
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar)

    def open(self, url, fields=None):
        body = None if fields is None else urllib.parse.urlencode(fields).encode()
        with self._opener.open(url, body, timeout=20) as reply:
            return Page(reply.url, reply.read().decode())

    def approve(self, url):
        """Submits every form on the way: the code, the confirmation, the login, the consent."""
        page = self.open(url)
        for _ in range(8):
            if not page.forms:
                return page
            action, fields = page.forms[0]
            fields = {name: value for name, value in fields.items() if name != "abort"}
            if "login" in fields:
                fields |= {"login": "somebody", "password": "anything"}
            page = self.open(action, fields)
        raise AssertionError(f"the pages do not end: {page.text}")


def issuer(machine, lifetime):
    folder = machine.package("oidc-provider")
    node = machine.package("node-22") / "node_modules/.bin/node"
    server = machine.start(node, folder / "serve.mjs", str(lifetime))
    server.wait_for(lambda: "http://" in server.stdout, "named its issuer")
    server.issuer = next(line for line in server.stdout.splitlines() if line.startswith("http://"))
    return server


def configure(machine, issuer, client, *more):
    folder = machine.home / ".config/qwenauth"
    folder.mkdir(parents=True)
    lines = [
        "# kept",
        "[providers.corp]",
        f'issuer = "{issuer}"',
        f'client_id = "{client}"',
        'scopes = ["openid", "offline_access"]',
        f'base_url = "{machine.provider.url}/v1"',
        *more,
    ]
    (folder / "config.toml").write_text("\n".join(lines) + "\n")


def login(machine, **environment):
    running = machine.start(
        machine._program, "login", "corp", "--no-verify", "--json", **environment
    )
    running.wait_for(lambda: "device_code" in running.stdout, "showed a code")
    event = json.loads(running.stdout.splitlines()[0])
    page = Browser().approve(event["verification_uri_complete"])
    running.succeed()
    assert "Sign-in Success" in page.text, page.text
    assert json.loads(running.stdout.splitlines()[1])["provider"] == "corp", running.stdout


def stored(machine):
    return json.loads((machine.home / ".local/share/qwenauth/credentials/corp.json").read_text())


def logs_in_renews_and_revokes(machine, client, *more, **environment):
    server = issuer(machine, 5)
    configure(machine, server.issuer, client, *more)
    login(machine, **environment)
    first = stored(machine)
    assert first["issuer"] == server.issuer and first["refresh_token"], first
    # 5 s are less than what `token` wants left: each call renews, and a refresh token works once.
    for _ in range(3):
        token = machine.run("qwenauth", "token", **environment).stdout.strip()
        assert token == stored(machine)["access_token"]
    last = stored(machine)
    assert last["refresh_token"] != first["refresh_token"], "the refresh token was not rotated"
    granted = server.stdout.count(f"granted refresh_token to {client}")
    assert granted == 3, server.stdout
    logout = machine.run("qwenauth", "logout", **environment)
    assert "the server has revoked the login" in logout.stderr, logout.stderr
    until(lambda: "revoked a grant" in server.stdout, "the provider to revoke")
    assert "broke" not in server.stdout and "refused" not in server.stdout, server.stdout
    # What was revoked cannot be renewed: put back, it is refused for good.
    file = machine.home / ".local/share/qwenauth/credentials/corp.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(last | {"expiry_date": 1}))
    refused = machine.start("qwenauth", "token", **environment)
    assert refused.wait() == 4, refused.stderr
    assert "invalid_grant" in refused.stderr, refused.stderr
    assert (machine.home / ".config/qwenauth/config.toml").read_text().count("# kept") == 1


def oidc_public_client(machine):
    logs_in_renews_and_revokes(machine, "public")


def oidc_confidential_client_with_a_secret_in_a_file(machine):
    secret = machine.root / "secret"
    secret.write_text("a secret/with+odd%signs\n")
    logs_in_renews_and_revokes(machine, "basic:%", f'client_secret_file = "{secret}"')


def oidc_confidential_client_with_a_secret_in_a_variable(machine):
    more = ['client_secret_env = "CORP_SECRET"', 'client_auth = "post"']
    logs_in_renews_and_revokes(machine, "post", *more, CORP_SECRET="posted-secret")


AUDIENCE = "https://qwen.corp.example"


def job_token(server, algorithm, audience=AUDIENCE):
    """A token of a job, as its service signs it."""
    form = {"grant_type": "client_credentials", "client_id": f"ci-{algorithm}", "client_secret": "job-secret"}
    body = urllib.parse.urlencode(form | {"resource": audience}).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{server.issuer}/token", body, timeout=20) as reply:
        return json.loads(reply.read())["access_token"]


def asked(base_url, key):
    """The status of a request with this key, and the answer."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    body = json.dumps({"model": "coder-model", "messages": [{"role": "user", "content": "hi"}]}).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(f"{base_url}/chat/completions", body, headers), timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def oidc_tokens_of_jobs_are_keys_of_the_gateway(machine):
    server = issuer(machine, 300)
    machine.login()
    folder = machine.home / ".config/qwenauth"
    folder.mkdir(parents=True, exist_ok=True)
    rule = f'[[team.issuers]]\nissuer = "{server.issuer}"\naudience = "{AUDIENCE}"\nkey = "ci"\n'
    (folder / "config.toml").write_text(rule + 'claims = { repository_owner = "corp" }\n')
    machine.run("qwenauth", "keys", "create", "ci", "--rpm", "100")
    gateway = machine.start(machine._program, "gateway", "--keys")
    gateway.wait_for(lambda: "/v1" in gateway.stdout, "printed its address")
    base_url = gateway.stdout.split()[0]
    tokens = {name: job_token(server, name) for name in ("RS256", "ES256", "EdDSA", "PS256")}
    for name in ("RS256", "ES256", "EdDSA"):
        status, answer = asked(base_url, tokens[name])
        assert status == 200, (name, answer)
    status, answer = asked(base_url, tokens["PS256"])
    assert status == 401 and "PS256" in answer, answer
    status, answer = asked(base_url, job_token(server, "ES256", "https://other.example"))
    assert status == 401 and "audience" in answer, answer
    # A job logs in with its token and stores none.
    token = machine.root / "id-token"
    token.write_text(tokens["EdDSA"])
    token.chmod(0o600)
    job = {"QWENAUTH_HOME": str(machine.root / "job")}
    words = ["login", "team", "--base-url", base_url, "--workload-identity", "--id-token-file", token]
    machine.run("qwenauth", *words, "--model", "coder-model", **job)
    key = machine.run("qwenauth", "token", **job).stdout.strip()
    assert key.startswith("qj_") and asked(base_url, key)[0] == 200, key
    machine.run("qwenauth", "keys", "revoke", "ci", "--yes")
    assert asked(base_url, key)[0] == asked(base_url, tokens["RS256"])[0] == 401
    bearers = {request.token for request in machine.provider.of_kind("model")}
    assert len(bearers) == 1 and not any(token in str(bearers) for token in tokens.values()), bearers


TESTS = {
    function.__name__: (["oidc-provider", "node-22"], function)
    for function in (
        oidc_public_client,
        oidc_confidential_client_with_a_secret_in_a_file,
        oidc_confidential_client_with_a_secret_in_a_variable,
        oidc_tokens_of_jobs_are_keys_of_the_gateway,
    )
}
