import pytest
import torch
import torch.nn.functional as F

from wam_backbone import ShapeError, attention_mass, blocks, mass_by_time


@pytest.mark.parametrize(("layout", "unseen"), [("full", []), ("joint", []), ("idm", []), ("fastwam", [1, 2])])
def test_the_mass_is_that_of_the_attention_really_used(layout, unseen, make_model, inputs, monkeypatch):
    model = make_model(layout)
    with torch.no_grad(), attention_mass(model) as record:
        inputs.call(model)
    mass = record.stacked()
    assert mass.shape == (1, 2, 3, 2, 3)  # calls, layers, batch, heads, frames

    # What attention returns for values that mark the frame of each token is the mass itself.
    markers = F.pad(torch.eye(3).repeat_interleave(6, dim=0), (0, 9, 0, 6)).view(1, 24, 1, 12).expand(3, 24, 2, 12)
    attend, seen = blocks._attend, []

    def marked(turned, values, plan):
        seen.append(attend(turned, markers, plan)[-1][:, 1:, :, :3].mean(dim=1))  # without the state token
        return attend(turned, values, plan)

    monkeypatch.setattr(blocks, "_attend", marked)
    with torch.no_grad():
        inputs.call(model)
    torch.testing.assert_close(mass[0], torch.stack(seen), rtol=0, atol=1e-6)
    assert mass[..., unseen].sum() == 0
    assert bool((mass.sum(dim=-1) < 1).all())


def test_probing_changes_no_output_and_ends_with_the_context(make_model, inputs):
    model = make_model()
    with torch.no_grad():
        plain = inputs.call(model)
        with attention_mass(model) as record:
            probed = inputs.call(model)
            inputs.call(model)
        inputs.call(model)
    assert torch.equal(plain.actions, probed.actions)
    assert len(record.calls) == 2


def test_mass_is_averaged_in_bins_of_the_latents_own_time():
    mass = torch.tensor([[0.1, 0.3], [0.5, 0.7]]).view(2, 1, 1, 1, 2).expand(2, 3, 1, 4, 2)
    times = torch.tensor([[[0.0, 0.2]], [[0.9, 1.0]]])
    curve = mass_by_time(mass, times, bins=4)
    assert curve.shape == (4, 3)
    torch.testing.assert_close(curve[0], torch.full((3,), 0.2))
    torch.testing.assert_close(curve[3], torch.full((3,), 0.6))
    assert bool(curve[1:3].isnan().all())
    with pytest.raises(ShapeError, match="`times` are"):
        mass_by_time(mass, times[:1])
