"""A model folder that has been opened: its weights meet the network before a number is read.

Files may come from anybody. What opening them takes does not depend on what they claim to hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from chemeleon.errors import CheckpointError, printable
from chemeleon.storage import MODEL_CONFIG, MODEL_WEIGHTS

MOST_HEADER_BYTES = 1 << 22  # of a safetensors file: the names, types and shapes of its tensors
MOST_TENSORS = 20_000
AnySection = TypeVar("AnySection", bound=BaseModel)
KEPT_AS = {torch.float32, torch.bfloat16, torch.float16, torch.float64}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Open a safetensors file: names, shapes and metadata; numbers are paged in when first used.

    Raises:
        CheckpointError: if it is missing or not a complete safetensors file.
    """
    if not path.is_file():  # to open a named pipe would mean to wait for its other end
        missing = "is not a plain file" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {missing}")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER_BYTES:
            raise SafetensorError(f"its header would be {length:,} bytes long")
        with safe_open(path, framework="pt") as handle:
            names = handle.keys()
            if len(names) > MOST_TENSORS:
                raise SafetensorError(f"{len(names):,} tensors")
            tensors = {name: handle.get_tensor(name) for name in names}
            return tensors, dict(handle.metadata() or {})
    except (SafetensorError, RuntimeError, TypeError, ValueError, OverflowError) as error:
        said = printable(str(error).partition("\n")[0])[:200]
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({said}): fetch it again, or make it anew"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from None


@dataclass(frozen=True)
class ModelFolder:
    """A model as read from disk.

    Attributes:
        path: the folder.
        kind: ``vae`` or ``ldm``.
        config: the content of its ``config.yaml``.
        stored: its weights as they are kept; none has been read until it is looked at.
    """

    path: Path
    kind: str
    config: dict[str, Any]
    stored: dict[str, Tensor]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Its weights, in float32 also where they are kept in bf16."""
        short = (torch.bfloat16, torch.float16)
        return {n: t.float() if t.dtype in short else t for n, t in self.stored.items()}

    def tensor(self, name: str) -> Tensor:
        """Return one tensor as it is kept.

        Raises:
            CheckpointError: if it is missing.
        """
        if name not in self.stored:
            raise self.problem(f"there is no tensor '{name}'")
        return self.stored[name]

    def problem(self, text: str) -> CheckpointError:
        """Return the error that names the file of weights and says what is wrong with it."""
        return CheckpointError(
            f"{self.path / MODEL_WEIGHTS}: {text}. Fetch the model again, or make it anew"
        )

    @property
    def content(self) -> dict[str, Any]:
        """The config as `write_model` takes it, without kind and version."""
        return {k: v for k, v in self.config.items() if k not in ("chemeleon", "kind")}

    def section(self, name: str, schema: type[AnySection]) -> AnySection:
        """Return a section of the config.

        Raises:
            CheckpointError: if it is missing.
        """
        if self.config.get(name) is None:
            raise CheckpointError(f"{self.path / MODEL_CONFIG} has no section '{name}'")
        return schema.model_validate(self.config[name])  # as `read_model_config` has done

    def check_shapes(self, module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
        """Return the weights under ``prefix``, as they are kept, if they are those of a module.

        No number is read, so this comes before anything that takes memory.

        Raises:
            CheckpointError: naming missing, superfluous and misshapen tensors.
        """
        weights = {
            name.removeprefix(prefix): value
            for name, value in self.stored.items()
            if name.startswith(prefix)
        }
        expected: dict[str, Tensor] = module.state_dict()
        problems = [f"missing {name}" for name in expected if name not in weights]
        problems += [
            f"unexpected {printable(name)[:80]}" for name in weights if name not in expected
        ]
        for name, value in expected.items():
            found = weights.get(name, value)
            if found.shape != value.shape:
                sizes = str(tuple(found.shape))[:80]
                problems.append(f"{name} has shape {sizes}, expected {tuple(value.shape)}")
            elif found.dtype not in KEPT_AS:
                problems.append(f"{name} is of {found.dtype}, which weights are not")
        if problems:
            raise self.problem(f"it does not fit its {MODEL_CONFIG}: {shorten(problems)}")
        return weights

    def load_into(self, module: nn.Module, prefix: str = "") -> None:
        """Give a module the weights under ``prefix``, without copying them.

        The module may be on the meta device (shapes without numbers), which saves making random
        weights that are thrown away; the numbers are then paged in from the file.

        Raises:
            CheckpointError: if they do not fit, or are not finite.
        """
        weights = self.check_shapes(module, prefix)
        for name, value in weights.items():
            # the sum is quick, and not finite if one of the numbers is not
            if not value.sum().isfinite() and not value.isfinite().all():
                raise self.problem(f"{name} holds numbers that are not finite")
        module.load_state_dict({n: value.float() for n, value in weights.items()}, assign=True)


def shorten(words: list[str]) -> str:
    """Return the first five words or sentences for a message."""
    shown = "; ".join(word[:150] for word in words[:5])
    return shown + ("; ..." if len(words) > 5 else "")
