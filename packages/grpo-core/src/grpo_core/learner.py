"""GRPO updates of any policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, Generic

import torch
from torch import Tensor

from grpo_core._refusal import RecordCheck, Snapshot, names, parameters_of, refuse_advantages, refuse_batch
from grpo_core._tensors import copied, to_device
from grpo_core.advantages import mixed_groups
from grpo_core.config import GRPOConfig
from grpo_core.distributed import Ranks, is_sharded
from grpo_core.errors import ConfigError, LogProbMismatchError, NonFiniteError, PrecisionError, StateError
from grpo_core.groups import stable_seed
from grpo_core.losses import k3
from grpo_core.metrics import Report, UpdateMetrics
from grpo_core.objective import Average, Terms, checked, terms_of
from grpo_core.trajectory import ActionsT, Batch, Evaluated, Policy, StatesT

Rows = Batch[Any, Any]
"""Some decisions of an update."""


class Learner(Generic[StatesT, ActionsT]):
    """Trains a policy on batches of trajectories.

    An update happens whole or not at all: if anything in it raises, weights, buffers and optimiser stay as they were.

    On several processes, give every one of them the same batch (`gather`) and a policy that is spread over them:
    `DistributedDataParallel` around a module whose `forward(states, actions)` evaluates, or one that `fully_shard`
    (FSDP2) was applied to, whose `evaluate`, if any, is then made to gather its weights, as a reference's is. Every
    process evaluates its part of each optimiser step; all count over the whole step, and all refuse or none.

    Args:
        policy: What to train; only its `evaluate` is used, or itself if it has none.
        optimizer: Holds the parameters to train; its learning rate may be changed between updates.
        config: Everything else.
        reference: What a KL penalty holds the policy close to: another policy, with weights of its own that nothing
            changes. Costs one forward pass through it per update.

    Raises:
        ConfigError: The optimiser holds no parameter that wants a gradient, or a penalty lacks its reference.
        PrecisionError: It holds parameters in float16, whose gradients would need a loss scaler.
    """

    def __init__(
        self,
        policy: Policy[StatesT, ActionsT],
        optimizer: torch.optim.Optimizer,
        config: GRPOConfig | None = None,
        *,
        reference: Policy[StatesT, ActionsT] | None = None,
    ) -> None:
        trained = [parameter for parameter in parameters_of(optimizer) if parameter.requires_grad]
        if not trained:
            raise ConfigError("`optimizer` holds no parameter with `requires_grad`; give it those of the policy.")
        if any(parameter.dtype == torch.float16 for parameter in trained):
            wrong = "`optimizer` holds parameters in float16, whose gradients underflow without a loss scaler"
            raise PrecisionError(f"{wrong}; keep them in float32 and set `bfloat16` for the forward passes.")
        self.policy = policy
        self.optimizer = optimizer
        self.config = GRPOConfig() if config is None else config
        self.reference = reference
        if self.config.kl_weight > 0 and reference is None:
            raise ConfigError(f"`kl_weight` is {self.config.kl_weight}, but there is no `reference`; give one.")
        self._ranks = Ranks.of(policy)
        for module in (policy, reference):
            if is_sharded(module) and hasattr(module, "evaluate"):
                from torch.distributed.fsdp import register_fsdp_forward_method

                register_fsdp_forward_method(module, "evaluate")
        self._updates = self._optimizer_steps = self._refusals = 0

    @property
    def updates(self) -> int:
        """Updates so far, with or without a step; a natural version of the weights."""
        return self._updates

    @property
    def entropy_weight(self) -> float:
        """Weight of the entropy bonus in the next optimiser step."""
        return self.config.entropy_weight(self._optimizer_steps)

    def update(
        self, batch: Batch[StatesT, ActionsT], advantages: Tensor | None = None, *, version: int | None = None
    ) -> UpdateMetrics:
        """Makes the optimiser steps of one batch.

        Failed trajectories take no part, nor do groups without any advantage (`GRPOConfig.drop_degenerate`). If nothing
        takes part, no optimiser step is made, but the update counts.

        On a CUDA device nothing waits for the device until the last step is made, and then once, but for `target_kl`,
        which reads a number before every step, and several processes, which agree on the record before the first one.

        Args:
            batch: Trajectories of any groups, with their decisions on the device of the policy; perhaps none.
            advantages: On the CPU: one per trajectory, or one per decision (rows, 1) or component (rows, components),
                for credit within an episode, of which coarser levels take the mean; None for `GRPOConfig.advantage`.
            version: Version of the policy's weights, from which `staleness` counts ages; None for `updates`.

        Raises:
            NonFiniteError: A reward, advantage, log-probability, loss or gradient is not finite; names the
                trajectories. Raised like the next one only as `GRPOConfig.on_refusal` says.
            LogProbMismatchError: Log-probabilities, re-evaluated before the first step, differ from the recorded
                ones by more than the tolerance. It raises before that step, on a CUDA device once the numbers are back.
            TrajectoryError: With `staleness`, decisions are of a later version than the weights.
            ShapeError: `evaluate` returned another shape than was recorded, or `advantages` do not fit the batch.
            PrecisionError: It returned log-probabilities in half precision.
            ConfigError: An entropy bonus needs entropies that the policy does not give.
        """
        rewards = batch.rewards[batch.valid]
        mixed = mixed_groups(batch.rewards, batch.groups, batch.valid)
        metrics = UpdateMetrics(
            update=self._updates,
            entropy_weight=self.entropy_weight,
            learning_rate=float(self.optimizer.param_groups[0]["lr"]),
            groups=len(mixed),
            mixed_groups=int(mixed.sum()),
            trajectories=len(batch),
            failed_trajectories=int((~batch.valid).sum()),
            reward_mean=float(rewards.mean()) if len(rewards) else None,
        )
        try:
            metrics = self._attempt(batch, advantages, metrics, self._updates if version is None else version)
        except (NonFiniteError, LogProbMismatchError) as error:
            self._refusals += 1
            if self.config.on_refusal == "raise" or self._refusals > self.config.max_refusals:
                raise
            metrics = replace(metrics, refused=str(error))
        else:
            self._refusals = 0
        self._updates += 1
        self._optimizer_steps += metrics.optimizer_steps
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Copies of the counters and of the optimiser's state, without the policy's weights: save those beside it."""
        counters = {"updates": self._updates, "optimizer_steps": self._optimizer_steps, "refusals": self._refusals}
        return {**counters, "optimizer": copied(self.optimizer.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken, bit for bit; `StateError` if that was over other parameters."""
        try:
            counters = [int(state[name]) for name in ("updates", "optimizer_steps", "refusals")]
            optimizer = copied(state["optimizer"])
            for index, parameter in enumerate(parameters_of(self.optimizer)):
                for name, value in optimizer["state"].get(index, {}).items():
                    if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                        shapes = f"shape {tuple(value.shape)}, the parameter {tuple(parameter.shape)}"
                        raise StateError(f"saved `{name}` of parameter {index} has {shapes}")
            self.optimizer.load_state_dict(optimizer)
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"The learner's state does not fit: {error}; give what `state_dict` returned.") from error
        self._updates, self._optimizer_steps, self._refusals = counters

    def _attempt(self, batch: Rows, advantages: Tensor | None, metrics: UpdateMetrics, version: int) -> UpdateMetrics:
        config = self.config
        refuse_batch(batch, None if config.staleness is None else version)
        if advantages is None:
            advantages = config.advantage(batch.rewards, batch.groups, batch.valid)
        refuse_advantages(batch, advantages)
        rows, too_old = taking_part(config, batch, advantages, version=version)
        metrics = replace(metrics, too_old_decisions=too_old)
        if not len(rows.owner):
            return metrics
        report, snapshot = Report(self._ranks), Snapshot(self.optimizer, self.policy)
        try:
            if self.reference is not None and config.kl_weight > 0:
                rows = replace(rows, reference=self._log_prob(self.reference, rows))
            if config.staleness is not None:
                rows = replace(rows, old_log_prob=self._log_prob(self.policy, rows))
                report.note_weights(rows, config.level, config.staleness.high)
            check = self._train(rows, report, version)
            error = check.settle()
            report.read()
            if (bad_step := report.first_bad_step()) is not None:
                snapshot.restore()
                culprits = self._culprits(rows)
                blame = f"found in {names(batch, culprits)}" if len(culprits) else "no single trajectory shows it"
                wrong = f"Loss or gradient is not finite in optimiser step {bad_step} of the update"
                raise NonFiniteError(f"{wrong}; {blame}; nothing was trained.")
            if config.learning_rate is not None and report.approx_kl is not None:
                config.learning_rate.apply(self.optimizer, report.approx_kl)
        except BaseException:
            snapshot.restore()
            raise
        self.optimizer.zero_grad(set_to_none=True)
        stale = 0 if config.staleness is None else int((batch.versions[rows.owner] < version).sum())
        return report.complete(replace(metrics, decisions=len(rows.owner), stale_decisions=stale, log_prob_error=error))

    def _train(self, rows: Rows, report: Report, version: int) -> RecordCheck:
        """Makes the steps, and the comparison with the record before the first one."""
        config, whole = self.config, Average.of(self.config, rows, rows)
        fresh = rows.versions[rows.owner] == version if config.staleness else rows.owner >= 0
        check = RecordCheck(config, rows, fresh)
        if config.minibatches > 1:  # no step sees all rows before the weights move
            check.note(rows, slice(None), rows.old if config.staleness else self._log_prob(self.policy, rows))
            check.send(Ranks())
        for epoch in range(config.inner_epochs):
            report.begin_epoch()
            for step in steps_of(config, rows, update=self._updates, epoch=epoch):
                average = whole if step is rows else Average.of(config, rows, step)
                if not self._take_step(step, average, report, check):
                    return check
        if config.learning_rate is not None:
            now = self._log_prob(self.policy, rows)
            estimates = torch.where(rows.mask, k3(rows.old.to(now.dtype), now), 0)
            report.divergence = estimates.sum() / rows.mask.sum().clamp(min=1)
        return check

    def _take_step(self, step: Rows, average: Average, report: Report, check: RecordCheck) -> bool:
        """Makes an optimiser step, unless the policy has gone far enough."""
        self.optimizer.zero_grad(set_to_none=True)
        weight = self.config.entropy_weight(self._optimizer_steps + report.steps)
        compares = not report.steps and self.config.minibatches == 1
        parts: list[Terms] = []
        for part, place in self._parts(step):
            terms, log_prob = self._backward(part, average, weight)
            parts.append(terms)
            if place is not None and compares:
                check.note(part, place, log_prob)
        if compares:
            check.send(self._ranks)
        check.settle(wait=self._ranks.count > 1)
        if self.config.target_kl is not None:
            divergence = self._ranks.sum(torch.stack([part.approx_kl for part in parts]).sum())
            if float(divergence) > self.config.target_kl:
                report.divergence = divergence
                return False
        limit = self.config.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(parameters_of(self.optimizer), limit)
        self.optimizer.step()
        whole = getattr(norm, "full_tensor", None)  # of a sharded policy
        report.note_step(parts, norm if whole is None else whole())
        return True

    def _parts(self, step: Rows) -> Iterator[tuple[Rows, slice | None]]:
        """This process's micro-batches of a step and their places in it; every process gets equally many."""
        bounds = bounds_of(self.config, step, shares=self._ranks.count)
        for first in range(0, len(bounds), self._ranks.count):
            number = first + self._ranks.rank
            if number < len(bounds):
                yield step.cut(*bounds[number]), slice(*bounds[number])
            else:  # nothing in it counts
                part = step.cut(0, 1)
                yield replace(part, decisions=replace(part.decisions, mask=torch.zeros_like(part.mask))), None

    def _backward(self, rows: Rows, average: Average, entropy_weight: float) -> tuple[Terms, Tensor]:
        """Adds the gradient of some rows; returns their terms and log-probabilities, detached."""
        evaluated = self._evaluate(self.policy, rows)
        terms = terms_of(self.config, rows, evaluated, average, entropy_weight=entropy_weight)
        torch.autograd.backward(terms.loss * self._ranks.count)  # processes average their gradients
        return terms._replace(loss=terms.loss.detach()), evaluated.log_prob.detach()

    def _log_prob(self, policy: Policy[StatesT, ActionsT], rows: Rows) -> Tensor:
        """Log-probabilities of all rows, without gradient; every process evaluates all of them."""
        count = len(rows.owner)
        limit = self.config.micro_rows or count
        with torch.no_grad():
            parts = [rows.cut(start, start + limit) for start in range(0, count, limit)]
            return torch.cat([checked(self._evaluate(policy, part).log_prob, part) for part in parts])

    def _evaluate(self, policy: Policy[StatesT, ActionsT], rows: Rows) -> Evaluated:
        evaluate: Any = getattr(policy, "evaluate", policy)
        device = rows.decisions.log_prob.device.type
        with torch.autocast(device, dtype=torch.bfloat16) if self.config.bfloat16 else nullcontext():
            evaluated: Evaluated = evaluate(rows.decisions.states, rows.decisions.actions)
        return evaluated

    def _culprits(self, rows: Rows) -> Tensor:
        """Trajectories that alone give a loss or gradient that is not finite, by one backward pass for each."""
        members = []
        for member in torch.unique(rows.owner).tolist():
            own = rows.take((rows.owner == member).nonzero().squeeze(1))
            self.optimizer.zero_grad(set_to_none=True)
            terms, _ = self._backward(own, Average.of(self.config, own, own), self.entropy_weight)
            gradients = [parameter.grad for parameter in parameters_of(self.optimizer) if parameter.grad is not None]
            if not all(bool(value.isfinite().all()) for value in [terms.loss, *gradients]):
                members.append(member)
        return torch.tensor(members, dtype=torch.long)


def taking_part(config: GRPOConfig, batch: Rows, advantages: Tensor, *, version: int) -> tuple[Rows, int]:
    """The decisions whose group teaches and that are not too old, with their advantages; and how many are too old."""
    owner = batch.owner
    per_row = advantages if advantages.ndim == 2 else advantages[owner].unsqueeze(1)
    chosen = batch.valid[owner]
    if config.drop_degenerate and len(owner):
        teaches = torch.zeros(len(batch), dtype=torch.bool)  # by group, of which there are no more
        teaches[batch.groups[owner[(per_row != 0).any(dim=1)]]] = True
        chosen = chosen & teaches[batch.groups[owner]]
    limit = None if config.staleness is None else config.staleness.max_age
    young = torch.ones_like(chosen) if limit is None else version - batch.versions[owner] <= limit
    kept = (chosen & young).nonzero().squeeze(1)
    part = batch if len(kept) == len(owner) else batch.take(kept)
    recorded = part.decisions.log_prob
    scores = per_row[kept].to(torch.promote_types(recorded.dtype, torch.float32))
    decisions = replace(part.decisions, mask=part.mask)
    part = replace(part, decisions=decisions, advantages=to_device(scores, recorded.device))
    return part, int((chosen & ~young).sum())


def steps_of(config: GRPOConfig, rows: Rows, *, update: int, epoch: int) -> Iterator[Rows]:
    """The decisions of each optimiser step of a pass, by a draw that (seed, update, epoch) determine.

    A level that needs whole trajectories divides trajectories, any other level single decisions.
    """
    if config.minibatches == 1:
        yield rows
        return
    whole = config.level.whole_trajectories
    place = torch.unique(rows.owner, return_inverse=True)[1] if whole else torch.arange(len(rows.owner))
    members = int(place[-1]) + 1
    generator = torch.Generator().manual_seed(stable_seed(config.seed, "shuffle", update, epoch))
    for part in torch.randperm(members, generator=generator).tensor_split(min(config.minibatches, members)):
        yield rows.take(torch.isin(place, part).nonzero().squeeze(1))


def bounds_of(config: GRPOConfig, step: Rows, *, shares: int) -> list[tuple[int, int]]:
    """Cuts an optimiser step into parts of at most `micro_rows` and, as far as it goes, at least `shares` of them.

    Parts of a level that needs whole trajectories exceed the limit by as much as one trajectory does.
    """
    rows = len(step.owner)
    limit = min(-(-rows // shares), config.micro_rows or rows)
    if not config.level.whole_trajectories:
        return [(start, min(start + limit, rows)) for start in range(0, rows, limit)]
    found, start, before = [], 0, 0
    for end in [*(step.owner.diff().nonzero().squeeze(1) + 1).tolist(), rows]:
        if end - start > limit and before > start:
            found.append((start, before))
            start = before
        before = end
    return [*found, (start, before)]
