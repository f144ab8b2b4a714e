"""The loop: one way for a CPU, a GPU and many of them.

Update `n` draws its noise from (seed, n) and its data from the samples' numbers alone, and a checkpoint holds the rest,
so a run that stopped goes on as if it had not. Processes share an update's batch: each takes its rows of it.
"""

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from xpsr.config import TrainRunConfig, as_dict
from xpsr.config.checks import fault
from xpsr.data import Batch, Collate, Sample, build_dataset, build_loader, generator_for
from xpsr.devices import resolve_precision
from xpsr.errors import TrainingError
from xpsr.files import write_text
from xpsr.training.checkpoints import Checkpoints
from xpsr.training.components import Components, merge_adapters, save_adapters
from xpsr.training.losses import BatchSlice, Losses
from xpsr.training.optimizers import learning_rate, set_learning_rate
from xpsr.training.run_log import OnMetrics, RunLog, environment, tracker_names
from xpsr.training.state import TrainState

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Export", "Validate", "train"]

logger = logging.getLogger(__name__)

Export = Callable[[Components, Path], None]
Validate = Callable[[Components, Path], Mapping[str, float]]

_LOWER_IS_BETTER = {"niqe"}
_PATIENCE = timedelta(hours=2)  # of processes that wait while one validates


def train(
    config: TrainRunConfig,
    components: Components,
    *,
    export: Export,
    device: torch.device,
    validate: Validate | None = None,
    dataset: Dataset[Sample] | None = None,
    on_metrics: OnMetrics | None = None,
) -> bool:
    """Trains `components` in place and writes the averaged weights to `OUTPUT_DIR/model`.

    Under torchrun every process calls this; the batch of an update is `train.batch_size` samples of each. SIGTERM and
    SIGINT stop a run on the main thread after the update at hand; on another thread they are left to the main one.

    Args:
        config: the run; `train.max_steps` counts from the very first start.
        components: what to train.
        export: writes components as a model folder, given a path. Called in the main process only.
        device: where to train; of several processes with a GPU each, each takes its own.
        validate: restores and scores pictures, every `validation.every` steps: given components with the averaged
            weights and a folder for pictures, returns scores by name, among them `validation.best_by`. Called in the
            main process only, while the others wait.
        dataset: what `build_dataset(config.data, seed=config.train.seed)` gives, where it is at hand.
        on_metrics: called in the main process with the step and the values of every line of `metrics.jsonl`: terms of
            the loss, gradient norm, learning rate, samples a second and memory in GB every `train.log_every` steps, and
            scores of validations as `validation_NAME`.

    Returns:
        True if the run is complete, False if it stopped early (time limit or a signal) with a checkpoint to go on from.

    Raises:
        InputError: settings that do not go together, or not with this machine or model.
        TrainingError: no pictures, a checkpoint of another run, a loss that is not finite, a full disk, or another run
            at work in the same folder.
    """
    from accelerate.state import AcceleratorState

    if config.validation.every and validate is None:
        raise fault(config, "validation.every", "is set, but nothing was given that validates", "pass validate")
    config = _with_precision(config, device)
    accelerator, run = _accelerator(config, device), None
    try:
        with _alone(config.train.output_dir) if accelerator.is_main_process else nullcontext():
            run = _Run(config, components, accelerator, export=export, validate=validate, dataset=dataset)
            return run.go(on_metrics)
    finally:
        # DDP goes before the group of processes: the last to hold that, it would wait, keeping Python's lock, for the
        # group's threads, of which one may wait for the lock
        run = None
        accelerator.free_memory()
        accelerator.end_training()
        AcceleratorState._reset_state()  # or a second run in this process could not use another precision


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other runs out of a folder, which is made."""
    from filelock import FileLock, Timeout

    def refusal(message: str, code: str, remedy: str) -> TrainingError:
        return TrainingError(message, code=code, field="train.output_dir", value=str(folder), remedy=remedy)

    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        message, remedy = "is in use: another run is writing here", "wait for it, or use another folder"
        raise refusal(message, "in_use", remedy) from error
    except OSError as error:
        raise refusal(f"cannot be written ({error.strerror})", "refused", "name a folder that can be") from error
    try:
        yield
    finally:
        with suppress(OSError):  # an open file stays on Windows
            Path(lock.lock_file).unlink()
        lock.release()


def _with_precision(config: TrainRunConfig, device: torch.device) -> TrainRunConfig:
    """Returns the config with a number type; one process decides for all, for what it measures may differ."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    if config.train.precision == "fp16" and device.type == "cpu":
        raise fault(config, "train.precision", "needs a GPU", "use auto, bf16 or fp32")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # accelerate takes the current one; under torchrun it chooses again
    state = PartialState(cpu=device.type == "cpu", timeout=_PATIENCE)
    found = [resolve_precision(config.train.precision, device) if state.is_main_process else None]
    precision = broadcast_object_list(found)[0]
    return replace(config, train=replace(config.train, precision=precision))


def _accelerator(config: TrainRunConfig, device: torch.device) -> "Accelerator":
    from accelerate import Accelerator
    from accelerate.utils import AutocastKwargs, GradientAccumulationPlugin, ProjectConfiguration

    run = config.train
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision={"fp32": "no"}.get(run.precision, run.precision),
        log_with=tracker_names(config) or None,
        project_config=ProjectConfiguration(str(run.output_dir), logging_dir=str(run.output_dir / "tensorboard")),
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=run.gradient_accumulation_steps, sync_with_dataloader=False
        ),
        kwargs_handlers=[
            # activations that are computed again leave no use for copies of all weights in half precision
            AutocastKwargs(cache_enabled=not run.gradient_checkpointing),
        ],
    )


class _Run:
    """One call of `train`."""

    def __init__(
        self,
        config: TrainRunConfig,
        components: Components,
        accelerator: "Accelerator",
        *,
        export: Export,
        validate: Validate | None,
        dataset: Dataset[Sample] | None,
    ):
        self.config, self.accelerator, self.export, self.validate = config, accelerator, export, validate
        run = config.train
        self.folder, self.started = run.output_dir, time.monotonic()
        self.checkpoints = Checkpoints(self.folder, keep=run.keep_checkpoints)
        accelerator.wait_for_everyone()  # for the folder
        components.to(accelerator.device)
        self.state = TrainState(config, components, accelerator)
        newest = None if run.resume == "never" else self.checkpoints.newest()
        if self._count(newest is not None) not in (0, accelerator.num_processes):
            raise TrainingError(
                "is not shared: only some processes find a checkpoint there",
                field="train.output_dir",
                value=str(self.folder),
                remedy="use a folder that all machines see",
            )
        if newest is not None:
            self.state.load(newest)
            logger.info("resumed at step %d", self.state.step)
        self.dataset = build_dataset(config.data, seed=run.seed) if dataset is None else dataset
        self.collate = Collate(components.tokenizer)
        self.size, self.num_passes = run.batch_size, run.gradient_accumulation_steps
        if run.fit_memory:
            self._fit_memory()
        self.batch_size = self.size * self.num_passes * accelerator.num_processes
        self._check_rows()
        # only a run that can begin may touch what another one left
        if accelerator.is_main_process:
            if run.resume == "never":
                self.checkpoints.clear()
            facts = environment(accelerator.device, num_processes=accelerator.num_processes)
            write_text(self.folder / "config.json", json.dumps(as_dict(config), indent=2) + "\n")
            write_text(self.folder / "environment.json", json.dumps(facts, indent=2) + "\n")
        accelerator.wait_for_everyone()
        self.save_seconds = self.validate_seconds = 0.0

    def _check_rows(self) -> None:
        """Refuses batches that leave none for diffusion or for the one step, and a teacher that taught nothing."""
        loss = self.config.loss
        if loss.teacher_weight and all(self.dataset[i].teacher is None for i in range(self.batch_size)):
            message = f"looks at a teacher's pictures, of which the first {self.batch_size} pairs have none"
            raise fault(self.config, "loss.teacher_weight", message, "make some with scripts/teach.py, or use 0")
        fraction = loss.one_step_fraction
        one_step = round(self.batch_size * fraction)
        if 0 < fraction < 1 and one_step in (0, self.batch_size):
            message = f"of {self.batch_size} samples an update is {one_step or 'none'}"
            remedy = f"use larger batches, or {1 if one_step else 0}"
            raise fault(self.config, "loss.one_step_fraction", message, remedy)

    def go(self, on_metrics: OnMetrics | None) -> bool:
        """Trains until the end, a limit or a signal; returns whether it was the end."""
        config, state, run = self.config, self.state, self.config.train
        with (
            _StopSignal() as stop,
            RunLog(config, self.accelerator, step=state.step, on_metrics=on_metrics) as log,
            closing(self._batches()) as passes,
        ):
            while state.step < run.max_steps:
                began = time.monotonic()
                batches = (next(passes).to(self.accelerator.device) for _ in range(self.num_passes))
                metrics, stopping = self._update(batches, stop=stop, began=began)
                if state.step % run.log_every == 0 or state.step == run.max_steps:
                    log.write(state.step, self._mean_over_processes(metrics), batch_size=self.batch_size)
                done = state.step == run.max_steps
                every = config.validation.every
                best = every is not None and (done or state.step % every == 0) and self._validate(log)
                if stopping or best or done or state.step % run.checkpoint_every == 0:
                    self._keep(best=best)
                    log.pause()
                if stopping:
                    return done
        missing = not state.exported or not (self.folder / "model").is_dir()
        if self._count(self.accelerator.is_main_process and missing):
            self._keep(best=False)
        return True

    def _batches(self) -> Generator[Batch, None, None]:
        """Yields the rest of the run's batches of this process.

        To be closed: an error keeps the loop's frame alive, and with it workers, which would keep the process alive.
        """
        run, accelerator = self.config.train, self.accelerator
        yield from build_loader(
            self.dataset,
            self.collate,
            batch_size=self.size,
            start=self.state.position,
            stop=self.state.position + (run.max_steps - self.state.step) * self.batch_size,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            num_workers=run.num_workers,
            pin_memory=accelerator.device.type == "cuda",
        )

    def _update(
        self, batches: Iterator[Batch], *, stop: "_StopSignal", began: float
    ) -> tuple[dict[str, torch.Tensor], bool]:
        """Updates everything once; returns the loss's terms over this process's rows, and whether to stop after it."""
        config, state, accelerator, adversary = self.config, self.state, self.accelerator, self.state.adversary
        rate = learning_rate(config.optimizer, state.step, config.train.max_steps)
        metrics: dict[str, torch.Tensor] = {}
        seen: list[torch.Tensor] = []
        for number, batch in enumerate(batches):
            seen.append(batch.indices)
            first = (number * accelerator.num_processes + accelerator.process_index) * self.size
            # the 1 sets it apart from the data's
            generator = generator_for(config.train.seed, state.step, 1)
            if state.sharded:  # accelerate knows only how to keep DDP from summing
                state.module.set_requires_gradient_sync(number == self.num_passes - 1)  # type: ignore[operator]
            with accelerator.accumulate(state.module), accelerator.autocast():
                losses: Losses = state.module(batch, generator, BatchSlice(first, self.size, self.batch_size))
                if adversary is not None:
                    losses.terms["adversarial"] = adversary.generator_loss(losses, step=state.step)
                total = losses.total()
                accelerator.backward(total)
            terms = losses.terms | {"loss": total}
            if adversary is not None:
                terms["discriminator"] = adversary.discriminator_loss(losses, num_passes=self.num_passes)
            for name, value in terms.items():
                metrics[name] = metrics.get(name, 0) + value.detach() / self.num_passes
        norm = accelerator.clip_grad_norm_(state.parameters, config.optimizer.max_grad_norm)
        metrics["grad_norm"] = getattr(norm, "full_tensor", lambda: norm)()  # of shards it is a sum yet to be made

        # in float16 a gradient may overflow: the scaler leaves that update out and scales less
        watched = metrics["loss"] if accelerator.scaler is not None else metrics["loss"] + metrics["grad_norm"]
        finite = bool(torch.isfinite(watched))
        if self._count(not finite):
            raise self._not_finite({} if finite else metrics, [] if finite else seen)
        set_learning_rate(state.optimizer, rate)
        state.optimizer.step()
        state.optimizer.zero_grad()
        metrics["learning_rate"] = torch.tensor(rate, device=accelerator.device)
        if adversary is not None:
            adversary.update(rate)
        state.step += 1
        state.position += self.batch_size
        state.update_ema()
        limit = config.train.max_minutes
        now = time.monotonic()
        # another update, a validation and a checkpoint must fit in
        reserve = now - began + self.validate_seconds + self.save_seconds
        out_of_time = limit is not None and now - self.started + reserve > limit * 60
        return metrics, self._count(stop.requested or out_of_time) > 0

    def _not_finite(self, metrics: Mapping[str, torch.Tensor], seen: Sequence[torch.Tensor]) -> TrainingError:
        """Returns the error to raise for a loss that is not finite; the weights are still those before it."""
        found = {"samples": torch.cat(list(seen)).tolist() if seen else []}
        found |= {"terms": [f"{name}={value.item():.3g}" for name, value in metrics.items()]}
        everyone: list[Any] = [found] * self.accelerator.num_processes
        if self.accelerator.num_processes > 1:
            torch.distributed.all_gather_object(everyone, found)
        samples = ", ".join(str(index) for one in everyone for index in one["samples"])
        terms = next(", ".join(one["terms"]) for one in everyone if one["terms"])
        newest = self.checkpoints.newest()
        kept = (
            f"the last good checkpoint is {newest} of step {self.state.saved_step}" if newest else "no checkpoint yet"
        )
        return TrainingError(
            f"the loss is not finite at step {self.state.step} ({terms}; samples {samples}); {kept}",
            code="not_finite",
            remedy="lower optimizer.learning_rate",
        )

    def _validate(self, log: RunLog) -> bool:
        """Restores and scores pictures; returns whether the result is the best so far."""
        state, by, began = self.state, self.config.validation.best_by, time.monotonic()
        better, failure = False, None
        with state.ema_components() as components:
            if self.accelerator.is_main_process:
                assert self.validate is not None
                folder = self.folder / "validation" / f"step-{state.step:08d}"
                try:
                    with self.accelerator.autocast(), torch.random.fork_rng(devices=[]):
                        scores = self.validate(merge_adapters(components), folder)
                    if by not in scores:
                        remedy = f"use {' or '.join(scores)}"
                        raise fault(self.config, "validation.best_by", "was not scored", remedy)
                    log.write_scores(state.step, scores)
                    signed = -scores[by] if by in _LOWER_IS_BETTER else scores[by]
                    better = state.best is None or signed > state.best
                    state.best = signed if better else state.best
                except Exception as error:
                    failure = error
        if self._count(failure is not None):
            self._keep(best=False)  # what was learned is not to be learned again
            raise failure or TrainingError("the main process failed in validation.")
        self.validate_seconds = max(self.validate_seconds, time.monotonic() - began)
        log.pause()
        return self._count(better) > 0

    def _keep(self, *, best: bool) -> None:
        """Writes the model and a checkpoint; of the best so far, copies of both.

        The model goes first: killed in between, the run comes here again. A model that cannot be written costs no
        checkpoint, which remembers that one is due.
        """
        began, state = time.monotonic(), self.state
        failure = self._write_models(("model", "best") if best else ("model",))
        state.exported = not self._count(failure is not None)
        if best and not state.exported:
            state.best = None  # the next one is kept
        content = state.content()
        if self.accelerator.is_main_process:
            self.checkpoints.save(content, previous_step=state.saved_step, best=best and state.exported)
        state.saved_step = state.step
        if not state.exported:
            raise failure or TrainingError("the main process could not write the model.")
        self.accelerator.wait_for_everyone()
        self.save_seconds = max(self.save_seconds, time.monotonic() - began)

    def _write_models(self, names: Sequence[str]) -> TrainingError | None:
        """Exports the averaged weights; returns what kept the main process from it."""
        with self.state.ema_components() as components:
            if self.accelerator.is_main_process:
                try:
                    merged = merge_adapters(components)
                    for name in names:
                        self.export(merged, self.folder / name)
                    save_adapters(components, self.folder / "lora")
                except TrainingError as error:
                    return error
        return None

    def _fit_memory(self) -> None:
        """Takes fewer samples at once and more passes, until a pass and the optimizer fit, alike on all processes."""
        total = self.size * self.num_passes
        for size in [size for size in range(self.size, 0, -1) if total % size == 0]:
            fits = self._fits(size)
            self.state.loss.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            if not self._count(not fits):
                self.size, self.num_passes = size, total // size
                self.accelerator.gradient_accumulation_steps = self.num_passes
                logger.info("batch_size %d in %d passes", self.size, self.num_passes)
                return
        raise TrainingError(
            "one sample at a time does not fit in the GPU's memory",
            code="out_of_memory",
            remedy="use train.gradient_checkpointing, a smaller data.crop_size, optimizer.kind=torchao_8bit or fewer"
            " parts",
        )

    def _fits(self, size: int) -> bool:
        """Returns whether a pass of so many samples fits beside the optimizer's moments."""
        state, accelerator = self.state, self.accelerator
        batch = self.collate([self.dataset[index] for index in range(size)]).to(accelerator.device)
        try:
            moments = [torch.empty_like(p) for p in state.parameters for _ in range(2)]
            with accelerator.autocast():
                losses = state.loss(batch, generator_for(0), BatchSlice(0, size, size))
            losses.total().backward()
            del moments
        except torch.OutOfMemoryError:
            return False
        return True

    def _count(self, flag: bool) -> int:
        """Returns how many processes say so."""
        if self.accelerator.num_processes == 1:
            return int(flag)
        return int(self.accelerator.reduce(torch.tensor(int(flag), device=self.accelerator.device), "sum"))

    def _mean_over_processes(self, metrics: Mapping[str, torch.Tensor]) -> dict[str, float]:
        values = torch.stack([value.float() for value in metrics.values()])
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        return dict(zip(metrics, values.tolist(), strict=True))


class _StopSignal:
    """Turns SIGTERM and SIGINT into a request to stop after the current step; a second one stops at once.

    Off the main thread it does nothing: signals are the main thread's business, and Python lets no other handle them.
    """

    requested = False

    def __enter__(self) -> "_StopSignal":
        on_main_thread = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if on_main_thread else ()
        self._previous = {number: signal.signal(number, self._request) for number in numbers}
        return self

    def _request(self, number: int, frame: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
