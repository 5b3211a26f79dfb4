"""Complete small programs on real data."""

from importlib.util import find_spec

if missing := [package for package in ("rich", "matplotlib") if find_spec(package) is None]:
    raise SystemExit(f"{' and '.join(missing)} not installed: pip install -r requirements/examples.txt")
