import json
import resource

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from wam_backbone.cache import write_tensors
from wam_backbone.data import TensorCache, digest_of, folder_digest, weights_digest
from wam_backbone.errors import CacheError

RECORD = {"codec": "tiny", "frames": [1, 2, 3]}
ROWS = [3, 3, 2]


class Maker:
    """Makes rows that say who they are, counts its work, and dies where it is told to."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.made: list[int] = []
        self.dies_at = dies_at

    def __call__(self, shard):
        if shard == self.dies_at:
            raise KeyboardInterrupt
        self.made.append(shard)
        rows = torch.arange(3 * shard, 3 * shard + ROWS[shard])
        return {"clip": rows[:, None, None].float().expand(-1, 2, 4), "half": rows.half()}


def shard_of(root, shard):
    return next(root.glob(f"*/shard-{shard:05d}.safetensors"))


def test_rows_come_back_in_any_order_and_type(tmp_path):
    cache = TensorCache.build(tmp_path, RECORD, ROWS, Maker())
    assert len(cache) == 8
    rows = torch.tensor([7, 0, 3, 3])
    assert torch.equal(cache.read("clip", rows), rows[:, None, None].float().expand(-1, 2, 4))
    assert cache.read("half", rows).dtype == torch.float16
    assert json.loads(next(tmp_path.glob("*/index.json")).read_text())["record"] == RECORD


def test_what_is_there_is_not_made_again(tmp_path):
    TensorCache.build(tmp_path, RECORD, ROWS, Maker())
    again = Maker()
    TensorCache.build(tmp_path, RECORD, ROWS, again)
    assert again.made == []


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        TensorCache.build(tmp_path, RECORD, ROWS, Maker(dies_at=1))
    resumed = Maker()
    assert len(TensorCache.build(tmp_path, RECORD, ROWS, resumed)) == 8
    assert resumed.made == [1, 2]


@pytest.mark.parametrize("bytes_kept", [0, 40, -1])
def test_a_half_written_shard_is_made_again(bytes_kept, tmp_path):
    TensorCache.build(tmp_path, RECORD, ROWS, Maker())
    path = shard_of(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:bytes_kept])
    repaired = Maker()
    cache = TensorCache.build(tmp_path, RECORD, ROWS, repaired)
    assert repaired.made == [1]
    assert cache.read("half", torch.tensor([4])).item() == 4


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path):
    write_tensors(tmp_path / "whole.safetensors", {"row": torch.ones(4)}, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises((SafetensorError, OSError)):
            write_tensors(tmp_path / "whole.safetensors", {"row": torch.ones(1 << 16)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in tmp_path.iterdir()] == ["whole.safetensors"]
    assert load_file(tmp_path / "whole.safetensors")["row"].tolist() == [1.0] * 4


def test_another_record_is_another_cache_and_a_misplaced_shard_is_made_again(tmp_path):
    retrained = RECORD | {"codec": "retrained"}
    TensorCache.build(tmp_path / "old", RECORD, ROWS, Maker())
    other = Maker()
    TensorCache.build(tmp_path / "old", retrained, ROWS, other)
    assert other.made == [0, 1, 2]
    assert len(list((tmp_path / "old").iterdir())) == 2
    TensorCache.build(tmp_path / "new", retrained, ROWS, Maker())
    stale = next(path for path in (tmp_path / "old").iterdir() if not (tmp_path / "new" / path.name).exists())
    shard_of(tmp_path / "new", 2).write_bytes((stale / "shard-00002.safetensors").read_bytes())
    again = Maker()
    TensorCache.build(tmp_path / "new", retrained, ROWS, again)
    assert again.made == [2]


def test_processes_share_the_work(tmp_path):
    second = Maker()
    with pytest.raises(CacheError, match=r"\[0, 2\].*missing or damaged"):
        TensorCache.build(tmp_path, RECORD, ROWS, second, part=(1, 2))
    first = Maker()
    assert len(TensorCache.build(tmp_path, RECORD, ROWS, first, part=(0, 2))) == 8
    assert (first.made, second.made) == ([0, 2], [1])


def test_shards_of_another_size_than_announced_are_refused(tmp_path):
    with pytest.raises(CacheError, match="needs 3 rows"):
        TensorCache.build(tmp_path, RECORD, [3], lambda _: {"clip": torch.zeros(2, 4)})
    with pytest.raises(CacheError, match="at least one"):
        TensorCache.build(tmp_path, RECORD, [], Maker())


def test_what_is_not_there_is_named(tmp_path):
    cache = TensorCache.build(tmp_path, RECORD, ROWS, Maker())
    with pytest.raises(CacheError, match=r"`latents` is not in.*clip"):
        cache.read("latents", torch.tensor([0]))
    with pytest.raises(CacheError, match="holds 8"):
        cache.read("clip", torch.tensor([8]))


def test_a_cache_is_mapped_not_loaded(tmp_path):
    def resident() -> int:
        status = open("/proc/self/status").read()  # noqa: SIM115, PTH123
        return int(status.split("RssAnon:")[1].split()[0])

    cache = TensorCache.build(tmp_path, {}, [64], lambda _: {"clip": torch.randn(64, 250_000)})
    del cache
    before = resident()
    cache = TensorCache.build(tmp_path, {}, [64], lambda _: pytest.fail("made again"))
    read = cache.read("clip", torch.tensor([5, 60]))
    assert read.shape == (2, 250_000)
    assert resident() - before < 16_000  # kilobytes, of 64,000 in the file


def test_digests_change_with_what_they_are_made_of(tmp_path):
    assert digest_of({"a": 1, "b": [2.5, None]}) == digest_of({"b": [2.5, None], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": "1"})
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).bfloat16()
    before = weights_digest(module)
    assert weights_digest(module) == before
    module[1].running_mean[0] += 1
    assert weights_digest(module) != before
    assert weights_digest(module.half()) != weights_digest(module.float())

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights").write_bytes(b"12")
    first = folder_digest(tmp_path)
    (tmp_path / "sub" / "weights").write_bytes(b"13")
    assert folder_digest(tmp_path) != first
    with pytest.raises(CacheError, match="holds no files"):
        folder_digest(tmp_path / "nowhere")
