"""The files of the page, as the package brings them."""

from importlib.resources import files

from openlimit_server.observe.http import Answer, Request, Response

INDEX = "index.html"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def answers() -> dict[str, Answer]:
    """By path: the page at /, and what it is made of below /page/."""
    found = {
        path.name: Response(200, path.read_bytes(), _TYPES[suffix])
        for path in (files("openlimit_server.observe.page") / "files").iterdir()
        if (suffix := path.name[path.name.rindex(".") :]) in _TYPES
    }
    index = found.pop(INDEX)
    return {"/": _same(index), **{f"/page/{name}": _same(found[name]) for name in sorted(found)}}


def _same(response: Response) -> Answer:
    async def answer(_: Request) -> Response:
        return response

    return answer
