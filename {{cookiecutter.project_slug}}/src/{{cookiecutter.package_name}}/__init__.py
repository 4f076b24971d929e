"""The service {{ cookiecutter.project_slug }}: `handlers` is yours, `runtime` runs it."""

__version__ = "0.1.0"
