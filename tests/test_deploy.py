"""What lies in deploy/, and what docs/serve.md says, fits the server: files, options, routes, statuses, numbers."""

import ast
import importlib
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from xpsr.cli import main
from xpsr.config import ServeConfig
from xpsr.errors import InputError
from xpsr.web import problems
from xpsr.web.app import Service
from xpsr.web.metrics import Metrics

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DEFAULT = ServeConfig()


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, with their arguments."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def of(name: str) -> list[str]:
    return [rest for given, rest in instructions() if given == name]


def last_stage() -> list[tuple[str, str]]:
    told = instructions()
    return told[max(place for place, (name, _) in enumerate(told) if name == "FROM") :]


def ignored_but(path: Path) -> list[str]:
    """What a .dockerignore that begins with * lets through."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    return [line[1:] for line in lines if line.startswith("!")]


def test_all_that_an_image_is_made_of_is_there_and_reaches_the_builder() -> None:
    sources = [word for rest in of("COPY") if "--from" not in rest for word in rest.split()[:-1]]
    kept = ignored_but(ROOT / ".dockerignore")
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in kept, source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"], "constraints.txt", "src"} <= set(sources)


def test_the_builder_gets_nothing_but_the_package() -> None:
    assert set(ignored_but(ROOT / ".dockerignore")) == {
        *("constraints.txt", "pyproject.toml", "README.md", "LICENSE", "NOTICE", "src")
    }


def test_an_image_is_of_a_named_base_and_of_pinned_versions() -> None:
    (base,) = (rest for rest in of("ARG") if rest.startswith("BASE="))
    assert re.fullmatch(r"BASE=python:3\.\d+-slim-\w+", base)
    assert {rest.split()[0] for rest in of("FROM")} == {"${BASE}"}
    assert any("--constraint constraints.txt" in rest for rest in of("RUN"))


def test_an_image_runs_as_nobody_special_and_its_first_process_hears_signals() -> None:
    told = dict(last_stage())
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", told["USER"])
    assert json.loads(told["ENTRYPOINT"]) == ["xpsr", "serve"]
    assert json.loads(told["HEALTHCHECK"].partition("CMD ")[2])[:2] == ["python", "-c"]
    names = [name for name, _ in last_stage()]
    assert "RUN" not in names[names.index("USER") :]


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


def test_a_composed_server_may_do_no_more_than_it_must() -> None:
    server = compose()["services"]["server"]
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["security_opt"] == ["no-new-privileges:true"]
    assert server["mem_limit"] == server["memswap_limit"]
    assert all(mount.startswith("/tmp:") for mount in server["tmpfs"])
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert set(server["secrets"]) == set(compose()["secrets"])
    assert (DEPLOY / server["build"]["context"] / server["build"]["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    assert set(server["build"]["args"]) <= {rest.partition("=")[0] for rest in of("ARG")}


def unit() -> dict[str, list[str]]:
    """The unit's settings of [Service], each with its values."""
    found: dict[str, list[str]] = {}
    service = (DEPLOY / "xpsr.service").read_text().partition("[Service]")[2].partition("[Install]")[0]
    for line in service.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_a_unit_lets_go_of_nothing_and_reaches_nobody() -> None:
    told = {name: values[-1] for name, values in unit().items()}
    for name in ("DynamicUser", "PrivateTmp", "NoNewPrivileges", "ProtectHome", "PrivateDevices"):
        assert told[name] == "yes", name
    assert told["ProtectSystem"] == "strict"
    assert told["CapabilityBoundingSet"] == ""
    assert (told["IPAddressDeny"], told["IPAddressAllow"]) == ("any", "localhost")
    assert told["KillMode"] == "mixed"
    assert told["Restart"] == "on-failure"
    assert "MemoryMax" in told and "TasksMax" in told


def pods() -> dict[str, Any]:
    """Kubernetes' objects, by kind."""
    return {told["kind"]: told for told in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def test_a_pod_may_do_no_more_than_it_must() -> None:
    spec = pods()["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert (
        f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}" == dict(last_stage())["USER"]
    )
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pods()["NetworkPolicy"]["spec"]["egress"] == []
    assert pods()["Service"]["spec"]["selector"] == pods()["Deployment"]["spec"]["template"]["metadata"]["labels"]


def test_whoever_stops_a_server_waits_longer_than_it_drains() -> None:
    patience = {
        "compose": compose()["services"]["server"]["stop_grace_period"].removesuffix("s"),
        "systemd": unit()["TimeoutStopSec"][0],
        "Kubernetes": pods()["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"],
    }
    for who, seconds in patience.items():
        assert float(seconds) >= DEFAULT.drain_seconds + 10, who


def proxied(name: str) -> str:
    """A directive's value in the proxy's configuration."""
    (value,) = re.findall(rf"^\s*{name} ([^;]+);", (DEPLOY / "nginx.conf").read_text(), re.MULTILINE)
    return str(value)


def test_a_proxy_lets_through_what_the_server_takes_and_waits_as_long() -> None:
    assert int(proxied("client_max_body_size").removesuffix("m")) * 2**20 >= DEFAULT.max_bytes + 2**17
    assert float(proxied("proxy_read_timeout").removesuffix("s")) > DEFAULT.wait_seconds + DEFAULT.max_seconds
    assert proxied("hash") == "$remote_addr consistent"
    assert proxied("proxy_buffering") == "off"


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    certificate = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    certificate += ["-keyout", str(tmp_path / "xpsr.key"), "-out", str(tmp_path / "xpsr.pem"), "-subj", "/CN=xpsr"]
    subprocess.run(certificate, check=True, capture_output=True)
    part = (DEPLOY / "nginx.conf").read_text().replace("/etc/nginx/", f"{tmp_path}/")
    folders = "".join(
        f"{name}_temp_path {tmp_path / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    whole = tmp_path / "nginx.conf"
    whole.write_text(f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {folders}\n{part}\n}}")
    done = subprocess.run(["nginx", "-t", "-q", "-c", str(whole)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_takes_its_unit(tmp_path: Path) -> None:
    there = tmp_path / "xpsr.service"
    there.write_text((DEPLOY / "xpsr.service").read_text().replace("/opt/xpsr/bin/xpsr", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(there)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def started() -> dict[str, list[str]]:
    """How each of them starts a server: the arguments after `xpsr serve`."""
    (start,) = unit()["ExecStart"]
    container = pods()["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    return {
        "Dockerfile": json.loads(dict(last_stage())["CMD"]),
        "compose": compose()["services"]["server"]["command"],
        "systemd": shlex.split(start)[2:],
        "Kubernetes": container["args"],
    }


@pytest.fixture
def options(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """All that `xpsr serve` can be told."""
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    return set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))


def test_servers_are_started_with_options_that_there_are(options: set[str]) -> None:
    for who, arguments in started().items():
        given = {word for word in arguments if word.startswith("--")}
        assert given <= options, who
    for name in ("nginx.conf", "xpsr.service", "compose.yaml", "kubernetes.yaml", "README.md"):
        said = re.findall(r"(?<![\w-])--(?!constraint|build|from|now)[a-z][a-z-]+", (DEPLOY / name).read_text())
        assert set(said) <= options, name


# docs/serve.md

TEXT = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose first column is headed so."""
    after = TEXT.split(f"\n| {heading} |", 1)[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in after.splitlines()[2:]]


def coded(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(ServeConfig(spool=tmp_path))
    yield made
    made.close()


@pytest.fixture
def routes(service: Service) -> set[str]:
    """Of the API, with their methods."""
    paths = service.app.openapi()["paths"]
    return {f"{method.upper()} {path}" for path, told in paths.items() for method in told}


def test_docs_name_every_route_and_no_other(routes: set[str]) -> None:
    named: set[str] = set()
    for cell, _ in rows("route"):
        first, *others = coded(cell)
        route = first.partition("?")[0]
        named.add(route)
        for other in others:
            stem = route.rpartition("/")[0]
            named.add(other if " " in other else f"{stem}{other}")
    assert named - routes == {"GET /metrics", "GET /openapi.json", "GET /", "GET /page/…"}
    assert routes <= named


def test_examples_ask_for_routes_that_there_are(routes: set[str]) -> None:
    paths = {route.split(" ")[1] for route in routes} | {"/"}
    asked = re.findall(r"http://127\.0\.0\.1:8000(/[^\s\"'?]*)", TEXT)
    assert len(asked) > 8
    for path in asked:
        assert path.replace("$job", "{id}").rstrip(")") in paths, path


def test_docs_name_options_that_there_are(options: set[str]) -> None:
    commands = re.findall(r"`(--[a-z-]+)[^`]*`", TEXT)
    others = {"--file-quality", "--concurrency"}  # of `xpsr upscale`, and of the benchmark
    assert set(commands) - others <= options


def test_docs_tell_the_limits_as_they_are() -> None:
    for cell, default, _ in rows("option"):
        name = coded(cell)[0].removeprefix("--").replace("-", "_")
        if name != "memory":
            assert float(default) == getattr(DEFAULT, name), name


def test_docs_tell_every_status_of_every_code() -> None:
    told: dict[str, int] = {}
    for status, cell, _ in rows("status"):
        told |= dict.fromkeys(coded(cell), int(status))
    for code, status in told.items():
        assert problems.problem_of(InputError("it is so", code=code, field="id"))[0] == status, code
    assert set(problems._STATUS) <= set(told)  # all that are not 422


def test_docs_name_every_metric(service: Service) -> None:
    metrics = Metrics()
    metrics.watch(service.scheduler, [])
    there = set(re.findall(r"^# HELP (\w+)(?<!_created) ", metrics.text().decode(), re.MULTILINE))
    named = {name for cell, *_ in rows("name") for name in coded(cell)}
    family = "xpsr_process_"
    assert {name for name in there if not name.startswith(family)} == named - {f"{family}…"}
    assert any(name.startswith(family) for name in there)


def test_examples_in_python_name_what_there_is() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xpsr"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names)
