"""A real MLflow server, a real proxy that troubles it, and everything that MLflow holds of an experiment."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from results import ResultsError, Tracker
from tests.waiting import wait_until

START_SECONDS = 120


class Server:
    """`mlflow server` on a port of its own; `stop` kills it and its worker, as a crash would."""

    def __init__(self, database):
        self.database = database
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.database}",
            "--artifacts-destination", str(self.database.parent / "server-artifacts"),
        ]  # fmt: skip
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.database.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.database.parent,
                env=os.environ | quiet,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if not wait_until(self._answers, START_SECONDS, 0.3):
            log = (self.database.parent / "server.log").read_text()
            raise AssertionError("the server did not start: " + log[-2000:])

    def _answers(self):
        try:
            Tracker.check(self.uri)
        except ResultsError:
            return False
        return True

    def stop(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Proxy:
    """Stands before a server. ``trouble(method, path, body)`` says what befalls a request:

    ==========  ============================================================================
    None        nothing
    400 ... 599 this answer; the server never sees the request
    0.5         the answer comes so many seconds late
    "drop"      the connection is closed; the server never sees the request
    "swallow"   the server carries it out, the connection is closed without an answer
    "hold"      nothing happens before `release`; then the server carries it out, whoever still waits
    ==========  ============================================================================
    """

    def __init__(self, server):
        self.server = server
        self.trouble = lambda method, path, body: None
        self.holding = threading.Semaphore(0)
        """Counts requests that came to be held."""
        self.seen = []
        self._released = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = False  # `close` waits for the requests under way
        self.uri = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
        self._thread.start()

    def release(self):
        self.trouble = lambda method, path, body: None
        self._released.set()

    def close(self):
        self.release()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _handler(proxy):
        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self):
                with contextlib.suppress(OSError):  # the client gave up waiting
                    super().handle_one_request()

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                trouble = proxy.trouble(self.command, self.path, body)
                proxy.seen.append((self.command, self.path, trouble))
                if trouble == "hold":
                    proxy.holding.release()
                    proxy._released.wait()
                if isinstance(trouble, float):
                    time.sleep(trouble)
                if isinstance(trouble, int):
                    self.reply(trouble, b"trouble", {})
                elif trouble != "drop":
                    status, content, headers = self.forward(body)
                    if trouble != "swallow":
                        self.reply(status, content, headers)
                self.close_connection = True

            def forward(self, body):
                connection = http.client.HTTPConnection("127.0.0.1", proxy.server.port, timeout=60)
                try:
                    kept = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
                    connection.request(self.command, self.path, body, kept)
                    response = connection.getresponse()
                    return response.status, response.read(), dict(response.getheaders())
                finally:
                    connection.close()

            def reply(self, status, content, headers):
                self.send_response(status)
                self.send_header("Content-Type", headers.get("content-type", "text/plain"))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def log_message(self, *_):
                pass

        return Handler


def dump(uri, experiment="digits"):
    """Everything that MLflow holds of an experiment, by trial; the sweep's own run under ``sweep``. No run twice."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id], max_results=1000)
    names = {run.info.run_id: run.data.tags.get("trial", "sweep") for run in found}
    assert len(set(names.values())) == len(found), "a run was duplicated"
    held = {}
    for run in found:
        tags = dict(run.data.tags)
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = names[tags["mlflow.parentRunId"]]
        points = {
            name: [(p.step, p.value, p.timestamp) for p in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        files = client.list_artifacts(run.info.run_id)
        held[names[run.info.run_id]] = {
            "info": (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
            "tags": tags,
            "params": run.data.params,
            "points": points,
            "files": {file.path: _text(client, run.info.run_id, file.path) for file in files},
        }
    return held


def _text(client, run_id, path):
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, path, folder)).read_text()
