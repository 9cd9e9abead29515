"""MONAI datasets that continue without the subjects that cannot be loaded, and report which and why."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from multiprocessing.pool import ThreadPool
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import CacheDataset, Dataset, get_track_meta, set_track_meta
from monai.transforms import Compose, Randomizable, RandomizableTrait, Transform, apply_transform

from ..errors import SubjectError, root_cause
from .layouts import complete_subject

logger = logging.getLogger(__name__)


class SeededItems(Dataset):
    """A MONAI Dataset whose random transforms depend only on the seed of the epoch and on the item's index.

    So an item is the same whatever the order and the process in which it is loaded.

    Attributes:
        epoch_seed: to be set at the start of each epoch; None leaves the transforms' random states alone.
    """

    epoch_seed: int | None = None

    def _transform(self, index: int) -> Any:
        self._seed(index)
        return super()._transform(index)

    def _seed(self, index: int) -> None:
        if self.epoch_seed is None:
            return
        seed = int(np.random.SeedSequence([self.epoch_seed, index]).generate_state(1)[0])
        if type(self.transform) is not Compose:
            self.transform.set_random_state(seed=seed)
            return
        state = np.random.RandomState(seed)
        # a generator for each transform, as of Compose.set_random_state, takes as long to make as a patch to change
        for transform in self.transform.transforms:
            if isinstance(transform, Randomizable):
                transform.set_random_state(state=state)


class PatchDataset(SeededItems):
    """
    Patches of stage 2 as plain tensors: they have no place in the world, and to keep track of what was done to them
    takes as much time as to do it. Half precision, in which :class:`~..training.patches.PatchCollector` keeps their
    ``image``, becomes single precision.

    Example:
        >>> from monai.transforms import RandFlipd
        >>> patches = PatchDataset([{"image": torch.rand(2, 4, 4, 4)}], Compose([RandFlipd("image", prob=1.0)]))
        >>> type(patches[0]["image"]).__name__
        'Tensor'
    """

    def _transform(self, index: int) -> Any:
        self._seed(index)
        patch = dict(self.data[index])
        patch["image"] = torch.as_tensor(patch["image"]).float()
        before = get_track_meta()
        set_track_meta(False)
        try:
            return apply_transform(self.transform, patch)
        finally:
            set_track_meta(before)


class CohortDataset(SeededItems, CacheDataset):
    """A MONAI CacheDataset for training and validation that leaves out subjects whose preprocessing fails.

    When the data set is created, every subject passes once through the transforms before the first random one.
    This includes the uncached subjects (cache_rate < 1), which pass through them again at each use, so that all
    failures are known from the start. Running out of memory is not a subject's failure and is raised.

    Args:
        data: subjects' dicts, as from :py:meth:`Split.part`, or pairs of image and label as MONAI Label passes
            them, see :py:func:`complete_subject`.
        transform: transforms, of which those before the first random one are cached.
        cache_rate: fraction of the subjects to keep in memory, 0 to 1.
        num_workers: threads that fill the cache.
        progress: show a progress bar.
        copy_cache: copy cached items before the random transforms, as in MONAI.
        half_keys: float32 volumes under these keys are cached as float16 and returned as float32. Meant for
            channels in [0, 1], where the rounding is at most 2^-12; a volume beyond the range of float16 is
            kept in float32.
        when_empty: the subjects to use if ``data`` is empty, such as the training subjects for validation when an
            annotator has labelled too few to set any aside.

    Attributes:
        failures: for each subject left out, its id and the error message.

    Raises:
        SubjectError: if no subject is left.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Sequence[Callable] | Callable | None = None,
        cache_rate: float = 1.0,
        num_workers: int | None = 1,
        progress: bool = True,
        copy_cache: bool = True,
        half_keys: Sequence[str] = ("image",),
        when_empty: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.half_keys, self.when_empty = tuple(half_keys), when_empty
        self.failures: dict[str, str] = {}
        super().__init__(
            data,
            transform,
            cache_rate=cache_rate,
            num_workers=num_workers,
            progress=progress,
            copy_cache=copy_cache,
        )

    def set_data(self, data: Sequence[Mapping[str, Any]]) -> None:
        """Check every subject and fill the cache.

        Args:
            data: subjects' dicts.
        """
        self.failures = {}
        if not data and self.when_empty:
            logger.warning("There are no validation subjects; the training subjects are used for validation.")
            data = self.when_empty
        super().set_data([complete_subject(subject) for subject in data])
        with ThreadPool(self.num_workers) as pool:
            rest = pool.map(self._is_usable, range(self.cache_num, len(self.data)))
        usable = [item is not None for item in self._cache] + rest
        self._cache = [item for item in self._cache if item is not None]
        self.cache_num = len(self._cache)
        self.data = [subject for subject, kept in zip(self.data, usable, strict=True) if kept]
        self.failures = dict(sorted(self.failures.items()))
        if not self.data:
            raise SubjectError(f"None of {len(usable)} subjects could be loaded:{self._reasons()}")
        if self.failures:
            logger.warning("%d subjects could not be loaded:%s", len(self.failures), self._reasons())

    def _reasons(self) -> str:
        return "".join(f"\n  {name}: {message}" for name, message in self.failures.items())

    def _is_usable(self, index: int) -> bool:
        return self._load_cache_item(index) is not None

    def _load_cache_item(self, idx: int) -> dict[str, Any] | None:
        subject = self.data[idx]
        try:
            if "error" in subject:
                raise SubjectError(subject["error"])
            item = super()._load_cache_item(idx)
        except Exception as error:
            cause = root_cause(error)
            if isinstance(cause, MemoryError):
                raise
            self.failures[_name(subject, idx)] = f"{type(cause).__name__}: {cause}"
            return None
        return item | {key: halved(item[key]) for key in self.half_keys if key in item}

    def without_random(self) -> CohortDataset:
        """Return a view of the same subjects and cache that stops before the first random transform."""
        view = copy(self)
        view.transform = Compose(self.transform.transforms[: self._first_random()])
        return view

    def _first_random(self) -> int | None:
        return self.transform.get_index_of_first(
            lambda step: isinstance(step, RandomizableTrait) or not isinstance(step, Transform)
        )

    def _transform(self, index: int) -> Any:
        index = range(len(self))[index]
        self._seed(index)
        if index >= self.cache_num:
            return Dataset._transform(self, index)
        first_random = self._first_random()
        item = {key: self._restore(key, value, first_random) for key, value in self._cache[index].items()}
        return item if first_random is None else self.transform(item, start=first_random)

    def _restore(self, key: str, value: Any, first_random: int | None) -> Any:
        if key in self.half_keys and isinstance(value, torch.Tensor) and value.dtype == torch.float16:
            return value.float()
        return deepcopy(value) if self.copy_cache and first_random is not None else value


class Former(Protocol):
    """What knows which subjects are done, see :class:`~..inference.former.FormerResults`."""

    def identify(self, subject: Mapping[str, Any]) -> str | None: ...

    def is_done(self, subject: str, made_from: str | None) -> bool: ...


class SubjectDataset(Dataset):
    """A MONAI Dataset for inference in which a failed subject becomes an item that holds its error.

    An item is the transformed dict of a subject, or for a subject that fails
    ``{"subject": id, "error": "<Type>: <message>"}``; no exception is raised.

    Args:
        data: subjects' dicts, as from :py:meth:`Split.part`.
        transform: transforms that are applied to each subject.
        former: knows which subjects are done already; the item of such a subject is
            ``{"subject": id, "done": "before"}``, and its scan is not read. The other items have ``made_from``
            and ``read_seconds``, as text.
    """

    def __init__(
        self, data: Sequence[Mapping[str, Any]], transform: Callable | None = None, former: Former | None = None
    ) -> None:
        super().__init__(data, transform)
        self.former = former

    def _transform(self, index: int) -> Any:
        subject = self.data[index]
        if "error" in subject:
            return {"subject": subject["subject"], "error": f"{SubjectError.__name__}: {subject['error']}"}
        started = time.monotonic()
        try:
            made_from = self.former.identify(subject) if self.former is not None else None
            if made_from is not None and self.former.is_done(subject["subject"], made_from):
                return {"subject": subject["subject"], "done": "before"}
            known = {} if made_from is None else {"made_from": made_from}
            item = apply_transform(self.transform, {**subject, **known}) if self.transform is not None else subject
        except Exception as error:
            cause = root_cause(error)
            return {"subject": _name(subject, index), "error": f"{type(cause).__name__}: {cause}"}
        if known:
            item["read_seconds"] = f"{time.monotonic() - started:.3f}"
        return item


def _name(subject: Mapping[str, Any], index: int) -> str:
    return str(subject.get("subject") or subject.get("image") or f"number {index}")


def halved(volume: Any) -> Any:
    """A float32 tensor as float16, unless that loses what is beyond its range; anything else as it is."""
    if not (isinstance(volume, torch.Tensor) and volume.dtype == torch.float32):
        return volume
    half = volume.half()
    return half if bool(torch.isfinite(half).all()) else volume
