"""Embeddings: what they are read from, and pooled by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lom_core
from lom_core.batch import pack_row
from lom_core.config import RunConfig
from lom_core.data import Reader, Stream
from lom_core.embed import (
    Hidden,
    embed,
    embed_checkpoint,
    labels_of,
    reinitialised,
)
from lom_core.embeddings import open_embeddings, write_embeddings
from lom_core.errors import ConfigError, DataError, TooManyBadRecords
from lom_core.model import Lom
from lom_core.roles import Array, Dataset, Record
from lom_core.sources import ListSource
from lom_core.tally import Tally
from lom_core.train import train

MakeRun = Callable[..., RunConfig]
OBJECTIVES: list[Any] = [
    "next_token",
    "any_order",
    {"kind": "masked", "ratio": 0.5},
    {"kind": "prefix", "given": ["word"]},
]


@pytest.fixture
def ready(make_run: MakeRun) -> tuple[Lom, Reader, RunConfig]:
    return prepared(make_run())


def prepared(config: RunConfig) -> tuple[Lom, Reader, RunConfig]:
    torch.manual_seed(0)
    model = Lom(config.registry, config.model).eval()
    source = config.data.dataset.build(config.registry)
    reader = Reader(source, config.registry, config.data.block_size, leads=config.objective.leads)
    model.fit_scales(
        {
            name: [t[name] for i in range(40) if name in (t := reader.tokens(source[i]))]
            for name in model.registry.names()
        }
    )
    return model, reader, config


def joined(*args: Any, **how: Any) -> dict[str, Array]:
    tables = list(embed(*args, **how))
    return {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
@pytest.mark.parametrize("pool", ["mean", "last", "attention"])
def test_a_record_alone_and_in_company_gives_the_same(
    make_run: MakeRun, objective: Any, pool: Any
) -> None:
    model, reader, config = prepared(make_run(objective=objective))
    if config.objective.leads:  # a prefix run shows words, which every third record lacks
        records = [reader.source[i] for i in range(40)]
        reader.source = ListSource([r for r in records if "word" in r])
    together = joined(model, reader, config, pool=pool)
    assert len(together["id"]) == len(reader.source)
    for i in (0, 1, 7):
        alone = joined(model, reader.over(ListSource([reader.source[i]])), config, pool=pool)
        np.testing.assert_allclose(alone["embedding"][0], together["embedding"][i], atol=2e-5)


def test_pools_are_what_they_say(ready: tuple[Lom, Reader, RunConfig]) -> None:
    model, reader, config = ready
    observation = reader.read(1, None)
    row = pack_row([observation], observation.n_slots, model.registry.names())
    batch = config.objective.prepare([row], model.layouts)
    with torch.no_grad():
        h = model.hidden(batch).numpy()
    reader = reader.over(ListSource([reader.source[1]]))
    slots = {name: span.slots.numpy() for name, span in batch.spans.items()}
    got = {p: joined(model, reader, config, pool=p) for p in ("mean", "last", "modality")}
    np.testing.assert_allclose(got["mean"]["embedding"][0], h[1:].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(got["last"]["embedding"][0], h[-1], atol=1e-5)
    for name in ("wave", "word"):
        expected = h[slots[name]].mean(axis=0)
        np.testing.assert_allclose(got["modality"][f"embedding_{name}"][0], expected, atol=1e-5)
    rows = joined(model, reader, config, tokens=True)
    np.testing.assert_allclose(rows["embedding"], h[1:], atol=1e-5)
    assert rows["modality"].tolist() == ["wave"] * len(slots["wave"]) + ["word"] * 6
    assert rows["token"].tolist() == [*range(len(slots["wave"])), *range(6)]
    assert rows["position"][-6:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_attention_pooling_weighs_by_the_layers_own_attention(
    ready: tuple[Lom, Reader, RunConfig],
) -> None:
    """Known answer: the last slot's softmax(q k / sqrt(e)) of a causal model, head by head."""
    model, reader, config = ready
    observation = reader.read(1, None)
    row = pack_row([observation], observation.n_slots, model.registry.names())
    batch = config.objective.prepare([row], model.layouts)
    with torch.no_grad():
        state = Hidden.of(model, batch, 2)
        paid = state.attention_paid(batch)
        attention: Any = model.body.blocks[1].attention
        x = model.body.blocks[1].attention_norm(state.before)
        q, k, _ = attention.qkv(x).chunk(3, dim=-1)
    heads = []
    for at in (slice(0, 16), slice(16, 32)):  # two heads of 16
        heads.append(torch.softmax(k[:, at] @ q[-1, at] / 4, dim=0))
    torch.testing.assert_close(paid, torch.stack(heads).mean(dim=0), atol=1e-5, rtol=1e-4)
    assert float(paid.sum()) == pytest.approx(1, abs=1e-5)
    weights = paid[1:].numpy()
    h = state.h[1:].numpy()
    got = joined(model, reader.over(ListSource([reader.source[1]])), config, pool="attention")
    expected = (h * weights[:, None]).sum(axis=0) / weights.sum()
    np.testing.assert_allclose(got["embedding"][0], expected, atol=1e-5)


def test_an_earlier_layer_is_that_of_a_shallower_model(
    ready: tuple[Lom, Reader, RunConfig], make_run: MakeRun
) -> None:
    model, reader, config = ready
    shallow = Lom(model.registry, make_run(model={"n_layer": 1}).model).eval()
    shallow.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("body.blocks.1.")}
    )
    a = joined(model, reader, config, layer=1)["embedding"]
    np.testing.assert_allclose(a, joined(shallow, reader, config)["embedding"], atol=1e-5)
    assert not np.allclose(a, joined(model, reader, config)["embedding"])
    with pytest.raises(ConfigError, match=r"layer=3; this model has layers 1 to 2"):
        next(embed(model, reader, config, layer=3))


def test_what_is_not_given_changes_nothing(ready: tuple[Lom, Reader, RunConfig]) -> None:
    model, reader, config = ready
    record: Any = reader.source[1]
    without = {k: v for k, v in record.items() if k != "word"}
    shown = joined(model, reader.over(ListSource([record])), config, given=["wave"])
    np.testing.assert_array_equal(
        shown["embedding"], joined(model, reader.over(ListSource([without])), config)["embedding"]
    )
    with pytest.raises(ConfigError, match="did you mean 'wave'"):
        next(embed(model, reader, config, given=["wav"]))


def test_a_modality_that_was_not_observed_has_no_vector(
    ready: tuple[Lom, Reader, RunConfig],
) -> None:
    model, reader, config = ready
    table = joined(model, reader, config, pool="modality")
    assert np.isnan(table["embedding_word"]).all(axis=1).tolist() == [i % 3 == 0 for i in range(40)]
    assert np.isfinite(table["embedding_wave"]).all()


def test_the_untrained_twin_keeps_what_was_fitted(ready: tuple[Lom, Reader, RunConfig]) -> None:
    model, reader, config = ready
    before = torch.get_rng_state()
    twin = reinitialised(model, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(twin.part("wave").scale.shift, model.part("wave").scale.shift)
    assert not torch.equal(twin.bos, model.bos)
    assert torch.equal(twin.bos, reinitialised(model, 5).bos)
    table = joined(model, reader, config, baselines=True)
    assert table["embedding"].shape == table["random_init"].shape == (40, 32)
    assert not np.allclose(table["embedding"], table["random_init"])


def test_raw_tokens_are_the_values_themselves(ready: tuple[Lom, Reader, RunConfig]) -> None:
    """A word is a histogram of letters; a wave its scaled values, averaged in cells of time."""
    model, reader, config = ready
    raw = joined(model, reader, config, baselines=True)["raw_tokens"]
    for i in (1, 3, 5):
        record: Any = reader.source[i]
        histogram = np.zeros(5)
        if i % 3:
            histogram[i % 5] = 1
        assert raw[i, -5:].tolist() == histogram.tolist()
        scaled = model.part("wave").scale(torch.as_tensor(record["wave"].content)).numpy().ravel()
        cells = raw[i, :-5]
        assert cells.min() >= scaled.min() - 1e-5 and cells.max() <= max(scaled.max(), 0) + 1e-5
        assert np.isin(np.round(cells[cells != 0], 4), np.round(scaled, 4)).mean() > 0.5


def test_labels_are_what_stands_beside_the_modalities(
    ready: tuple[Lom, Reader, RunConfig],
) -> None:
    _, reader, _ = ready
    record: Record = {
        **reader.source[1],
        "class": "disc",
        "z": np.float32(0.5),
        "n": torch.tensor(3),
        "image": np.zeros(3),
    }
    assert labels_of(record, reader) == {"class": "disc", "z": 0.5, "n": 3}
    with pytest.raises(DataError, match="a label cannot be named 'embedding'"):
        labels_of({**record, "embedding": 1.0}, reader)


def test_modalities_of_one_token_are_labels_too(make_run: MakeRun) -> None:
    config = make_run(modalities={**make_run().modalities, "z": {"kind": "scalar"}})
    model, reader, config = prepared(config)
    record = {**reader.source[1], "z": {"value": 0.25, "error": 0.1}}
    table = joined(model, reader.over(ListSource([record, reader.source[2]])), config)
    assert table["z"].tolist()[0] == 0.25 and np.isnan(table["z"][1])


def test_too_many_bad_records_stop_it(make_run: MakeRun, waves: str) -> None:
    broken = {"kind": waves, "n": 40, "broken": [3, 5]}
    model, reader, config = prepared(make_run())
    bad = Dataset.model_validate(broken).build(config.registry)
    tally = Tally()
    with pytest.raises(TooManyBadRecords, match="2 of"):
        list(embed(model, reader.over(bad), config, tally=tally))
    allowed = make_run(data={"max_bad_fraction": 0.1})
    tally = Tally()
    table = joined(model, reader.over(bad), allowed, tally=tally)
    assert (tally.seen, tally.n_bad) == (40, 2)
    assert table["id"].tolist() == [str(i) for i in range(40) if i not in (3, 5)]


def test_records_are_read_no_further_than_a_batch_needs(make_run: MakeRun) -> None:
    """A stream is embedded as it comes: what was read when the first table is there is one batch,
    and the record that did not fit."""
    model, reader, config = prepared(make_run(data={"batch_size": 1}))
    source, read = reader.source, []

    def open_at(start: int) -> Any:
        for i in range(start, 40):
            read.append(i)
            yield source[i]

    tables = embed(model, reader.over(Stream(open_at)), config)
    first = next(tables)
    assert len(read) <= len(first["id"]) + 2 <= 6
    rest = list(tables)
    ids = [i for table in [first, *rest] for i in table["id"].tolist()]
    assert ids == [str(i) for i in range(40)]


def test_from_a_checkpoint(make_run: MakeRun, tmp_path: Path, waves: str) -> None:
    train(make_run())
    tables, tally, told = embed_checkpoint(tmp_path / "run", "val", pool="last")
    n = write_embeddings(tmp_path / "e.npz", tables, told)
    assert n == tally.seen == 4
    assert open_embeddings(tmp_path / "e.npz").metadata["given"] == ["wave", "word"]


def test_from_python(make_run: MakeRun, tmp_path: Path) -> None:
    config = make_run(model={"dropout": 0.5})
    train(config)
    model = lom_core.load(tmp_path / "run")
    source = config.data.dataset.build(config.registry)
    records = [source[i] for i in range(30)]
    table = model.embed(records, pool="last")
    alone = model.embed(records[4], pool="last")
    assert table["id"].tolist() == [str(i) for i in range(30)]
    np.testing.assert_allclose(alone["embedding"][0], table["embedding"][4], atol=2e-5)
    with pytest.raises(DataError, match="no record"):
        model.embed([])
    nameless = {"waves": records[0]["wave"], "id": "x"}
    with pytest.raises(DataError, match=r"1 of 1 records are left out, the first: .*no modality"):
        model.embed(nameless)
    with pytest.warns(UserWarning, match="1 of 2 records are left out"):
        assert model.embed([nameless, records[3]])["id"].tolist() == ["3"]
