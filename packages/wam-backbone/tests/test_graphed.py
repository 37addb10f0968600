import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._pytree import tree_leaves

from wam_backbone import (
    Clock,
    GraphedModel,
    MatrixSchedule,
    Observation,
    SharedSchedule,
    Stage1Batch,
    Stage1Recipe,
    denoise,
    denoise_actions,
    stage1_loss,
)
from wam_backbone.errors import ConfigurationError
from wam_backbone.graphed import cuda_graph
from wam_backbone.training import Adapter, GraphedLoss, add_adapters, merge_adapters

FRAMES, STEPS = 2, 5
CHUNK = {"frames": FRAMES, "action_steps": STEPS, "clock": Clock.linear()}
CUDA = torch.cuda.is_available()


def observations(device="cpu") -> list[Observation]:
    torch.manual_seed(0)
    shapes = {"latent": (3, 4, 1, 4, 6), "context": (3, 8, 10), "state": (3, 6)}
    return [Observation(**{name: torch.randn(shape, device=device) for name, shape in shapes.items()}) for _ in "ab"]


def per_row(seed: int) -> MatrixSchedule:
    """Another path for every row and latent, with noise left at its end."""
    falls = torch.rand(3, 10, FRAMES, generator=torch.Generator().manual_seed(seed))
    return MatrixSchedule(torch.cat((torch.ones(3, 1, FRAMES), falls), dim=1).cummin(dim=1).values)


def sample(model, observation, schedule):
    generator = torch.Generator().manual_seed(3)
    return denoise(
        model, observation, schedule, frames=FRAMES, action_steps=STEPS, clock=Clock.linear(), generator=generator
    )


def rerun(step):
    """A stand-in for a CUDA graph: the same buffers in, the same buffers out."""
    outputs = step()

    def replay():
        for buffer, new in zip(tree_leaves(outputs), tree_leaves(step()), strict=True):
            if isinstance(buffer, torch.Tensor):
                buffer.copy_(new)

    rerun.captures += 1
    return outputs, replay


@pytest.fixture(autouse=True)
def no_captures():
    rerun.captures = 0


@pytest.mark.parametrize("layout", ["full", "joint", "fastwam"])
def test_a_captured_step_follows_every_input(layout, make_model):
    model = make_model(layout)
    graphed = GraphedModel(model, capture=rerun)
    for observation in observations():
        for schedule in (SharedSchedule(), per_row(0), per_row(1)):
            ours, plain = sample(graphed, observation, schedule), sample(model, observation, schedule)
            assert torch.equal(ours.actions, plain.actions)
            assert torch.equal(ours.latents, plain.latents)
    assert rerun.captures == 1
    one_row = Observation(latent=torch.randn(1, 4, 1, 4, 6), context=torch.randn(1, 8, 10), state=torch.randn(1, 6))
    sample(graphed, one_row, SharedSchedule())
    assert rerun.captures == 2  # another shape is another graph


def assigned(model):
    model.load_state_dict({name: 2 * tensor for name, tensor in model.state_dict().items()}, assign=True)


@pytest.mark.parametrize("change", [assigned, lambda model: model.double(), merge_adapters])
def test_a_step_is_captured_anew_once_weights_lie_elsewhere(change, make_model):
    model, observation = make_model(), observations()[0]
    if change is merge_adapters:
        pytest.importorskip("peft", reason="adapters need the extra `lora`")
        add_adapters(model, {"video": Adapter(rank=2)})
    graphed = GraphedModel(model, capture=rerun)
    for _ in range(2):
        sample(graphed, observation, SharedSchedule())
    assert rerun.captures == 1
    change(model)
    found = sample(graphed, observation, SharedSchedule())
    assert rerun.captures == 2
    assert torch.equal(found.actions, sample(model, observation, SharedSchedule()).actions)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    sample(graphed, observation, SharedSchedule())
    assert rerun.captures == 2  # where they are, weights are read anew


def test_a_captured_step_runs_actions_alone(make_model):
    model = make_model("fastwam")
    graphed = GraphedModel(model, capture=rerun)
    for observation in observations():
        ours, plain = (
            denoise_actions(
                one,
                observation,
                frames=FRAMES,
                action_steps=STEPS,
                clock=Clock.linear(),
                generator=torch.Generator().manual_seed(3),
            )
            for one in (graphed, model)
        )
        assert torch.equal(ours, plain)
    assert rerun.captures == 1


def test_predictions_of_a_captured_step_outlive_the_next(make_model, inputs):
    model = make_model("full")
    graphed = GraphedModel(model, capture=rerun)
    context = model.encode_context(inputs.context)
    rest = (inputs.video_times, inputs.action_time, context, inputs.state)
    first = graphed(inputs.video, inputs.actions, *rest)
    kept = first.video.clone()
    graphed(-inputs.video, inputs.actions, *rest)
    assert torch.equal(first.video, kept)


def test_a_captured_step_wants_cached_text_and_a_gpu(make_model, inputs):
    with pytest.raises(ConfigurationError, match="encode_context"):
        inputs.call(GraphedModel(make_model(), capture=rerun))
    if not CUDA:
        with pytest.raises(ConfigurationError, match="need a CUDA device"):
            cuda_graph(lambda: None)


def train(model, optimizer, step, device="cpu"):
    """Losses and weights of three optimiser steps, with a mixture in the second."""
    seen = []
    for number in range(3):
        source = torch.Generator(device).manual_seed(number)
        shapes = {"video": (4, 4, 3, 4, 6), "actions": (4, 5, 7), "context": (4, 8, 10), "state": (4, 6)}
        batch = Stage1Batch(
            **{name: torch.randn(shape, generator=source, device=device) for name, shape in shapes.items()},
            labelled=torch.arange(4, device=device) < 2 + number if number else None,
        )
        draw = Stage1Recipe().draw(
            batch.video.shape, batch.actions.shape, generator=source, device=torch.device(device)
        )
        optimizer.zero_grad()
        seen.append(torch.stack(step(batch, draw)).detach())
        optimizer.step()
    return [*seen, *(parameter.detach() for parameter in model.parameters())]


def eagerly(model):
    def step(batch, draw):
        losses = stage1_loss(model, batch, Stage1Recipe(), draw=draw)
        losses.total.backward()
        return losses

    return step


def graphed_loss(model, **options) -> GraphedLoss:
    parameters = model.parameters()
    return GraphedLoss(lambda batch, draw: stage1_loss(model, batch, Stage1Recipe(), draw=draw), parameters, **options)


def test_a_captured_training_step_trains_as_the_eager_one(make_model):
    plain, model = make_model(), make_model()
    expected = train(plain, torch.optim.AdamW(plain.parameters(), lr=1e-2), eagerly(plain))
    found = train(model, torch.optim.AdamW(model.parameters(), lr=1e-2), graphed_loss(model, capture=rerun))
    assert all(torch.equal(*pair) for pair in zip(expected, found, strict=True))
    assert rerun.captures == 2  # without labels and with them
    assert not torch.equal(expected[0], expected[1])


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="CUDA graphs need a CUDA device")
def test_a_cuda_graph_trains_as_the_eager_step(make_model):
    plain, model = make_model().cuda(), make_model().cuda()
    expected = train(plain, torch.optim.AdamW(plain.parameters(), lr=1e-3, fused=True), eagerly(plain), "cuda")
    found = train(model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), graphed_loss(model), "cuda")
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("backend", "layout"), [("eager", "full"), ("aot_eager", "joint")])
def test_a_chunk_is_one_compiled_graph_whatever_the_schedule(backend, layout, make_model):
    plain, model = (make_model(layout, num_layers=1) for _ in "ab")
    counter = CompileCounterWithBackend(backend)
    torch._dynamo.reset()
    model.compile(backend=counter, fullgraph=True, dynamic=False)
    for observation in observations():
        for schedule in (SharedSchedule(), per_row(0), per_row(1)):
            ours, theirs = sample(model, observation, schedule), sample(plain, observation, schedule)
            torch.testing.assert_close(ours.actions, theirs.actions, rtol=0, atol=1e-4)
            torch.testing.assert_close(ours.latents, theirs.latents, rtol=0, atol=1e-4)
    assert counter.frame_count == 1


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="CUDA graphs need a CUDA device")
@pytest.mark.parametrize("layout", ["full", "joint", "fastwam"])
def test_a_cuda_graph_gives_the_eager_chunk(layout, make_model):
    model = make_model(layout).cuda()
    graphed = GraphedModel(model)
    for observation in observations("cuda"):
        for schedule in (SharedSchedule(), per_row(0)):
            ours, plain = sample(graphed, observation, schedule), sample(model, observation, schedule)
            torch.testing.assert_close(ours.actions, plain.actions, rtol=0, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="only a GPU can be waited for")
def test_the_host_never_waits_for_the_gpu_within_a_step(make_model, inputs):
    model = make_model("joint").cuda()
    moved = [tensor.cuda() for tensor in (inputs.video, inputs.actions, inputs.video_times, inputs.action_time)]
    context, state = model.encode_context(inputs.context.cuda()), inputs.state.cuda()
    with torch.no_grad():
        model(*moved, context, state)
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(*moved, context, state)
        finally:
            torch.cuda.set_sync_debug_mode("default")
