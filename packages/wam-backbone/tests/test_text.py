import pytest
import torch

from wam_backbone import ConfigurationError, HashTextEncoder


def test_instructions_are_padded_with_zeros_to_a_fixed_length():
    tokens = HashTextEncoder(dim=16, length=6).encode(["press the bell", "", "one two three four five six seven"])
    assert tokens.shape == (3, 6, 16)
    assert bool((tokens[0, :3].abs().sum(dim=1) > 0).all())
    assert bool((tokens[0, 3:] == 0).all())
    assert bool((tokens[1] == 0).all())
    assert bool((tokens[2].abs().sum(dim=1) > 0).all())


def test_a_word_is_the_same_in_any_case_and_differs_by_place():
    encoder = HashTextEncoder()
    tokens = encoder.encode(["Press the bell.", "press THE bell .", "bell the press ."])
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0, 0], tokens[2, 2])  # another place
    assert torch.equal(tokens[0, 1], tokens[2, 1])


def test_word_vectors_are_standard_normal_and_unrelated():
    encoder = HashTextEncoder(dim=64, length=1)
    vectors = encoder.encode([f"word{index}" for index in range(1000)])[:, 0]
    vectors = vectors - torch.cat((torch.zeros(32), torch.ones(32)))  # place 0
    assert abs(vectors.mean()) < 0.02
    assert abs(vectors.std() - 1) < 0.02
    cosine = torch.nn.functional.normalize(vectors, dim=1)
    off_diagonal = (cosine @ cosine.T - torch.eye(1000)).abs()
    assert off_diagonal.mean() < 0.15


def test_embeddings_are_those_of_every_other_machine():
    tokens = HashTextEncoder(dim=8, length=4).encode(["lift the pot"])[0]
    recorded = [-1.4332674741744995, 0.8551383018493652, 0.9209720492362976, 0.18709805607795715]
    torch.testing.assert_close(tokens[0, :4], torch.tensor(recorded), rtol=0, atol=1e-6)
    assert tokens[2, 7].item() == pytest.approx(0.8149710893630981, abs=1e-6)


@pytest.mark.parametrize(("dim", "length"), [(7, 4), (0, 4), (8, 0)])
def test_sizes_that_cannot_work_are_refused(dim, length):
    with pytest.raises(ConfigurationError):
        HashTextEncoder(dim=dim, length=length)
