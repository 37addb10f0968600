"""Demonstrations: experts play, and what they did is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from noisegate_apps.data.config import CollectConfig
from noisegate_apps.play.worlds import simulator_of, tasks_in
from noisegate_apps.runs.folder import claimed
from noisegate_apps.runs.identity import identity_of
from noisegate_apps.runs.processes import worker_processes
from noisegate_apps.runs.progress import progress_bar
from robotwin_env.episodes import episode_path, write_episode
from robotwin_env.robotwin.collection import collect_task
from robotwin_env.tabletop import TabletopConfig, TabletopEnv
from robotwin_env.tabletop.recording import record

EXPERT_FAILED = "expert failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectJob:
    """One episode to record."""

    task: str
    seed: int
    path: Path


def collect_batch(config: CollectConfig, jobs: tuple[CollectJob, ...]) -> list[tuple[int, bool]]:
    """Record the jobs of one task in this process; returns each seed with whether its expert succeeded."""
    env = TabletopEnv(
        TabletopConfig(task=jobs[0].task, scene=config.scene, phrases=config.phrases, image_size=config.image_size)
    )
    results = []
    for job in jobs:
        episode = record(env, job.seed, noise=config.noise, frame_stride=config.frame_stride)
        if episode.success:
            write_episode(job.path, episode)
        else:
            job.path.with_suffix(".failed").write_text(f"{EXPERT_FAILED} on seed {job.seed}\n", encoding="utf-8")
        results.append((job.seed, bool(episode.success)))
    env.close()
    return results


def missing_jobs(config: CollectConfig, *, batch: int = 20) -> Iterator[tuple[CollectJob, ...]]:
    """Yield what is neither recorded nor known to fail, in batches of one task."""
    for task in config.tasks:
        folder = config.data_folder / task
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [CollectJob(task=task, seed=seed, path=episode_path(folder, seed)) for seed in config.seeds]
        open_jobs = [job for job in jobs if not (job.path.exists() or job.path.with_suffix(".failed").exists())]
        for start in range(0, len(open_jobs), batch):
            yield tuple(open_jobs[start : start + batch])


def run(config: CollectConfig) -> None:
    """Collect what is missing, with progress."""
    if config.env == "robotwin":
        collect_on_robotwin(config)
    else:
        collect_on_tabletop(config)


def collect_on_tabletop(config: CollectConfig) -> None:
    """Have the tabletop's experts play every scene."""
    console = Console()
    identity = {name: getattr(config, name) for name in ("scene", "phrases", "image_size", "frame_stride", "noise")}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    solved = tried = 0
    with (
        claimed(config.data_folder, "collect", config, identity, config.folder, on_tabletop=True),
        Progress(*columns, console=console) as progress,
        worker_processes(config.workers) as pool,
    ):
        batches = list(missing_jobs(config))
        bar = progress.add_task("experts", total=sum(map(len, batches)))
        for results in pool.map(collect_batch, [config] * len(batches), batches):
            tried += len(results)
            solved += sum(success for _, success in results)
            progress.update(bar, advance=len(results), description=f"experts, {solved}/{tried} solved")
    total = sum(1 for task in config.tasks for _ in (config.data_folder / task).glob("episode*.hdf5"))
    console.print(f"{total} demonstrations below {config.data_folder}; this run recorded {solved} of {tried} scenes.")


def collect_on_robotwin(config: CollectConfig) -> None:
    """Have RoboTwin's experts solve scenes, seed after seed, until there are enough."""
    console = Console()
    tasks = tasks_in(config.env, config.tasks)
    read = {"simulator": simulator_of(replace(config.robotwin, task=tasks[0]))}
    same = identity_of(config, read, without=("episodes", "tasks"))
    with claimed(config.data_folder, "collect", config, same, config.folder):
        for task in tasks:
            with progress_bar() as bar:
                shown = bar.add_task(task, total=config.scenes)

                def show(seed: int, status: str, solved: int) -> None:
                    bar.update(shown, completed=solved, description=f"{task}, seed {seed} {status}")  # noqa: B023

                found = collect_task(
                    replace(config.robotwin, task=task),
                    config.data_folder / task,
                    episodes=config.scenes,
                    first_seed=config.first_seed,
                    simulators=config.workers,
                    on_seed=show,
                )
            console.print(f"{task}: {config.scenes} demonstrations; seeds tried: {found}.")
