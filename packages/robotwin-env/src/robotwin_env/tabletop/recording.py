"""The tabletop's experts, recorded as demonstrations."""

from __future__ import annotations

import numpy as np

from ..conventions import CameraMatrices
from ..episodes import Episode
from ..errors import SplitError
from .end_effector import endpose
from .env import TabletopEnv
from .motion import CONTROL_HZ
from .world import SUBSTEPS


def record(env: TabletopEnv, seed: int, *, noise: float, frame_stride: int) -> Episode:
    """Play the expert once and return what it did, whether or not it succeeded.

    Raises:
        SplitError: the environment plays an evaluation's scenes, or the seed is one.
    """
    if env.config.split == "eval":
        raise SplitError("`split` is `eval`; demonstrations are of training's scenes.")
    observation, info = env.reset(seed=seed, options={"start_spread": noise})
    state = observation["state"]
    frames, frame_steps = [observation], [0]
    poses, matrices = [env.object_poses()], [env.camera_matrices()]
    states, actions, ended = [], [], False
    for step, action in enumerate(env.expert(noise=noise), start=1):
        outcome = env.step_chunk(np.asarray(action)[None], record_every=1 if step % frame_stride == 0 else None)
        states.append(state)
        state = outcome.observation["state"]
        actions.append(state)
        ended, info = outcome.terminated or outcome.truncated, outcome.info
        if step % frame_stride == 0:
            frames.append(outcome.observation)
            frame_steps.append(step)
            poses.append(env.object_poses())
            matrices.append(env.camera_matrices())
        if ended:
            break
    ends = np.stack([endpose(row.astype(np.float64)).reshape(2, 8)[:, :7] for row in (*states, state)])
    return Episode(
        states=np.stack(states),
        actions=np.stack(actions),
        instructions=(info["instruction"],),
        frequency=SUBSTEPS,
        steps_per_second=float(CONTROL_HZ),
        images={camera: np.stack([frame[camera] for frame in frames]) for camera in env.config.cameras},
        frame_steps=np.asarray(frame_steps, dtype=np.int32),
        ee_poses=ends.astype(np.float32),
        camera_matrices={
            camera: CameraMatrices(
                intrinsics=np.stack([seen[camera].intrinsics for seen in matrices]).astype(np.float32),
                extrinsics=np.stack([seen[camera].extrinsics for seen in matrices]).astype(np.float32),
            )
            for camera in env.config.cameras
        },
        task=env.task.name,
        seed=seed,
        success=bool(info["success"]),
        extra={name: np.stack([pose[name] for pose in poses]).astype(np.float32) for name in poses[0]},
    )
