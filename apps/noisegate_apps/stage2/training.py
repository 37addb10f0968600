"""Stage 2: the gate is trained on task success, the world model frozen."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from torch import Tensor

from grpo_core import (
    AdaptiveLearningRate,
    Decisions,
    ExponentialDecay,
    GRPOConfig,
    Learner,
    MixedAllocation,
    RoundRobin,
    are_mixed,
    clipped,
    collate,
    collect_groups,
    group_std,
    mean_only,
)
from grpo_core.collection import Collected
from noisegate_apps.data.transitions import to_learn_from
from noisegate_apps.evaluation.lattice import lattice_beside
from noisegate_apps.play.worlds import at_policy_size, scene_of, simulator_of, tasks_of
from noisegate_apps.policy.loading import load_policy
from noisegate_apps.policy.world import WorldPolicy
from noisegate_apps.report.page import announce
from noisegate_apps.runs.devices import one_thread
from noisegate_apps.runs.files import JsonValue, read_json
from noisegate_apps.runs.folder import RunFolder, claimed
from noisegate_apps.runs.identity import identity_of
from noisegate_apps.runs.progress import progress_bar
from noisegate_apps.runs.state import TrainingState
from noisegate_apps.runs.tracking import tracked
from noisegate_apps.stage2.comparison import compare, playing_ahead
from noisegate_apps.stage2.config import Stage2Config
from noisegate_apps.stage2.gate import new_gate
from noisegate_apps.stage2.orientation import orient
from noisegate_apps.stage2.rollout import schedule_statistics
from noisegate_apps.stage2.workers import GateExecutor, GateWorkers, counted, gate_executor
from noisegate_gpn import GatingPolicyNetwork
from robotwin_env.robotwin.collection import usable_seeds
from robotwin_env.splits import FIRST_SEEDS, check_seeds
from wam_backbone.data import digest_of

TRAINING_SEEDS = range(FIRST_SEEDS["train"], FIRST_SEEDS["train"] + 1_000)
"""Scene seeds of Stage 2: neither demonstrations nor evaluation use them."""


Seeds = Mapping[str, range | tuple[int, ...]]
"""Task to the scene seeds of its groups."""


def training_seeds(config: Stage2Config) -> Seeds:
    """Return each task's scene seeds: the same for all, or of RoboTwin those that are known to be good.

    Raises:
        SeedPoolError: If a pool is empty, or from before training's scenes were told from an evaluation's.
        SplitError: If one of the seeds may be played by an evaluation.
    """
    if config.env == "tabletop" or config.seed_pools is None:
        check_seeds(TRAINING_SEEDS, "train")
        return dict.fromkeys(config.tasks, TRAINING_SEEDS)
    return {task: usable_seeds(replace(config.robotwin, task=task), config.seed_pools) for task in config.tasks}


def group_source(config: Stage2Config, seeds: Seeds | None = None) -> RoundRobin:
    """Make what says which group is played next, of `training_seeds` unless told."""
    sampling = config.sampling
    make = RoundRobin if sampling.revisit is None else partial(MixedAllocation, revisit=sampling.revisit, explore=1.0)
    seeds = seeds or training_seeds(config)
    known = sorted(set().union(*seeds.values()))
    groups = make(config.tasks, known, size=config.group_size, antithetic=sampling.antithetic, run_seed=config.seed)
    for task, own in seeds.items():
        for seed in set(known).difference(own):
            groups.exclude(task, seed)
    return groups


def collect(
    config: Stage2Config, groups: RoundRobin, executor: GateExecutor
) -> Collected[Mapping[str, Tensor], Tensor]:
    """Play the episodes of an epoch."""
    wanted, most = config.sampling.mixed_groups, config.episodes_per_epoch
    if wanted is None:
        return collect_groups(groups, executor, groups=most // config.group_size)
    return collect_groups(groups, executor, groups=wanted, max_episodes=most, keep=are_mixed)


def measure(gate: GatingPolicyNetwork, first: Decisions[Mapping[str, Tensor], Tensor], *, oriented: bool) -> None:
    """Measure instructions and features from their mean in the first states, where an untrained gate decides the same.

    Features are measured once they have learned something: those of an untrained gate hardly vary.
    """
    acts = torch.ones(len(first), dtype=torch.bool) if first.mask is None else first.mask.any(dim=1)
    if not bool(acts.any()):
        return
    states = {name: tensor[acts] for name, tensor in first.states.items()}
    if gate.config.context_dim:
        gate.standardize(states["context"])
    if oriented:
        gate.standardize_features(states)


def look_around(config: Stage2Config, policy: WorldPolicy, gate: GatingPolicyNetwork) -> None:
    """Let the gate learn to see, from what followed in the policy's demonstrations."""
    transitions = to_learn_from(policy.transitions)
    found = orient(gate, transitions, steps=config.orient, seed=config.seed)
    Console(stderr=True).print(
        f"the gate has seen what followed in {sum(len(clips) for clips in transitions.values())} demonstrations: of "
        f"others it tells in {100 * found.accuracy:.0f}% whether a noisy latent follows from the observation (by "
        f"chance {100 * found.chance:.0f}%)"
    )


def players(
    config: Stage2Config, policy: WorldPolicy, gate: GatingPolicyNetwork
) -> AbstractContextManager[GateExecutor]:
    """Open the executor that plays training episodes."""
    workers = GateWorkers(
        policy=config.policy.resolve(),
        denoising_steps=config.denoising_steps,
        head_start=config.head_start,
        gate=gate.config,
        scene=scene_of(config.scene, config.policy),
        robotwin=at_policy_size(config.robotwin, config.policy) if config.env == "robotwin" else None,
        common_noise=config.common_noise,
        exploration=config.exploration,
        imagination=config.imagination,
        step_price=config.step_price,
        tasks=config.tasks,
        episodes=config.members_per_call or config.group_size,
        device=config.device,
    )
    return gate_executor(
        config.executor_on(policy.device.type),
        workers,
        policy,
        gate,
        workers=config.workers,
        members_per_call=config.members_per_call,
        deadline=config.call_deadline,
        ray_address=config.ray_address,
        gpus=config.rollout_gpus,
    )


def played(collected: Collected[Mapping[str, Tensor], Tensor]) -> dict[str, float]:
    """Return what the episodes of an epoch were like: how many, how good, and how the times of their latents fell."""
    found = {"episodes": float(collected.episodes), "acceptance": collected.acceptance}
    if collected.reward_mean is not None:  # of all episodes, also those of groups that were dropped
        found["reward_mean"] = collected.reward_mean
    return found | schedule_statistics(collected.trajectories)


@one_thread()
def train(
    config: Stage2Config, folder: RunFolder, policy: WorldPolicy, *, seeds: Seeds | None = None
) -> GatingPolicyNetwork:
    """Train the gate, going on from the last finished epoch.

    Args:
        config: Of the run; what it leaves to the policy is the policy's.
        folder: Where its state and metrics are kept.
        policy: That plans, frozen.
        seeds: Of `training_seeds`, where they are already known.
    """
    config = resolved(config, policy)
    set_seed(config.seed)
    gate = new_gate(config.gate, policy).to(policy.device)
    start = new_gate(config.gate, policy).to(policy.device) if config.pull else None  # untrained: one for all states
    optimizer = torch.optim.AdamW(gate.parameters(), lr=config.learning_rate)
    learner = Learner(
        gate,
        optimizer,
        reference=start,
        config=GRPOConfig(
            advantage=mean_only if config.step_price else group_std,
            surrogate=partial(clipped, low=config.clip, high=config.clip),
            entropy_weight=ExponentialDecay(start=config.entropy_weight, decay=config.entropy_decay, floor=0.0),
            kl_weight=config.pull,
            inner_epochs=config.inner_epochs,
            max_grad_norm=config.max_grad_norm,
            learning_rate=None if config.kl is None else AdaptiveLearningRate(low=config.kl[0], high=config.kl[1]),
            seed=config.seed,
        ),
    )
    groups = group_source(config, seeds)
    state = TrainingState(folder.path / "state", {"gate": gate, "learner": learner, "groups": groups})
    done = state.resume()
    begins = config.orient > 0 and not done
    if done >= config.epochs and not begins:
        return gate
    accelerator = tracked(Accelerator(cpu=True), folder, resumed_at=done)
    with players(config, policy, gate) as executor:
        if begins:  # while workers start
            look_around(config, policy, gate)
        with progress_bar() as bar:
            progress = bar.add_task("stage 2", completed=done, total=config.epochs)
            for epoch in range(done, config.epochs):
                weights = {name: tensor.cpu() for name, tensor in gate.state_dict().items()}
                executor.set_weights(learner.updates, weights)
                collected = collect(config, groups, executor)
                batch = collate(collected.trajectories, device=policy.device)
                if not optimizer.state:  # before the first step
                    measure(gate, batch.decisions, oriented=config.orient > 0)
                if config.kl is None:
                    for parameters in optimizer.param_groups:
                        parameters["lr"] = config.learning_rate_of(epoch)
                metrics = {name: value for name, value in asdict(learner.update(batch)).items() if value is not None}
                accelerator.log({**metrics, **played(collected), **counted(executor.events)}, step=epoch + 1)
                state.save(epoch + 1)
                rates = [line["reward_mean"] for line in list(folder.history())[-10:] if "reward_mean" in line]
                success = f"{100 * sum(rates) / len(rates):.0f}%" if rates else "unknown"
                bar.update(progress, advance=1, description=f"stage 2, success of the last 10 epochs {success}")
    accelerator.end_training()
    return gate


def digests_of(config: Stage2Config, policy: WorldPolicy, seeds: Seeds) -> dict[str, JsonValue]:
    """Return what a run reads, by the option that names it, and on RoboTwin the simulator that it plays in."""
    found = {"policy": policy.digest, "lattice": None if config.lattice is None else read_json(config.lattice)}
    if config.env == "robotwin":
        found["simulator"] = simulator_of(replace(config.robotwin, task=config.tasks[0]))
        if config.seed_pools is not None:
            found["seed_pools"] = digest_of({task: list(own) for task, own in seeds.items()})
    return found


def resolved(config: Stage2Config, policy: WorldPolicy) -> Stage2Config:
    """Return a configuration whose tasks, scenes and imagination are decided: the policy's, unless given."""
    tasks = tasks_of(config.env, config.tasks, config.policy)
    known = () if config.env == "robotwin" else tuple(policy.transitions)
    return replace(
        config,
        tasks=tasks,
        scene=scene_of(config.scene, config.policy),
        imagination=config.imagination.resolved(tasks, known),
    )


def run(config: Stage2Config) -> None:
    """Train, save the gate, and compare."""
    if config.executor not in ("auto", "in-process") and config.calls_per_epoch < config.workers:
        Console(stderr=True).print(
            f"note: an epoch makes {config.calls_per_epoch} calls for {config.workers} workers, so that some are idle; "
            "`--members-per-call 1` makes every episode a call of its own."
        )
    policy = load_policy(
        config.policy, steps=config.denoising_steps, head_start=config.head_start, device=config.device
    )
    if config.orient:
        to_learn_from(policy.transitions)  # too few are refused before the folder is claimed
    config = resolved(config, policy)
    own_clocks = config.denoising_steps is None and config.head_start is None
    beside = lattice_beside(config.policy, config.imagination, config.tasks, own_clocks=own_clocks)
    config = replace(config, lattice=config.lattice or beside)
    seeds = training_seeds(config)
    same = identity_of(config, digests_of(config, policy, seeds))
    with claimed(config.out, "stage2", config, same, config.folder, on_tabletop=config.env == "tabletop") as folder:
        with playing_ahead(config, folder, policy):
            gate = train(config, folder, policy, seeds=seeds)
        gate.save_pretrained(folder.path / "gate")
        if not config.skip_eval:
            compare(config, folder, policy, gate)
        announce(folder.path)
