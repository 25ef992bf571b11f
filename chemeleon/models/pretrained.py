"""Load, save and publish models, the same way for every kind."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeVar, Unpack

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from chemeleon.checkpoints import hub
from chemeleon.checkpoints.load import read_model
from chemeleon.checkpoints.opened import ModelFolder
from chemeleon.checkpoints.push import PushOptions, push
from chemeleon.checkpoints.store import Dtype, write_model
from chemeleon.errors import GenerationError

AnyModel = TypeVar("AnyModel", bound=nn.Module)


class _NoFilling(TorchFunctionMode):
    """Skip the initial numbers of tensors that have no memory yet.

    PyTorch would import its compiler to draw them on the meta device: 1.5 s.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            tensor = named["tensor"] if "tensor" in named else args[0]
            if tensor.is_meta:
                return tensor
        return func(*args, **named)


class Pretrained(nn.Module):
    """A model that is a folder of ``config.yaml`` and ``model.safetensors`` on disk.

    A subclass says which ``kinds`` of folder it can be built from (its own first), builds itself in
    ``from_folder`` and names its architecture in ``architecture``.

    Attributes:
        origin: what the folder it came from says beside the architecture: data set, training,
            import. It is written again by ``save_pretrained``.
    """

    kinds: ClassVar[tuple[str, ...]]
    origin: Mapping[str, Any] = MappingProxyType({})

    @classmethod
    def from_pretrained(cls, reference: str | Path, *, revision: str | None = None) -> Self:
        """Load a model.

        Args:
            reference: run folder, model folder, ``hub:NAME``, ``hub:OWNER/REPO[@REVISION]`` or
                ``shipped:NAME``.
            revision: branch, tag or commit of a hub reference.

        Raises:
            CheckpointError: if there is no such model there.
        """
        path = reference if revision is None else hub.resolve(str(reference), revision=revision)
        folder = read_model(path, cls.kinds, fits=cls.check)
        with _NoFilling():
            model = cls.from_folder(folder)
        # the VAE inside an LDM shares its data set, not its training
        kept = folder.config if folder.kind == cls.kinds[0] else {"data": folder.config.get("data")}
        known = {"chemeleon", "kind", *model.architecture()}
        model.origin = {key: value for key, value in kept.items() if key not in known and value}
        return model

    @classmethod
    def from_folder(cls, folder: ModelFolder) -> Self:
        """Build from a folder that has been opened.

        Raises:
            CheckpointError: if its weights are not those of the network that its config declares.
        """
        model = cls.outline(folder)
        folder.load_into(model)
        return model.eval()

    @classmethod
    def check(cls, folder: ModelFolder) -> None:
        """Refuse a folder whose weights are not those of the network that its config declares.

        Raises:
            CheckpointError: naming missing, superfluous and misshapen tensors before any is read,
                else one whose numbers are none.
        """
        with _NoFilling():
            cls.from_folder(folder)

    @classmethod
    def outline(cls, folder: ModelFolder) -> Self:
        """Return the network that a folder's config declares, without numbers (on `meta`)."""
        raise NotImplementedError

    def architecture(self) -> dict[str, Any]:
        """Return what ``config.yaml`` must say so that the model can be built again."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | Path, dtype: Dtype = "fp32") -> Path:
        """Write the model into a folder that ``from_pretrained`` reads, and return it.

        Args:
            folder: made if it is missing.
            dtype: of the weights there; bf16 halves it. Statistics are float32 in any case.
        """
        path = Path(folder)
        config = {**self.architecture(), **self.origin}
        write_model(path, self.kinds[0], config, self.state_dict(), dtype)
        return path

    def push_to_hub(self, repo: str, **options: Unpack[PushOptions]) -> str:
        """Upload the model with a model card.

        Args:
            repo: ``OWNER/REPO``.
            options: ``private``, ``revision``, ``message`` and ``license``, as of
                ``chemeleon.checkpoints.push.push``.

        Returns:
            Address of the commit.

        Raises:
            CheckpointError: if it cannot be written there.
        """
        with tempfile.TemporaryDirectory() as folder:
            return push(self.save_pretrained(folder), repo, **options)


def find_device(device: torch.device | str | None = None) -> torch.device:
    """Return a device that can be computed on, by default a GPU if there is one.

    Raises:
        GenerationError: if it cannot be used, in torch's words.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, ImportError) as error:  # by kind of build
        raise GenerationError(
            f"device '{device}' cannot be used: {str(error).splitlines()[0]}. Leave out --device to"
            " take a GPU if there is one, else the CPU"
        ) from None
    return found


def place(model: AnyModel, device: torch.device | str | None = None) -> AnyModel:
    """Move a model to a device, a GPU if there is one, for use without training.

    Raises:
        GenerationError: if the device cannot be used.
    """
    return model.to(find_device(device)).eval()
