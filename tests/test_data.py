"""Lanes: every record once an epoch, in an order that only the run's seed decides."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lom_core.batch import Row
from lom_core.config import DataConfig
from lom_core.data import Lane, LanePlan, LaneState, Reader, Stream, checked, crop
from lom_core.distributed import World
from lom_core.errors import BadRecord, ConfigError, DataError, TooManyBadRecords
from lom_core.loader import Loader, Part, eval_batches, open_sources
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.roles import Dataset, Record, Tokeniser, Tokens
from lom_core.seeds import Permutation, mix, splitmix
from lom_core.sources import ConcatSource, ListSource
from lom_core.tally import Tally

X = ModalityConfig(name="x", input_size=1, position={"kind": "index", "max_positions": 500})
Y = ModalityConfig(name="y", vocab_size=4)
REGISTRY = ModalityRegistry([X, Y])


class Lengths:
    """Record i has lengths[i] tokens of value i; length 0 is a bad record."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Record:
        n = self.lengths[index]
        if not n:
            raise BadRecord("empty", row=index)
        return {"x": np.full((n, 1), index, np.float32), "id": str(index)}


def stream_of(source: Lengths) -> Stream:
    def open_at(start: int) -> Iterator[Record]:
        return (source[i] for i in range(start, len(source)))

    return Stream(open_at, window=64)


def rows_of(
    source: Any, plan: LanePlan, lane: int, n: int, state: LaneState | None = None
) -> list[Any]:
    reader = Reader(source, REGISTRY, plan.block_size)
    lanes = iter(Lane(reader, plan, lane, state or LaneState()))
    return [next(lanes) for _ in range(n)]


def values(row: Row) -> list[int]:
    return [int(i) for i in row.ids]


# ------------------------------------------------------------------------------------- orders


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_permutation_is_one(n: int, seed: int) -> None:
    order = Permutation(n, seed)
    assert sorted(order(i) for i in range(n)) == list(range(n))


def test_permutation_looks_random_and_depends_on_the_seed() -> None:
    n = 20_000
    first, second = (np.array([Permutation(n, seed)(i) for i in range(n)]) for seed in (1, 2))
    assert abs(np.corrcoef(first, np.arange(n))[0, 1]) < 0.03
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert np.mean(first == second) < 0.001
    with pytest.raises(IndexError):
        Permutation(5, 0)(5)


def test_permutation_of_a_billion_needs_no_list() -> None:
    order = Permutation(10**9, 3)
    assert len({order(i) for i in range(1000)}) == 1000


def test_mix_is_splitmix() -> None:
    assert mix(5) == int(splitmix(np.array([5], dtype=np.uint64))[0])
    assert mix(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 seeded with 0


# -------------------------------------------------------------------------------------- lanes


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=4, max_size=40), st.integers(1, 4), st.booleans())
def test_each_usable_record_once_an_epoch(lengths: list[int], lanes: int, shuffle: bool) -> None:
    if not any(lengths) or not shuffle:
        lengths = [n or 1 for n in lengths]  # in order, a lane may meet nothing but bad ones
    plan = LanePlan(lanes=lanes, block_size=32, seed=7, shuffle=shuffle, max_bad_fraction=1.0)
    seen: collections.Counter[int] = collections.Counter()
    for lane in range(lanes):
        reader = Reader(Lengths(lengths), REGISTRY, plan.block_size)
        running = Lane(reader, plan, lane, LaneState())
        # All this lane's samples of the first two epochs, however they are packed.
        while running.next * lanes + lane < 2 * len(lengths):
            running._pull()
        for number, observation in running.pool:
            if number < 2 * len(lengths):
                seen[int(observation.id)] += 1
    assert seen == {i: 2 for i, n in enumerate(lengths) if n}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=3, max_size=30), st.integers(0, 12), st.integers(1, 8))
def test_a_lane_resumes_exactly_anywhere(lengths: list[int], after: int, look_ahead: int) -> None:
    plan = LanePlan(lanes=2, block_size=48, seed=1, shuffle=True, look_ahead=look_ahead)
    source = Lengths(lengths)
    whole = rows_of(source, plan, 1, after + 4)
    state = whole[after - 1].state if after else None
    resumed = rows_of(source, plan, 1, 4, state)
    for a, b in zip(whole[after:], resumed, strict=True):
        assert a.row.ids == b.row.ids and a.state == b.state
        assert (a.row.seeds == b.row.seeds).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_rows_hold_what_they_say(lengths: list[int]) -> None:
    plan = LanePlan(lanes=1, block_size=40, seed=3, shuffle=True)
    for lane_row in rows_of(Lengths(lengths), plan, 0, 5):
        row = lane_row.row
        assert 0 < row.used <= 40
        span = row.spans["x"]
        starts = np.concatenate([[0], np.cumsum(row.lengths)[:-1]])
        expected = [
            (start + 1 + j, int(i))
            for start, n, i in zip(starts, row.lengths, row.ids, strict=True)
            for j in range(n - 1)
        ]
        assert [
            (int(s), int(c)) for s, c in zip(span.slots, span.content[:, 0], strict=True)
        ] == expected


def test_look_ahead_fills_rows() -> None:
    rng = np.random.default_rng(0)
    source = Lengths(rng.integers(10, 200, 2000).tolist())
    waste = {}
    for look_ahead in (1, 8, 32):
        plan = LanePlan(lanes=1, block_size=1024, seed=0, shuffle=True, look_ahead=look_ahead)
        used = [r.row.used for r in rows_of(source, plan, 0, 100)]
        waste[look_ahead] = 1 - np.mean(used) / 1024
    assert waste[8] < 0.02 < waste[1]
    assert waste[32] <= waste[8]


def test_a_longer_observation_is_cropped_and_counted() -> None:
    plan = LanePlan(lanes=1, block_size=16, seed=0)
    lane_row = rows_of(Lengths([100]), plan, 0, 1)[0]
    assert lane_row.row.used == 16 and lane_row.tally.cropped == 1
    x, y = (
        Tokens(np.arange(n)[:, None], np.arange(n, dtype=np.float32)[:, None]) for n in (30, 10)
    )
    kept = crop({"x": x, "y": y}, 20, seed=1)
    assert {name: len(t) for name, t in kept.items()} == {"x": 15, "y": 5}
    for t in kept.values():
        assert (np.diff(t.content[:, 0]) == 1).all()
    assert crop({"x": x}, 20, seed=None)["x"].content[0, 0] == 0
    label = {"x": x, "label": y[:1]}  # a label is never what a long observation loses
    for room in (2, 3, 20, 30):
        assert {n: len(t) for n, t in crop(label, room, 1).items()} == {"x": room - 1, "label": 1}
    assert len(crop(label, 1, 1)) == 1
    assert len({int(crop({"x": x}, 20, seed=s)["x"].content[0, 0]) for s in range(30)}) > 3


def test_a_record_that_went_bad_while_the_run_rested_is_counted() -> None:
    plan = LanePlan(lanes=1, block_size=16, seed=0)
    state = rows_of(Lengths([5] * 40), plan, 0, 1)[0].state
    assert state.carried
    gone = [5] * 40
    gone[int(state.carried[0])] = 0
    (row,) = rows_of(Lengths(gone), plan, 0, 1, state)
    assert row.tally.bad == {"empty": 1} and len(row.row.ids) == 2


def test_a_lane_of_bad_records_gives_up() -> None:
    plan = LanePlan(lanes=1, block_size=16, seed=0)
    with pytest.raises(TooManyBadRecords, match="1000 of 1000"):
        rows_of(Lengths([0, 0]), plan, 0, 1)


@pytest.mark.parametrize(("lanes", "shares"), [(4, 1), (4, 2), (6, 3)])
def test_rows_do_not_depend_on_ranks(lanes: int, shares: int) -> None:
    source = Lengths([3 + i % 11 for i in range(50)])
    reader = Reader(source, REGISTRY, 32)

    def steps(world: int) -> list[list[str]]:
        plan = {
            "block_size": 32,
            "batch_size": 1,
            "gradient_accumulation_steps": lanes,
            "dataset": {"kind": "python", "target": "a:b"},
        }
        config = DataConfig.model_validate(plan)
        ranks = [World(rank, world) for rank in range(world)]
        loaders = [iter(Loader(reader, config, 5, rank.lanes(config))) for rank in ranks]
        return [
            [i for loader in loaders for row in next(loader) for i in row.ids] for _ in range(6)
        ]

    assert steps(1) == steps(shares)


# ------------------------------------------------------------------------- streams, evaluation


def test_a_stream_reads_every_record_and_starts_over() -> None:
    source = Lengths([5] * 10)
    plan = LanePlan(lanes=2, block_size=6, seed=0, shuffle=True)
    stream = stream_of(source)
    reader = Reader(stream, REGISTRY, 6)
    lanes = [iter(Lane(reader, plan, k, LaneState())) for k in (0, 1)]
    ids = [int(i) for _ in range(10) for lane in lanes for i in next(lane).row.ids]
    assert ids == [*range(10), *range(10)]


def test_a_stream_resumes_exactly() -> None:
    source = Lengths([1 + i % 7 for i in range(23)])
    plan = LanePlan(lanes=1, block_size=16, seed=0)
    whole = rows_of(stream_of(source), plan, 0, 20)
    resumed = rows_of(stream_of(source), plan, 0, 10, whole[9].state)
    assert [r.row.ids for r in whole[10:]] == [r.row.ids for r in resumed]


def test_streams_cannot_be_put_together() -> None:
    with pytest.raises(DataError, match="a stream's length is known at its end"):
        ConcatSource({"a": stream_of(Lengths([1]))}, {"a": 1})


def test_an_empty_stream_is_told() -> None:
    with pytest.raises(DataError, match="no record"):
        rows_of(stream_of(Lengths([])), LanePlan(lanes=1, block_size=8, seed=0), 0, 1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=40), st.integers(1, 4))
@example([2, 20, 0], 1)  # the last one is met when no row is left to count it
def test_evaluation_reads_each_record_once(lengths: list[int], batch_size: int) -> None:
    config = DataConfig.model_validate(
        {"dataset": {"kind": "python", "target": "a:b"}, "block_size": 24, "batch_size": batch_size}
    )
    reader = Reader(Lengths(lengths), REGISTRY, 24)
    tally, ids = Tally(), []
    for rows, seen in eval_batches(reader, config):
        assert len(rows) == batch_size  # one shape for all: the last batch is filled up
        tally.add(seen)
        ids += [int(i) for row in rows for i in row.ids]
    assert sorted(ids) == [i for i, n in enumerate(lengths) if n]
    if any(lengths):
        assert tally.seen == len(lengths) and tally.n_bad == lengths.count(0)


class Ten(Dataset):
    n: int = 10

    def build(self, registry: ModalityRegistry) -> Lengths:
        return Lengths([1] * self.n)


@pytest.mark.parametrize("n", [2, 3, 10, 101])
def test_held_out_records_are_disjoint_from_training(n: int) -> None:
    config = DataConfig(dataset=Ten(n=n), val_fraction=0.2)
    train, named = open_sources(config, REGISTRY, seed=4)
    parts = [sorted(int(s[i]["id"]) for i in range(len(s))) for s in (train, named["val"])]
    assert sorted(parts[0] + parts[1]) == list(range(n))
    assert len(parts[1]) == max(1, round(0.2 * n))
    assert isinstance(train, Part)


def test_nothing_to_hold_out() -> None:
    with pytest.raises(DataError, match=r"cannot be split; name validation sets"):
        open_sources(DataConfig(dataset=Ten(n=1)), REGISTRY, 0)
    with pytest.raises(DataError, match="has no record"):
        open_sources(DataConfig(dataset=Ten(n=0)), REGISTRY, 0)


# ----------------------------------------------------------------------------- the contract


def tokens(**changes: Any) -> Tokens:
    parts = {
        "content": np.ones((3, 1), np.float32),
        "positions": np.zeros((3, 1), np.float32),
        "weights": None,
    }
    return Tokens(**{**parts, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"content": [[1.0], [1.0], [1.0]]}, "no numpy array as content \\(list\\)"),
        ({"positions": None}, "no numpy array as positions"),
        ({"content": np.ones((3, 2), np.float32)}, "content of the wrong shape"),
        ({"positions": np.zeros((2, 1), np.float32)}, "positions of the wrong shape"),
        ({"weights": np.ones((3, 4), np.float32)}, "weights of the wrong shape"),
        ({"weights": -np.ones((3, 1), np.float32)}, "weights that are negative or not finite"),
        ({"weights": np.zeros((3, 1), np.float32)}, "no observed value"),
        (
            {"content": np.array([[1], [np.nan], [2]], np.float32)},
            "an observed value that is not finite",
        ),
        ({"content": np.full((3, 1), 1e300)}, "an observed value that is not finite"),
        ({"content": np.full((3, 1), 1j)}, r"content that is no number \(complex128"),
        ({"content": np.full((3, 1), "a")}, r"content that is no number \(<U1"),
        ({"positions": np.full((3, 1), np.inf, np.float32)}, "a position that is not finite"),
        ({"positions": np.full((3, 1), 1e300)}, "a position that is not finite"),
        ({"positions": np.full((3, 1), 0.7, np.float32)}, "a position that is no whole number"),
        (
            {"positions": np.full((3, 1), 500, np.float32)},
            "a position outside the index table of 500",
        ),
    ],
)
def test_tokens_that_break_the_contract_are_bad_records(
    changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadRecord, match=reason):
        checked(tokens(**changes), X)


def test_what_is_no_tokens_is_a_bad_record() -> None:
    plain: Any = (np.ones((3, 1)), np.zeros((3, 1)))
    with pytest.raises(BadRecord, match=r"encode\(\) gave no lom_core.Tokens \(tuple\)"):
        checked(plain, X)


@pytest.mark.parametrize("error", [ValueError("no flux"), KeyError("no flux"), OSError("no flux")])
def test_what_a_tokeniser_cannot_read_is_a_bad_record(error: Exception) -> None:
    class Fails(Tokeniser):
        def encode(self, value: Any) -> Tokens:
            raise value

        def decode(self, tokens: Tokens) -> Any:
            return None

    registry = ModalityRegistry([ModalityConfig(name="x", tokeniser=Fails())])
    reader = Reader(ListSource([]), registry, 8)
    with pytest.raises(BadRecord, match=rf"^r7: x: cannot be encoded \({type(error).__name__}: "):
        reader.tokens({"x": error, "id": "r7"})
    for ours in (ConfigError("pip install it"), TypeError("a mistake in its code")):
        with pytest.raises(type(ours)):
            reader.tokens({"x": ours})


def test_what_was_not_observed_becomes_neutral() -> None:
    weights = np.array([[1], [0], [2]], np.float32)
    content = np.array([[5], [np.nan], [6]], np.float32)
    positions = np.array([[1], [np.nan], [2]], np.float32)
    good = checked(tokens(content=content, positions=positions, weights=weights), X)
    assert good.content.tolist() == [[5], [0], [6]] and good.positions.tolist() == [[1], [0], [2]]
    with pytest.raises(BadRecord, match="a token outside the vocabulary"):
        checked(Tokens(np.array([0, 4, 1]), np.zeros((3, 1), np.float32)), Y)
    with pytest.raises(BadRecord, match="a token that is no whole number"):
        checked(Tokens(np.array([0, 1.5, 1]), np.zeros((3, 1), np.float32)), Y)


def test_stored_dtypes_travel_as_they_are() -> None:
    for dtype in (np.uint8, np.int16, np.float32):
        assert checked(tokens(content=np.ones((3, 1), dtype)), X).content.dtype == dtype


def test_a_record_without_any_modality_of_the_run_is_bad() -> None:
    class Other(Lengths):
        def __getitem__(self, index: int) -> Record:
            return {"z": 1}

    with pytest.raises(BadRecord, match="no modality of this run was observed"):
        Reader(Other([1]), REGISTRY, 8).read(0, None)


def test_modalities_can_be_shuffled_within_observations() -> None:
    class Both(Lengths):
        def __getitem__(self, index: int) -> Record:
            return {"y": np.zeros(2, np.int64), "x": np.ones((2, 1), np.float32)}

    fixed, shuffled = (Reader(Both([1] * 20), REGISTRY, 8, shuf) for shuf in (False, True))
    assert {tuple(fixed.read(i, i).tokens) for i in range(20)} == {("x", "y")}
    assert {tuple(shuffled.read(i, i).tokens) for i in range(20)} == {("x", "y"), ("y", "x")}
    assert tuple(shuffled.read(0, None).tokens) == ("x", "y")  # evaluation keeps the order
