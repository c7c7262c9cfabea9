"""The sandbox section: where model-written programs run. Used only if a verifier needs it."""

from pydantic import Field, JsonValue

from rlvr.config.sections.section import Section


class SandboxConfig(Section):
    """backend: auto (the strongest that works here; without one the run does not start), a registered sandbox, or
        package.module:attribute.
    settings: of that backend; `rlvr sandboxes show NAME` lists them.
    """

    backend: str = Field(default="auto", min_length=1)
    settings: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
