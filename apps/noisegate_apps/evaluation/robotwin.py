"""Policies on RoboTwin by its official protocol: several simulators, one batched policy, resumable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noisegate_apps.evaluation.chunks import Chunks
from noisegate_apps.evaluation.statistics import Outcomes, SuccessRate
from noisegate_apps.evaluation.tabletop import Variant
from noisegate_apps.play.episodes import EpisodeJob, OnChunk, PlayedEpisode
from noisegate_apps.play.worlds import identifying
from noisegate_apps.runs.files import JsonValue
from noisegate_apps.runs.progress import progress_bar
from noisegate_apps.runs.seeds import seed_of
from robotwin_env.robotwin import RoboTwinConfig, RoboTwinEnv
from robotwin_env.robotwin.evaluation import OfficialProtocol, PlanRequest, SeedRecord, TaskResult, evaluate_task
from robotwin_env.robotwin.seeds import SeedPool, pool_key
from robotwin_env.vector import BatchedCalls, BatchingReport


@dataclass(frozen=True, slots=True, kw_only=True)
class RoboTwinScenes:
    """What every variant is put through."""

    config: RoboTwinConfig
    """Everything but the task; of an evaluation's scenes."""
    protocol: OfficialProtocol
    simulators: int = 1
    """Processes per task; results do not depend on it."""
    seed_pools: Path | None = None
    """Folder of seed pools that spare the expert; without one, every variant has all seeds checked."""
    replan_after: int | None = None
    """Actions of a chunk that are played before the next plan; all where `None`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTask:
    """One variant on one task."""

    result: TaskResult
    identity: JsonValue
    """What the result depends on besides the policy."""
    batching: BatchingReport
    """How the policy was called in this run."""
    chunks: JsonValue = field(default_factory=dict)
    """What is known of the chunks of its episodes (`Chunks.of`)."""

    def record(self) -> JsonValue:
        """Return the JSON form."""
        result = self.result
        return {
            **SuccessRate.of(result.outcomes).record(),
            "identity": self.identity,
            "seeds": [episode.seed for episode in result.episodes],
            "outcomes": result.outcomes,
            "seeds_tried": result.tried,
            "seeds_dropped": dict(result.rejected),
            "env_failures": [asdict(failure) for failure in result.env_failures],
            "batching": asdict(self.batching),
            **self.chunks,
        }


Measurements = Mapping[str, Mapping[str, MeasuredTask]]
"""Variant to task to measurement."""


def evaluate_on_robotwin(
    variants: Sequence[Variant],
    tasks: Sequence[str],
    scenes: RoboTwinScenes,
    folder: Path,
    *,
    on_task: Callable[[Measurements], None],
) -> Measurements:
    """Evaluate every variant on every task; what `folder` already holds is not played again.

    Args:
        variants: Policies with their schedules.
        tasks: RoboTwin's names.
        scenes: How they are evaluated.
        folder: Where the seeds' records lie, as `<variant>/<task>.json`.
        on_task: Called with everything that is known, after every task of every variant.
    """
    measured: dict[str, dict[str, MeasuredTask]] = {variant.name: {} for variant in variants}
    episodes = scenes.protocol.episodes
    with progress_bar() as bar:
        progress = bar.add_task("evaluation", total=len(variants) * len(tasks) * episodes)
        for place, (task, variant) in enumerate((task, variant) for task in tasks for variant in variants):
            played: list[SeedRecord] = []

            def show(seed: SeedRecord, played: list[SeedRecord] = played, name: str = variant.name) -> None:
                played += [seed] if seed.outcome is not None else []
                solved = sum(episode.success for episode in played)
                live = f"evaluation: {name}, {task}, {solved}/{len(played)} solved, seed {seed.seed}"  # noqa: B023
                bar.update(progress, completed=place * episodes + len(played), description=live)  # noqa: B023

            record = folder / variant.name / f"{task}.json"
            measured[variant.name][task] = _evaluate(variant, task, scenes, record, on_seed=show)
            bar.update(progress, completed=(place + 1) * episodes)
            on_task(measured)
    return measured


def outcomes_of(measured: Measurements) -> dict[str, Outcomes]:
    """Return variant to task to the success of each scene."""
    return {name: {task: one.result.outcomes for task, one in found.items()} for name, found in measured.items()}


def _evaluate(
    variant: Variant, task: str, scenes: RoboTwinScenes, record: Path, *, on_seed: Callable[[SeedRecord], None]
) -> MeasuredTask:
    config = replace(scenes.config, task=task)
    with ExitStack() as closing:
        envs = [RoboTwinEnv(config) for _ in range(scenes.simulators)]
        for env in envs:
            closing.callback(env.close)
        described = envs[0].describe()
        key = pool_key(config, described)
        identity = {
            "variant": variant.name,
            "policy": variant.policy.digest,
            "clock": list(variant.policy.clock.times),
            "video_clock": list(variant.policy.video_clock.times),
            "schedule": variant.schedule,
            "task": task,
            "task_config": key.task_config,
            "control": config.control,
            "action_mode": config.action_mode,
            "replan_after": scenes.replan_after,
            "simulator": identifying(described),
        }
        chunks = Chunks(record.with_suffix(".chunks.jsonl"))

        def done(seed: SeedRecord) -> None:
            if seed.outcome is not None:
                chunks.keep(seed.seed)
            on_seed(seed)

        answer = _plans_of(variant, config, envs[0], scenes.replan_after, chunks)
        plan: BatchedCalls[PlanRequest, NDArray[Any]] = BatchedCalls(answer, max_batch=len(envs))
        result = evaluate_task(
            envs,
            plan,
            scenes.protocol,
            record=record,
            identity=identity,
            pool=None if scenes.seed_pools is None else SeedPool.open(scenes.seed_pools, key),
            on_seed=done,
        )
        known = chunks.of([episode.seed for episode in result.episodes])
        return MeasuredTask(result=result, identity=identity, batching=plan.report(), chunks=known)


def _plans_of(
    variant: Variant, config: RoboTwinConfig, env: RoboTwinEnv, replan_after: int | None, on_chunk: OnChunk
) -> Callable[[Sequence[PlanRequest]], list[NDArray[Any]]]:
    low, high = env.limits.low, env.limits.high

    def answer(requests: Sequence[PlanRequest]) -> list[NDArray[Any]]:
        rows = [_row(config, request) for request in requests]
        schedule = variant.choose(rows)
        plan = variant.policy.plan(
            [row.observation for row in rows],
            [row.instruction for row in rows],
            schedule,
            [(row.job.noise_seed, row.chunks) for row in rows],
        )
        on_chunk(rows, schedule, plan)
        return [np.clip(actions[:replan_after], low, high) for actions in plan.actions]

    return answer


def _row(config: RoboTwinConfig, request: PlanRequest) -> PlayedEpisode:
    """The request as a row of the closed loop."""
    return PlayedEpisode(
        job=episode_job(config, request.seed),
        observation=request.observation,
        instruction=request.instruction,
        chunks=request.chunk,
        steps=request.step,
    )


def episode_job(config: RoboTwinConfig, seed: int) -> EpisodeJob:
    """Return an evaluation's episode: its noise depends on task and scene alone, so that variants pair up."""
    return EpisodeJob(config=config, seed=seed, noise_seed=seed_of("evaluation", config.task, seed))
