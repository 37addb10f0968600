import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from wam_backbone import (
    Blind,
    Clock,
    ConvCodec,
    HashTextEncoder,
    Normalizer,
    Statistics,
    WorldActionModel,
    WorldActionPipeline,
    denoise,
)
from wam_backbone.errors import ConfigurationError, ShapeError, WeightsError
from wam_backbone.interface import Prediction
from wam_backbone.sampling import Sampling

SAMPLING = Sampling(action_steps=5, future_latents=2, shift=5.0, steps=4, text_length=8)
STATISTICS = Statistics(
    actions=Normalizer(center=tuple(range(7)), scale=(2.0,) * 7), states=Normalizer(center=(1.0,) * 6, scale=(0.5,) * 6)
)


@pytest.fixture
def pipeline(make_model) -> WorldActionPipeline:
    model = make_model("joint")
    model.sampling, model.statistics = SAMPLING, STATISTICS
    torch.manual_seed(4)
    codec = ConvCodec(latent_channels=4, base_width=8, image_size=(96, 64)).eval()
    return WorldActionPipeline(model, codec, HashTextEncoder(dim=10, length=8))


def scene(*batch: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    random = np.random.default_rng(0)
    pictures = {
        camera: random.integers(0, 256, (*batch, 64, 64, 3), dtype=np.uint8)
        for camera in ("head", "left_wrist", "right_wrist")
    }
    return pictures, random.normal(size=(*batch, 6))


def source() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_a_saved_folder_acts_as_what_was_saved(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = WorldActionPipeline.from_pretrained(tmp_path)
    assert loaded.sampling == SAMPLING
    assert loaded.statistics == STATISTICS
    images, state = scene()
    one, other = (each.act(images, state, "press the bell", generator=source()) for each in (pipeline, loaded))
    assert one.actions.shape == (1, 5, 7)
    assert torch.equal(one.actions, other.actions)
    assert torch.equal(one.latents, other.latents)


def test_a_saved_folder_acts_in_half_precision_on_statistics_that_are_not_rounded(pipeline, tmp_path):
    pipeline.codec.mean.fill_(0.123456)
    pipeline.save_pretrained(tmp_path)
    loaded = WorldActionPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert loaded.codec.to_first.weight.dtype == torch.bfloat16
    assert torch.equal(loaded.codec.mean, pipeline.codec.mean)
    assert torch.equal(loaded.codec.float().mean, pipeline.codec.mean)
    loaded.codec.bfloat16()
    images, state = scene()
    exact, rounded = (each.observe(images, state, "press the bell") for each in (pipeline, loaded))
    assert rounded.latent.dtype == torch.float32
    assert 0 < float((rounded.latent - exact.latent).norm() / exact.latent.norm()) < 0.02
    chunk = loaded.act(images, state, "press the bell", generator=source())
    assert bool(chunk.actions.isfinite().all())
    assert loaded.decode(chunk, rounded).shape == (1, 9, 96, 64, 3)
    every = loaded.codec.encode_every(pipeline.frames(images))
    torch.testing.assert_close(every[0], rounded.latent[:, :, 0], rtol=0.05, atol=0.05)


def test_it_acts_as_the_sampler_does_on_its_parts(pipeline):
    images, state = scene(2)
    found = pipeline.act(images, state, ["press the bell", "lift the pot"], schedule=Blind(), generator=source())
    known = pipeline.observe(images, state, ["press the bell", "lift the pot"])
    torch.testing.assert_close(known.state, torch.from_numpy((state - 1) / 0.5).float())
    expected = denoise(
        pipeline.model, known, Blind(), frames=2, action_steps=5, clock=Clock.shifted(5.0, 4), generator=source()
    )
    assert torch.equal(found.actions, STATISTICS.actions.restore(expected.actions))
    assert torch.equal(found.action_times, torch.tensor(Clock.shifted(5.0, 4).times))
    assert len(pipeline.act(images, state, "press the bell", steps=2).action_times) == 3


def test_imagination_has_its_head_start_while_the_actions_wait(pipeline):
    pipeline.model.sampling = replace(SAMPLING, head_start=0.5)
    pipeline = WorldActionPipeline(pipeline.model, pipeline.codec, pipeline.text)
    images, state = scene()
    chunk = pipeline.act(images, state, "press the bell", generator=source())
    waiting = Clock((1.0, 1.0, *Clock.shifted(5.0, 2).times))
    assert torch.equal(chunk.action_times, torch.tensor(waiting.times))
    first = torch.tensor((*Clock.shifted(5.0, 2).times, 0.0, 0.0))
    torch.testing.assert_close(chunk.times[0], first[:, None].expand(-1, 2))
    known = pipeline.observe(images, state, "press the bell")
    assert torch.equal(pipeline.plan(known, generator=source()).actions, chunk.actions)
    together = pipeline.plan(known, clock=waiting, generator=source())
    torch.testing.assert_close(together.times[0, :, 0], torch.tensor(waiting.times))


def test_a_head_start_is_a_part_of_any_number_of_calls():
    sampling = replace(SAMPLING, shift=1.0, steps=5, head_start=0.4)
    assert [sampling.clock(steps).waiting for steps in (1, 2, 3, 5, 10)] == [0, 0, 1, 2, 4]
    assert sampling.clock() == Clock.linear(3).delayed(2)
    assert sampling.video_clock() == Clock.linear(2).held(3)
    assert sampling.video_clock(2) == sampling.clock(2) == Clock.linear(2)
    assert replace(sampling, head_start=0.29).clock(100).waiting == 29  # 0.29 * 100 is below 29
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigurationError, match=r"`head_start`.*from 0 to below 1"):
            replace(sampling, head_start=wrong)


def test_a_history_of_pictures_or_latents_is_refused(pipeline):
    images, state = scene(2)
    with pytest.raises(ShapeError, match=r"`head` are \(1, 2, 64, 64, 3\).*no history"):
        pipeline.act({name: picture[None] for name, picture in images.items()}, state, "press the bell")
    observation = pipeline.observe(images, state, "press the bell")
    twice = replace(observation, latent=observation.latent.expand(-1, -1, 2, -1, -1))
    with pytest.raises(ShapeError, match=r"has 2 frames.*no history"):
        pipeline.plan(twice)


def test_what_a_models_sampling_names_is_found_beside_it_or_in_a_wan_folder(pipeline, tmp_path):
    pipeline.codec.save_pretrained(tmp_path / "codec")
    pipeline.model.sampling = replace(SAMPLING, codec="../codec")
    pipeline.model.save_pretrained(tmp_path / "backbone")
    loaded = WorldActionPipeline.from_pretrained(tmp_path / "backbone")
    images, state = scene()
    expected = pipeline.plan(pipeline.observe(images, state, "press the bell"), generator=source())
    assert torch.equal(loaded.act(images, state, "press the bell", generator=source()).actions, expected.actions)

    (tmp_path / "wan" / "vae").mkdir(parents=True)
    loaded.model.sampling = replace(SAMPLING, codec=str(tmp_path / "wan"))
    with pytest.raises(WeightsError, match=r"vae/config\.json` does not exist"):
        WorldActionPipeline.around(loaded.model, tmp_path)


def test_one_instruction_serves_all_rows_and_a_wrong_number_is_refused(pipeline):
    images, state = scene(2)
    known = pipeline.observe(images, state, "press the bell")
    assert torch.equal(known.context[0], known.context[1])
    with pytest.raises(ShapeError, match="3 instructions came for 2 rows"):
        pipeline.act(images, state, ["a", "b", "c"])


def test_steps_are_seen_and_pictures_are_free_of_noise(pipeline):
    images, state = scene()
    seen = []
    chunk = pipeline.act(images, state, "press the bell", schedule=Blind(), generator=source(), on_step=seen.append)
    assert [step.index for step in seen] == [0, 1, 2, 3]
    assert torch.equal(seen[-1].estimates, chunk.estimates)
    film = pipeline.decode(chunk, pipeline.observe(images, state, "press the bell"))
    assert film.shape == (1, 9, 96, 64, 3)
    assert film.dtype == np.uint8


def test_a_plan_goes_on_from_the_last_one(pipeline):
    images, state = scene()
    first = pipeline.act(images, state, "press the bell", generator=source())
    after = torch.Generator().manual_seed(2)
    near = pipeline.act(images, state, "press the bell", generator=after, previous=first, previous_time=0.05)
    after = torch.Generator().manual_seed(2)
    anew = pipeline.act(images, state, "press the bell", generator=after)
    after = torch.Generator().manual_seed(2)
    forgotten = pipeline.act(images, state, "press the bell", generator=after, previous=first, previous_time=1.0)
    distance = [float((plan.actions - first.actions).norm()) for plan in (near, anew)]
    assert distance[0] < 0.3 * distance[1]
    torch.testing.assert_close(forgotten.actions, anew.actions)
    assert near.action_times[0] == pytest.approx(0.05)
    after = torch.Generator().manual_seed(2)
    moved = pipeline.act(
        images, state, "press the bell", generator=after, previous=first, previous_time=0.05, executed=2
    )
    rest = torch.cat((first.actions[:, 2:], first.actions[:, -1:].expand(-1, 2, -1)), dim=1)
    assert float((moved.actions - rest).norm()) < 0.5 * float((moved.actions - first.actions).norm())
    with pytest.raises(ConfigurationError, match="`time` is 0"):
        pipeline.act(images, state, "press the bell", previous=first, previous_time=0)
    with pytest.raises(ShapeError, match=r"`warm_start.latents`"):
        pipeline.act(*scene(2), "press the bell", previous=first)


def test_actions_that_are_carried_out_in_any_case_stay_and_the_rest_follows(pipeline):
    images, state = scene()
    free = pipeline.act(images, state, "press the bell", generator=source())
    prefix = torch.full((1, 2, 7), 9.0)
    found = pipeline.act(images, state, "press the bell", generator=source(), prefix=prefix)
    torch.testing.assert_close(found.actions[:, :2], prefix)
    assert float((found.actions[:, 2:] - free.actions[:, 2:]).abs().max()) > 1e-3
    with pytest.raises(ShapeError, match="`prefix` is"):
        pipeline.act(images, state, "press the bell", prefix=torch.zeros(1, 6, 7))


def test_a_film_follows_guidance_and_repeats(pipeline):
    picture = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    options = {"steps": 3, "future_latents": 1}
    one, again = (pipeline.generate_video(picture, "a bell", generator=source(), **options) for _ in range(2))
    assert one.shape == (5, 96, 64, 3)
    assert np.array_equal(one, again)
    plain = pipeline.generate_video(picture, "a bell", generator=source(), guidance_scale=1.0, **options)
    assert not np.array_equal(plain, one)
    other = pipeline.generate_video(picture, "a bell", generator=source(), negative_prompt="a pot", **options)
    assert not np.array_equal(other, one)


def test_a_film_is_as_far_from_the_negative_prompt_as_guidance_says_and_as_noisy_as_wans_solver(pipeline, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    drifts, asked, decoded = {"a bell": 2.0, "a pot": 0.5}, [], []
    monkeypatch.setattr(pipeline, "embed", lambda words: words[0])
    monkeypatch.setattr(pipeline.model, "encode_context", lambda words, _: words)

    def straight(video, _actions, times, _action_time, words):  # what a flow is whose paths are lines
        asked.append(times[0].tolist())
        return Prediction(torch.full_like(video, drifts[words]), None)

    monkeypatch.setattr(pipeline.model, "forward", straight)
    monkeypatch.setattr(pipeline.codec, "decode", lambda latents: decoded.append(latents) or torch.zeros(1, 3, 5, 8, 8))
    options = {"steps": 3, "future_latents": 1, "negative_prompt": "a pot", "guidance_scale": 4.0}
    pipeline.generate_video(picture, "a bell", generator=source(), **options)
    noise = torch.randn((1, 4, 1, 6, 4), generator=source())
    torch.testing.assert_close(decoded[0][:, :, 1:], noise - (0.5 + 4.0 * (2.0 - 0.5)), rtol=0, atol=1e-4)
    assert len(asked) == 6  # a call each for both prompts
    wan = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    wan.set_timesteps(3)
    for (known, now), sigma in zip(asked[::2], wan.sigmas, strict=False):
        assert known == 0
        assert now == pytest.approx(float(sigma), abs=1e-3)


def test_what_does_not_say_how_it_is_sampled_is_refused(pipeline, make_model, tmp_path):
    with pytest.raises(ConfigurationError, match="lacks `sampling` or `statistics`"):
        WorldActionPipeline(make_model(), pipeline.codec, pipeline.text)
    make_model().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"has no `sampling.json`"):
        WorldActionPipeline.from_pretrained(tmp_path)
    observation = pipeline.observe(*scene(), "press the bell")
    with pytest.raises(ConfigurationError, match="pass one, such as"):
        denoise(make_model(), observation, Blind(), frames=2, action_steps=5)
    pipeline.save_pretrained(tmp_path)
    assert WorldActionModel.from_pretrained(tmp_path).sampling == SAMPLING
    found = denoise(pipeline.model, observation, Blind(), frames=2, action_steps=5)
    assert torch.equal(found.action_times, torch.tensor(Clock.shifted(5.0, 4).times))
    record = json.loads((tmp_path / "sampling.json").read_text())
    for broken in ("{", json.dumps(record | {"steps": 0}), json.dumps({"shift": 1})):
        (tmp_path / "sampling.json").write_text(broken)
        with pytest.raises(WeightsError, match="does not say how to sample"):
            WorldActionModel.from_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="must contain"):
        replace(SAMPLING, template="no place")


def test_a_codec_that_has_gone_is_named_by_its_folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    (tmp_path / "codec").rename(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match=rf"`{tmp_path}/codec` does not exist"):
        WorldActionPipeline.from_pretrained(tmp_path)


def test_statistics_of_another_robot_are_refused_before_anything_is_planned(pipeline):
    short = Normalizer(center=(0.0,) * 5, scale=(1.0,) * 5)
    pipeline.model.statistics = replace(STATISTICS, states=short)
    with pytest.raises(ConfigurationError, match="7 action and 5 state numbers; the model has 7 and 6"):
        WorldActionPipeline(pipeline.model, pipeline.codec, pipeline.text)
