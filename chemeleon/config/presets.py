"""Find presets, stack their layers, apply KEY=VALUE words, validate, remember who set each key."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from chemeleon.config.plain_yaml import dump_yaml, parse_yaml, read_yaml
from chemeleon.config.renamed import current
from chemeleon.config.schema import STAGES, DataConfig, StageConfig
from chemeleon.errors import ConfigError, nearest, printable

AnyConfig = TypeVar("AnyConfig", bound=BaseModel)
DEFAULT_ORIGIN = "default"
_WHERE = "data.where"  # has a grammar of its own
# data sets under another name than of old, and with them the folders of presets
RENAMED = {"mp_20_open": "mp"}


class Loaded(NamedTuple):
    """A validated config and, for each dotted key, the layer that set it."""

    config: StageConfig
    origins: dict[str, str]


def preset_root() -> Path:
    """Return the folder of the presets: beside the package in a wheel, above it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for root in (package / "configs", package.parent / "configs"):
        if (root / "base.yaml").is_file():
            return root
    raise ConfigError(f"the presets are missing beside {package}: install chemeleon again")


def list_presets(stage: str) -> list[str]:
    """Return the names of a stage's presets, for example ``mp_20/null``."""
    folder = preset_root() / stage
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml"))


def describe_preset(stage: str, name: str) -> str:
    """Return the first sentence of the comment at the top of a preset."""
    text = (preset_root() / stage / f"{name}.yaml").read_text(encoding="utf-8")
    head = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    said = " ".join(line.lstrip("# ") for line in head)
    return re.split(r"(?<=\.)\s", said, maxsplit=1)[0]


def list_data() -> list[str]:
    """Return the names of the known data sets."""
    return sorted(p.stem for p in (preset_root() / "data").glob("*.yaml"))


def nearest_set(name: str) -> str:
    """Return ``; did you mean 'x'?`` of a data set, or what has taken the place of an old one."""
    if name in RENAMED:
        return f"; {RENAMED[name]} has taken its place"
    return nearest(name, list_data())


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold KEY: VALUE lines, not a {type(content).__name__}")
    return content


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping):
            into[key] = into[key] if isinstance(into.get(key), dict) else {}
            _merge(into[key], value)
        else:
            into[key] = value


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield dotted keys and their values; an empty mapping is a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def parse_override(word: str) -> dict[str, Any]:
    """Turn ``trainer.max_epochs=500`` into nested mappings; the value is read as YAML."""
    key, equals, text = word.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][\w]*(\.[\w-]+){0,9}", key):
        raise ConfigError(
            f"'{word}' is not KEY=VALUE: write for example trainer.max_epochs=500"
            " (options such as --preset start with two dashes)"
        )
    # a lone ${hub:NAME} is not valid flow YAML, and needs no parsing
    plain = text.startswith("${") or (key == _WHERE and not _is_whole(text))
    value: Any = text if plain else parse_yaml(text, f"the value of {key}")
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _is_whole(text: str) -> bool:
    """Tell ``null``, and an expression within quotes, from a bare one such as "Li" in elements."""
    try:
        value = parse_yaml(text, "")
    except ConfigError:
        return False
    return value is None or (isinstance(value, str) and text.lstrip()[:1] in ("'", '"'))


def _layers(stage: str, preset: str | None) -> list[tuple[str, dict[str, Any]]]:
    """Return the (name, mapping) pairs that a preset stacks, itself last."""
    root = preset_root()
    if preset is None:
        return [("base", _shared(_read(root / "base.yaml"), stage))]
    path = root / stage / f"{preset}.yaml"
    if not path.is_file():
        known = list_presets(stage)
        if (now := _renamed(preset)) in known:
            raise ConfigError(f"the {stage} preset {preset} is now {now}")
        raise ConfigError(
            f"{stage} has no preset '{preset}'{nearest(preset, known)}. Known: {', '.join(known)}"
        )
    own = _read(path)
    stack = []
    for name in own.pop("layers", ["base"]):
        layer = _read(root / f"{name}.yaml")
        if "layers" in layer:
            raise ConfigError(f"configs/{name}.yaml: only stage presets may name layers")
        stack.append((name, _shared(layer, stage)))
    return [*stack, (f"{stage}/{preset}", own)]


def _renamed(preset: str) -> str:
    """Return what a preset of an earlier version is called today."""
    folder, _, name = preset.partition("/")
    folder = RENAMED.get(folder, folder)
    return f"{folder}/{name.replace('bandgap', 'band_gap') if folder == 'mp' else name}"


def _shared(layer: dict[str, Any], stage: str) -> dict[str, Any]:
    # a shared layer (size, published) speaks to several stages; keep this stage's part
    return {k: v for k, v in layer.items() if k == stage or k not in STAGES}


def load(
    stage: str,
    preset: str | None = None,
    config_file: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    fresh: bool = True,
) -> Loaded:
    """Stack the layers of a stage and validate the result.

    Args:
        stage: its name in ``schema.STAGES``.
        preset: name under ``configs/<stage>``; only ``base`` is used if None.
        config_file: a YAML file on top, for example the ``config.yaml`` of an earlier run.
        overrides: ``KEY=VALUE`` words, applied last.
        fresh: refuse settings that would change nothing; a run that is resumed may have some.

    Raises:
        ConfigError: with every problem found, and the layer that set the value.
    """
    if stage not in STAGES:
        known = ", ".join(STAGES)
        raise ConfigError(f"there is no stage '{stage}'{nearest(stage, STAGES)}. Known: {known}")
    stack = _layers(stage, preset)
    if config_file is not None:
        stack.append((str(config_file), _read(config_file)))
    words = [(f"command line: {word}", parse_override(word)) for word in overrides]
    command: dict[str, Any] = {}  # as a whole: a key and its earlier name would contradict
    for _, word in words:
        _merge(command, word)
    given = [key for key, _ in flatten(_current(STAGES[stage], command))]
    loaded = stack_layers(STAGES[stage], stack + words)
    if fresh and (unread := loaded.config.unread(given)):
        raise ConfigError("\n".join(unread))
    return loaded


def stack_layers(schema: type[StageConfig], stack: list[tuple[str, dict[str, Any]]]) -> Loaded:
    """Merge (name, mapping) layers in order and validate them against ``schema``."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, given in stack:
        try:
            layer = _current(schema, given)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
        _merge(values, layer)
        origins.update((key, name) for key, _ in flatten(layer))
    config = _validated(schema, values, origins)
    resolved = flatten(config.model_dump())
    return Loaded(config, {key: _origin(key, origins) for key, _ in resolved})


def _validated(
    schema: type[AnyConfig], values: Mapping[str, Any], origins: Mapping[str, str]
) -> AnyConfig:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, schema, origins)) from None
    except UnicodeEncodeError as error:  # a problem with a text that it cannot even quote
        raise ConfigError(f"{printable(error.object)}: this holds what is no Unicode") from None


def _origin(key: str, origins: Mapping[str, str]) -> str:
    while key:
        if key in origins:
            return origins[key]
        key = key.rpartition(".")[0]
    return DEFAULT_ORIGIN


def _current(schema: type[BaseModel], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a layer under today's names, so that it changes what the layers below it set."""
    found = current(layer, schema.model_fields)
    for key, value in found.items():
        if isinstance(value, Mapping) and (section := _section(schema, key)):
            found[key] = _current(section, value)
    return found


def _section(schema: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Return the schema of a section of a section, None if the key leads to none."""
    field = schema.model_fields.get(key)
    if field is None:
        return None
    candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
    inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
    return inner[0] if inner else None


def _field_names(schema: type[BaseModel], path: Sequence[str]) -> list[str]:
    """Return the field names of the section that ``path`` leads to."""
    for part in path:
        section = _section(schema, part)
        if section is None:
            return []
        schema = section
    return list(schema.model_fields)


def _explain(error: ValidationError, schema: type[BaseModel], origins: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"]]
        key = ".".join(path)
        origin = _origin(key, origins)
        by = "" if origin == DEFAULT_ORIGIN else f" (set by {origin})"
        if problem["type"] == "extra_forbidden":
            known = _field_names(schema, path[:-1])
            hint = nearest(path[-1], known) or f"; known here: {', '.join(known)}"
            lines.append(f"{key}: unknown key{by}{hint}")
        elif problem["type"] == "missing":
            lines.append(f"{key}: missing; choose a --preset or set it")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            value = problem["input"]
            given = "" if isinstance(value, dict) else f", got {value!r}"
            lines.append(f"{key or 'config'}: {message}{given}{by}")
    count = f"{len(lines)} problem{'s' if len(lines) > 1 else ''} in the configuration:"
    return "\n  ".join([count, *lines])


def load_data(name: str) -> DataConfig:
    """Return the settings of a named data set from ``configs/data``."""
    path = preset_root() / "data" / f"{name}.yaml"
    if not path.is_file():
        known = list_data()
        raise ConfigError(
            f"no data set is called '{name}'{nearest_set(name)}. Known: {', '.join(known)}."
            " To add one, see docs/adding-a-data-set.md"
        )
    values: dict[str, Any] = {}
    for layer in (_read(preset_root() / "base.yaml"), _read(path)):
        _merge(values, layer.get("data", {}))
    return data_config(values)


def find_data(name: str) -> DataConfig:
    """Return the settings of a named data set; of any other name those of a folder called so."""
    return load_data(name) if name in list_data() else DataConfig(name=name)


def data_config(values: Mapping[str, Any]) -> DataConfig:
    """Return the settings of a set of crystals that is described elsewhere than in `configs`.

    Raises:
        ConfigError: with every problem found.
    """
    return _validated(DataConfig, values, {})


def to_yaml(config: BaseModel) -> str:
    """Return the config as YAML that ``--config`` accepts."""
    return dump_yaml(config.model_dump(mode="json"))


def runs_root() -> Path:
    """Return where runs go if no folder is given: $CHEMELEON_RUNS, else ./runs."""
    return Path(os.environ.get("CHEMELEON_RUNS", "runs"))
