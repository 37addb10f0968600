"""GRPO updates of any policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic

import torch
from torch import Tensor

from grpo_core._checkpoint import optimizer_state, restore_optimizer
from grpo_core._report import Report
from grpo_core._snapshot import Snapshot, parameters_of
from grpo_core.advantages import GroupAdvantages
from grpo_core.batch import Batch
from grpo_core.config import GRPOConfig
from grpo_core.entropy import DecayStep
from grpo_core.errors import ConfigError, LogProbMismatchError, NonFiniteError, StateError
from grpo_core.metrics import UpdateMetrics
from grpo_core.objective import Terms, denominators_of, grpo_loss
from grpo_core.policy import ActionsT, Policy, StatesT
from grpo_core.steps import Material, Step, material_of, micro_batches, optimizer_steps


class Learner(Generic[StatesT, ActionsT]):
    """Trains a policy on batches of trajectories.

    An update happens whole or not at all: if anything in it raises, weights and optimiser are what they were before.

    Args:
        policy: What to train; only its `evaluate` is used.
        optimizer: Holds the parameters to train; its learning rate may be changed between updates.
        config: Everything else.

    Raises:
        ConfigError: The optimiser holds no parameter that wants a gradient.

    References:
        NoiseGate §4.4 and appendix D.
    """

    def __init__(
        self, policy: Policy[StatesT, ActionsT], optimizer: torch.optim.Optimizer, config: GRPOConfig | None = None
    ) -> None:
        if not any(parameter.requires_grad for parameter in parameters_of(optimizer)):
            raise ConfigError("`optimizer` holds no parameter with `requires_grad`; give it those of the policy.")
        self.policy = policy
        self.optimizer = optimizer
        self.config = GRPOConfig() if config is None else config
        self._updates = 0
        self._optimizer_steps = 0

    @property
    def updates(self) -> int:
        """Updates so far, also those that made no optimiser step; a natural version of the weights."""
        return self._updates

    @property
    def entropy_weight(self) -> float:
        """Weight of the entropy bonus in the next optimiser step."""
        return self._entropy_weight(0)

    def update(self, batch: Batch[StatesT, ActionsT]) -> UpdateMetrics:
        """Makes the optimiser steps of one batch.

        Failed trajectories take no part. Degenerate groups never contribute to the surrogate; whether they take part
        in the rest is `GRPOConfig.degenerate`. If nothing takes part, no optimiser step is made, but the update counts.

        On a CUDA device the host waits once, for the report at the end (with `target_kl` once more per pass).

        Args:
            batch: Trajectories of any groups, with their decisions on the device of the policy.

        Returns:
            What happened.

        Raises:
            NonFiniteError: A reward, log-probability, loss or gradient is not finite; names the trajectories.
            LogProbMismatchError: Before the first optimiser step, re-evaluated log-probabilities differ from the
                recorded ones by more than the tolerance: `evaluate` does not fit what acted. With several
                `minibatches` the check covers the rows of the first step.
            ShapeError: `evaluate` returned another shape than was recorded.
            ConfigError: A bonus or penalty needs what the policy or the batch does not give.
        """
        _refuse_rewards(batch)
        scores = self.config.advantage(batch.rewards, batch.groups, batch.valid)
        material = material_of(self.config, batch, scores)
        report = Report()
        first_weight = self.entropy_weight
        if material is not None:
            snapshot = Snapshot(self.optimizer)
            try:
                self._train(material, report)
                self._accept(batch, material, report, snapshot)
            except BaseException:
                snapshot.restore()
                raise
            self.optimizer.zero_grad(set_to_none=True)
        metrics = _metrics(batch, scores, material, report, update=self._updates, entropy_weight=first_weight)
        self._updates += 1
        self._optimizer_steps += report.steps
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Counters and optimiser, without the policy's weights: save those beside it.

        Returns:
            `tensors`, names to tensors (fit for safetensors), and `values`, which is JSON-able.
        """
        tensors, values = optimizer_state(self.optimizer)
        counters = {"updates": self._updates, "optimizer_steps": self._optimizer_steps}
        return {"tensors": tensors, "values": {**counters, "optimizer": values}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken; with the same weights, bit for bit.

        Args:
            state: What `state_dict` returned, perhaps after a way through safetensors and JSON.

        Raises:
            StateError: The state does not belong to an optimiser over these parameters.
        """
        try:
            values = state["values"]
            updates, steps = int(values["updates"]), int(values["optimizer_steps"])
            restore_optimizer(self.optimizer, state["tensors"], values["optimizer"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"The learner's state does not fit: {error}; give what `state_dict` returned.") from error
        self._updates, self._optimizer_steps = updates, steps

    def _entropy_weight(self, steps_into_update: int) -> float:
        if self.config.entropy_decay_step is DecayStep.UPDATE:
            return self.config.entropy_weight(self._updates)
        return self.config.entropy_weight(self._optimizer_steps + steps_into_update)

    def _train(self, material: Material[StatesT, ActionsT], report: Report) -> None:
        for epoch in range(self.config.inner_epochs):
            report.begin_epoch()
            for step in optimizer_steps(self.config, material, update=self._updates, epoch=epoch):
                self._take_step(step, report)
            if self.config.target_kl is not None and report.k3_of_epoch() > self.config.target_kl:
                break

    def _take_step(self, step: Step[StatesT, ActionsT], report: Report) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        weight = self._entropy_weight(report.steps)
        parts: list[Terms] = []
        for rows, denominators in micro_batches(self.config, step):
            evaluated = self.policy.evaluate(rows.decisions.states, rows.decisions.actions)
            terms = grpo_loss(self.config, rows.record, evaluated, denominators, entropy_weight=weight)
            torch.autograd.backward(terms.loss)
            parts.append(terms._replace(loss=terms.loss.detach()))
            if report.steps == 0:
                report.note_first_pass(step.source, rows.record, evaluated.log_prob)
        limit = self.config.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(parameters_of(self.optimizer), float("inf") if limit is None else limit)
        self.optimizer.step()
        report.note_step(parts, norm)

    def _accept(
        self,
        batch: Batch[StatesT, ActionsT],
        material: Material[StatesT, ActionsT],
        report: Report,
        snapshot: Snapshot,
    ) -> None:
        """Reads the report, and refuses the update if anything in it is not finite or not as recorded."""
        report.read()
        errors = report.first_pass_errors
        owner = material.owner if report.first_pass_source is None else material.owner[report.first_pass_source]
        wrong = torch.unique(owner[~errors.isfinite()])
        if len(wrong):
            raise NonFiniteError(
                f"Log-probabilities, recorded or re-evaluated, are not finite in {_names(batch, wrong)}; "
                "nothing was trained."
            )
        tolerance = self.config.log_prob_tolerance
        if tolerance is not None and len(wrong := torch.unique(owner[errors > tolerance])):
            raise LogProbMismatchError(
                f"Re-evaluated log-probabilities differ from the recorded ones by up to {float(errors.max()):.3g} "
                f"(tolerance {tolerance:g}) in {_names(batch, wrong)}; nothing was trained. `evaluate` must see what "
                "`act` saw: the same weights, action, precision and mode (dropout off)."
            )
        bad_step = report.first_bad_step()
        if bad_step is not None:
            snapshot.restore()
            culprits = self._culprits(material)
            raise NonFiniteError(
                f"Loss or gradient is not finite in optimiser step {bad_step} of the update; "
                + (f"found in {_names(batch, culprits)}" if len(culprits) else "no single trajectory shows it at first")
                + "; nothing was trained."
            )

    def _culprits(self, material: Material[StatesT, ActionsT]) -> Tensor:
        """Trajectories that alone give a loss or gradient that is not finite, by one backward pass for each."""
        members = []
        ends = material.lengths.cumsum(0)
        for start, end in zip((ends - material.lengths).tolist(), ends.tolist(), strict=True):
            rows = material.rows.cut(start, end)
            self.optimizer.zero_grad(set_to_none=True)
            evaluated = self.policy.evaluate(rows.decisions.states, rows.decisions.actions)
            denominators = denominators_of(self.config, rows.record)
            terms = grpo_loss(self.config, rows.record, evaluated, denominators, entropy_weight=self.entropy_weight)
            torch.autograd.backward(terms.loss)
            gradients = [parameter.grad for parameter in parameters_of(self.optimizer) if parameter.grad is not None]
            if not all(bool(value.isfinite().all()) for value in [terms.loss, *gradients]):
                members.append(int(material.owner[start]))
        return torch.tensor(members, dtype=torch.long)


def _refuse_rewards(batch: Batch[Any, Any]) -> None:
    wrong = (batch.valid & ~batch.rewards.isfinite()).nonzero().squeeze(1)
    if len(wrong):
        raise NonFiniteError(
            f"The reward is {float(batch.rewards[wrong[0]])} in {_names(batch, wrong)}; nothing was trained. Mark "
            "episodes that cannot be scored as failed."
        )


def _names(batch: Batch[Any, Any], members: Tensor) -> str:
    shown = [str(batch.jobs[member]) for member in members[:3].tolist()]
    return "; ".join(shown) + (f"; and {len(members) - 3} more" if len(members) > 3 else "")


def _metrics(
    batch: Batch[Any, Any],
    scores: GroupAdvantages,
    material: Material[Any, Any] | None,
    report: Report,
    *,
    update: int,
    entropy_weight: float,
) -> UpdateMetrics:
    groups, mixed = len(scores.degenerate), int((~scores.degenerate).sum())
    rewards = batch.rewards[batch.valid]
    counts = UpdateMetrics(
        update=update,
        optimizer_steps=report.steps,
        inner_epochs=report.epochs,
        groups=groups,
        mixed_groups=mixed,
        mixed_group_rate=mixed / groups,
        trajectories=len(batch),
        failed_trajectories=int((~batch.valid).sum()),
        decisions=0 if material is None else len(material.rows),
        reward_mean=float(rewards.mean()) if len(rewards) else None,
        entropy_weight=entropy_weight,
    )
    return counts if material is None else report.complete(counts)
