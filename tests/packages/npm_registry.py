"""A registry on loopback that serves the packages in a folder to npm."""

import base64
import hashlib
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


def serve(folder):
    """Starts the registry and returns its URL. The registry runs as long as this process."""
    packages = {}
    for file in folder.glob("*.tgz"):
        with tarfile.open(file) as tar:
            packages[json.load(tar.extractfile("package/package.json"))["name"]] = file

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = unquote(self.path.lstrip("/"))
            if name.startswith("files/"):
                self.answer(200, (folder / name[len("files/"):]).read_bytes())
            elif name in packages:
                self.answer(200, json.dumps(description(packages[name])).encode())
            else:
                self.answer(404, b"{}")

        def answer(self, status, content):
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    def description(file):
        with tarfile.open(file) as tar:
            manifest = json.load(tar.extractfile("package/package.json"))
        digest = base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()
        manifest["dist"] = {"tarball": f"{url}files/{file.name}", "integrity": f"sha512-{digest}"}
        version = manifest["version"]
        return {"name": manifest["name"], "dist-tags": {"latest": version}, "versions": {version: manifest}}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return url
