"""Masks of whole splits: windows, slices put together to volumes, what is kept of each case, and its metrics."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from radnet_jax import sharding
from radnet_jax.data.card import DatasetCard
from radnet_jax.errors import UserError
from radnet_jax.evaluation import masks, segmentation
from radnet_jax.evaluation.masks import metrics_of
from radnet_jax.evaluation.metrics import METRICS, task_kinds
from radnet_jax.evaluation.metrics.conventions import CONVENTIONS
from radnet_jax.evaluation.metrics.overlap import LITS, measure, measure_slices, per_case, stack
from radnet_jax.evaluation.segmentation import Rules, predict_masks
from radnet_jax.evaluation.statistics.draws import resample_counts
from radnet_jax.evaluation.statistics.weighted import plain_loop, weighted_metric
from radnet_jax.evaluation.windows import in_windows, window_starts
from radnet_jax.preprocessing import ModelInput, StoredPixels, make_adapter

SIZE = 12


@pytest.mark.parametrize(("side", "window", "overlap"), [(12, 12, 0.5), (13, 12, 0.5), (40, 16, 0.5), (40, 16, 0.0)])
def test_windows_cover_a_side_and_overlap(side, window, overlap):
    starts = window_starts(side, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == side - window
    gaps = np.diff(starts)
    assert (gaps <= window * (1 - overlap) + 0.5).all()
    assert len(starts) == 1 or (side - window) / (len(starts) - 1) <= window * (1 - overlap)


def test_what_is_seen_of_a_pixel_alone_needs_no_weights():
    """A network of 1x1 convolutions gives the same in any window, whatever the weighting."""
    image = jax.random.normal(jax.random.key(0), (2, 20, 14, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 4))
    run = lambda x: jnp.tanh(x @ kernel)  # noqa: E731
    for weighting in ("gaussian", "uniform"):
        np.testing.assert_allclose(in_windows(run, image, (8, 8), 0.5, weighting), run(image), atol=1e-5)


def test_one_window_is_the_network_itself():
    image = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    run = lambda x: jnp.cumsum(x, axis=1)  # noqa: E731
    assert (in_windows(run, image, (8, 8)) == run(image)).all()


def test_overlapping_windows_are_averaged():
    image = jnp.zeros((1, 4, 8, 1))
    run = lambda x: jnp.broadcast_to(jnp.arange(4.0)[None, None, :, None], x.shape)  # noqa: E731
    # Windows start at 0, 2 and 4: pixel 3 is the fourth of the first and the second of the second.
    got = in_windows(run, image, (4, 4), 0.5, "uniform")[0, 0, :, 0]
    np.testing.assert_allclose(got, [0, 1, (2 + 0) / 2, (3 + 1) / 2, (2 + 0) / 2, (3 + 1) / 2, 2, 3])
    middle = in_windows(run, image, (4, 4), 0.5, "gaussian")[0, 1, :, 0]
    assert 1.9 < middle[4] < 2  # of the second window's third pixel, 2, and the third one's first, 0


class FakeSplit:
    """Records in memory, as `Split` gives them: shuffled slices of two volumes, and two images of none."""

    def __init__(self, spacing=True):
        rng = np.random.default_rng(0)
        series, number = ["a", "", "b", "a", "b", "", "a"], [2, -1, 0, 0, 1, -1, 1]
        self.images = rng.choice(np.array([20, 100, 200], np.uint8), (7, SIZE, SIZE, 1))
        self.truth = rng.integers(0, 3, (7, SIZE, SIZE)).astype(np.uint8)
        self.truth[2, :4] = 255
        self.truth[5] = 255
        stored = StoredPixels("XR", "none", (0.0, 255.0), (SIZE, SIZE), 1, "pad_area", "uint8")
        self.card = DatasetCard("fake", "1", "none", (), stored, {"test": 7}, "0", segmentation=("liver", "tumour"))
        self.name = "test"
        mm = 0.5 if spacing else None
        self.columns = {
            "split": ["test"] * 7,
            "case_id": [f"c{i}" for i in range(7)],
            "patient": ["p1", "p2", "p3", "p1", "p3", "p4", "p1"],
            "series": series,
            "slice": number,
            "position": [None if n < 0 else 4.0 * n for n in number],
            "rows": [24] * 7,
            "columns": [18] * 7,
            "row_spacing": [mm] * 7,
            "column_spacing": [mm] * 7,
            "sex": ["F", "M", "F", "F", "F", None, "F"],
        }

    def __len__(self):
        return 7

    def manifest(self):
        return pa.table(self.columns)

    def allocate(self, size):
        return {
            "image": np.empty((size, SIZE, SIZE, 1), np.uint8),
            "segmentation": np.empty((size, SIZE, SIZE), np.uint8),
        }

    def read_into(self, batch, first, indices):
        for row, index in enumerate(indices, first):
            batch["image"][row], batch["segmentation"][row] = self.images[index], self.truth[index]


def _thirds(params, model_state, batch):
    """Predicts by brightness: a mask that is known beforehand."""
    del params, model_state
    x = batch["image"][..., :1]
    return {"logits": -jnp.abs(x - jnp.asarray([1 / 6, 0.5, 5 / 6]))}


def _of(split, rules=None, **options):
    seen = ModelInput("XR", 3, (SIZE, SIZE), (), (0.0, 255.0), (0.0,) * 3, (1.0,) * 3)
    adapter = make_adapter(split.card.stored, seen)
    rules = rules or Rules(regions="lits", tolerance=1.0, lesions="any_overlap")
    mesh = sharding.make_mesh(1)
    return predict_masks(_thirds, {}, {}, split, rules=rules, adapter=adapter, batch_size=4, mesh=mesh, **options)


@pytest.fixture(scope="module")
def found():
    return _of(FakeSplit())


def _expected(split):
    x = split.images[..., 0] / 255
    return np.argmin(np.abs(x[..., None] - np.array([1 / 6, 0.5, 5 / 6])), axis=-1).astype(np.uint8)


def test_slices_are_put_together_to_volumes(found):
    split = FakeSplit()
    predicted = _expected(split)
    assert found.case_id == ["a", "c1", "b", "c5"]
    assert found.patient == ["p1", "p2", "p3", "p4"]
    assert found.facts == {"sex": ["F", "M", "F", None]}
    assert [len(s) for s in found.masks.slices] == [3, 1, 2, 1]
    for case, rows in enumerate(([3, 6, 0], [1], [2, 4], [5])):
        want = predicted[rows] if len(rows) > 1 else predicted[rows[0]]
        np.testing.assert_array_equal(found.masks.mask(case), want)
    volume, truth = predicted[[3, 6, 0]], split.truth[[3, 6, 0]]
    want = measure(volume, truth, LITS, spacing=(4.0, 1.0, 1.0), tolerance=1.0)  # 24 rows of 0.5 mm in 12 pixels
    for name in ("overlap", "predicted", "truth", "hd95", "nsd"):
        np.testing.assert_array_equal(getattr(found.masks.cases, name)[0], getattr(want, name)[0])
    np.testing.assert_allclose(found.scores, per_case(found.masks.cases, "dice"))
    assert found.masks.cases.regions == ("liver", "tumour")


def test_unknown_pixels_count_nowhere(found):
    split = FakeSplit()
    known = split.truth[[2, 4]] != 255
    volume = np.where(known, _expected(split)[[2, 4]], 0)
    want = measure(volume, np.where(known, split.truth[[2, 4]], 0), LITS)
    np.testing.assert_array_equal(found.masks.cases.predicted[2], want.predicted[0])
    np.testing.assert_array_equal(found.label_mask[:, 0], [1, 1, 1, 0])  # nothing is known of the last case
    assert np.isnan(found.scores[3]).all()
    assert (found.masks.mask(2) != volume).any()  # but what was predicted there is kept


def test_slices_of_all_cases(found):
    split = FakeSplit()
    rows = [3, 6, 0]
    want = measure_slices(_expected(split)[rows], split.truth[rows], LITS)
    of_slices = found.masks.of_slices()
    assert len(of_slices) == 7
    np.testing.assert_array_equal(of_slices.overlap[:3], want.overlap)
    np.testing.assert_array_equal(of_slices.all_known[:, 0], [1, 1, 1, 1, 1, 1, 0])


def test_without_a_spacing_nothing_is_measured_in_mm():
    found = _of(FakeSplit(spacing=False))
    assert found.masks.cases.hd95 is None
    assert found.masks.cases.nsd is None
    lesions = found.masks.cases.lesions[0][0]
    assert np.isnan(lesions.volume).all()
    assert len(lesions.dice) == len(lesions.found) > 0
    assert "hd95_per_volume" not in metrics_of(found.masks, "lits")
    for text in found.masks.to_columns()["lesions"].to_pylist():
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert np.isnan(masks._from_json(found.masks.to_columns()["lesions"][0].as_py())[0].volume).all()


def test_lesions_are_not_left_out_by_a_volume_that_nobody_knows():
    rules = Rules(regions="lits", lesions="brats_2023")
    assert len(_of(FakeSplit(), rules)) == 4
    with pytest.raises(UserError, match=r"mm³; got 4 of 4 cases of split 'test' without a known spacing"):
        _of(FakeSplit(spacing=False), rules)


def test_windows_give_what_whole_images_give_where_they_are_one():
    other = _of(FakeSplit(), Rules(regions="lits", inference="windows"))
    np.testing.assert_array_equal(
        other.masks.cases.predicted, _of(FakeSplit(), Rules(regions="lits")).masks.cases.predicted
    )


def test_masks_come_back_from_a_file(found, tmp_path):
    table = pa.table(found.masks.to_columns())
    pq.write_table(table, tmp_path / "masks.parquet")
    read = masks.Masks.from_table(pq.read_table(tmp_path / "masks.parquet"), ("liver", "tumour"), found.label_mask > 0)
    for name in ("overlap", "predicted", "truth", "hd95", "nsd", "all_known"):
        np.testing.assert_array_equal(getattr(read.cases, name), getattr(found.masks.cases, name))
    for got, want in zip(read.cases.lesions, found.masks.cases.lesions, strict=True):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a.hd95, b.hd95)
            assert (a.volume, a.dice, a.found, a.n_false) == (b.volume, b.dice, b.found, b.n_false)
    for i in range(4):
        np.testing.assert_array_equal(read.mask(i), found.masks.mask(i))
        np.testing.assert_array_equal(read.slices[i], found.masks.slices[i])
    some = read.take([2, 0])
    np.testing.assert_array_equal(some.mask(1), found.masks.mask(0))
    assert len(some.of_slices()) == 5


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 4), (2, 3, 4)])
def test_runs_of_a_mask(shape):
    mask = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    np.testing.assert_array_equal(masks.decode(masks.encode(mask), shape), mask)


def test_runs_that_do_not_fill_the_mask_are_refused():
    with pytest.raises(UserError, match="do not fill it"):
        masks.decode(np.array([1, 3]), (2, 2))


PAIRS = [
    ("dice_per_volume", "per_volume"),
    ("dice_positives_only", "positives_only"),
    ("dice_empty_is_one", "lits_per_case"),
    ("dice_empty_is_one", "brats_2020"),
    ("dice_empty_is_one", "btl_per_image"),
    ("dice_nnunet", "nnunet"),
]


@pytest.mark.parametrize(("name", "convention"), PAIRS)
@pytest.mark.parametrize("case", ["some", "no truth", "nothing", "unknown"])
def test_metrics_of_a_split_are_the_conventions(name, convention, case):
    rng = np.random.default_rng(0)
    parts = []
    for i in range(6):
        p, t = rng.integers(0, 3, (2, 3, 4)), rng.integers(0, 3, (2, 3, 4))
        t = t * 0 if case in ("no truth", "nothing") or i == 1 else np.minimum(t, 1 if i == 2 else 2)
        p = p * 0 if case == "nothing" or i in (1, 3) else p
        parts.append(measure(p, t, LITS))
    cases = stack(parts)
    known = np.ones((6, 2), bool)
    known[: 5 if case == "unknown" else 1, 1] = False
    cases = type(cases)(cases.regions, cases.overlap, cases.predicted, cases.truth, known=known)
    want = CONVENTIONS.get(convention)(cases, "dice")
    got = METRICS.get(name)(per_case(cases, "dice"), (cases.truth > 0).astype(float), known.astype(float))
    np.testing.assert_allclose(got.value, want.value, rtol=1e-12)
    np.testing.assert_allclose(got.per_class, want.per_class, rtol=1e-12)
    assert (got.left_out, got.cases) == (want.left_out, want.cases) or name == "dice_nnunet"
    assert bool(got.reason) == bool(want.reason)


@pytest.mark.parametrize("name", sorted({name for name, _ in PAIRS}))
def test_resampled_patients_are_repeated_cases(name):
    rng = np.random.default_rng(0)
    scores = np.where(rng.random((30, 2)) < [0.2, 0.8], np.nan, rng.random((30, 2)))
    labels, mask = (rng.random((30, 2)) < p for p in (0.5, 0.9))
    group = rng.integers(0, 12, 30)
    given = (scores, labels.astype(float), mask.astype(float), group, 12)
    fast, loop = weighted_metric(name, *given), plain_loop(METRICS.get(name), *given)
    counts = next(resample_counts(12, 50, 0))
    np.testing.assert_allclose(fast(counts), loop(counts), rtol=0, atol=1e-12)
    np.testing.assert_allclose(fast.jackknife(), loop.jackknife(), rtol=0, atol=1e-12)


def test_names_of_metrics_are_metric_and_convention(found):
    values = metrics_of(found.masks, "lits")
    assert values["dice_pooled"] == CONVENTIONS.get("pooled")(found.masks.cases)
    assert {"hd95_per_volume", "nsd_per_volume", "lesion_f1_pooled", "dice_lits_global"} <= set(values)
    assert {"dice_per_slice", "dice_radnet_published"} <= set(values)
    own = {n for n in METRICS.names() if "segmentation" in task_kinds(n)}
    assert own == {n for n, _ in PAIRS}
    for name in own & set(values):
        assert METRICS.get(name)(found.scores, found.labels, found.label_mask).value == pytest.approx(
            values[name].value
        )


def test_a_challenges_conventions_are_for_its_own_regions(found):
    """A liver without its tumours has the same name as LiTS's, and another Dice."""
    for regions in ("lits_without_tumour", "classes"):
        other = _of(FakeSplit(), Rules(regions=regions))
        assert other.masks.cases.regions == found.masks.cases.regions
        names = set(metrics_of(other.masks, regions))
        assert not {"dice_lits_per_case", "dice_lits_global"} & names
        assert "dice_btl_per_image" in names


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("regions", "litz"),
        ("lesions", "brats"),
        ("inference", "window"),
        ("weighting", "gauss"),
        ("overlap", 1.0),
        ("tolerance", -1.0),
    ],
)
def test_bad_rules_are_refused(field, value):
    with pytest.raises(UserError, match=f"config.masks.{field}"):
        Rules(**{field: value})


def test_regions_of_another_dataset_are_refused():
    card = FakeSplit().card
    assert Rules().of(card) == {"liver": (1,), "tumour": (2,)}
    more = DatasetCard("brats", "1", "none", (), card.stored, {}, "0", segmentation=("a", "b", "c"))
    with pytest.raises(UserError, match=r"regions 'lits' is not of dataset brats.*a, b, c"):
        Rules(regions="lits").of(more)
    assert set(Rules(regions="brats").of(more)) == {"ET", "TC", "WT"}
    assert segmentation.TASK == "segmentation"
