"""The sweep for each start: which value is chosen, what is done again, what is refused; one with real runs."""

import json

import pytest

from radnet_jax import sweep, train
from radnet_jax.errors import NotFiniteError, UserError
from radnet_jax.evaluation import ledger
from radnet_jax.parts import assemble
from tests import tiny

SWEEP = dict(field="schedule.base_lr", candidates=(1e-4, 3e-4, 1e-3), total_steps=2)


def config(dataset, **changes):
    variant = "smoke,scratch,size=24"
    schedule = dict(name="warmup_cosine", base_lr=3e-4, warmup_steps=2)
    changes = dict(total_steps=4, schedule=schedule, sweep=SWEEP, tags=tiny.TAGS) | changes
    return tiny.config("configs/finetune/body_region.py", variant, dataset, **changes)


class Trials:
    """Stands for the loop: notes what is run, and gives each rate a metric of its own."""

    def __init__(self, values):
        self.values, self.ran = values, []

    def __call__(self, trial, folder):
        rate = trial.schedule.base_lr
        self.ran.append(rate)
        assert trial.total_steps == 2
        assert trial.schedule.warmup_steps == 1  # of 2 in 4
        assert not trial.sweep.field
        assert folder.parent.name == "trials"
        if self.values[rate] is None:
            raise NotFiniteError("step 1 is not finite")
        return {"metrics": {"val": {"accuracy": {"value": self.values[rate], "reason": ""}}}}


def choose(dataset, workdir, trials, **changes):
    asked = config(dataset, **changes)
    return sweep.choose(asked, assemble(asked), workdir, trials)


@pytest.mark.parametrize(
    ("values", "chosen"),
    [((0.5, 0.7, 0.6), 3e-4), ((0.7, 0.7, 0.6), 1e-4), ((None, 0.1, None), 3e-4), ((0.1, 0.2, float("nan")), 3e-4)],
)
def test_the_best_on_val_is_chosen_of_equals_the_smallest(ct_dataset, tmp_path, values, chosen):
    trials = Trials(dict(zip(SWEEP["candidates"], values, strict=True)))
    resolved, told = choose(ct_dataset, tmp_path, trials)
    assert resolved.schedule.base_lr == told["chosen"] == chosen
    assert resolved.total_steps == 4
    assert trials.ran == [1e-4, 3e-4, 1e-3]
    assert [t["value"] for t in told["trials"]] == list(SWEEP["candidates"])
    assert [t["score"] for t in told["trials"]] == [None if v is None or v != v else v for v in values]


def test_what_is_done_is_not_done_again_and_stands_for_this_run_only(ct_dataset, tmp_path):
    class KilledError(Exception):
        pass

    class Dies(Trials):
        def __call__(self, trial, folder):
            if self.ran:
                raise KilledError
            return super().__call__(trial, folder)

    scores = {1e-4: 0.5, 3e-4: 0.7, 1e-3: 0.6}
    with pytest.raises(KilledError):
        choose(ct_dataset, tmp_path, Dies(scores))
    trials = Trials(scores)
    assert choose(ct_dataset, tmp_path, trials)[0].schedule.base_lr == 3e-4
    assert trials.ran == [3e-4, 1e-3]
    with pytest.raises(UserError, match="trials of another config"):
        choose(ct_dataset, tmp_path, trials, seed=1)


def test_no_value_that_works_is_told(ct_dataset, tmp_path):
    with pytest.raises(UserError, match=r"no value of config.sweep.candidates.*not finite.*smaller values"):
        choose(ct_dataset, tmp_path, Trials(dict.fromkeys(SWEEP["candidates"])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(sweep=SWEEP | dict(candidates=(1e-3,))), "two or more different numbers"),
        (dict(sweep=SWEEP | dict(candidates=(1e-3, 1e-3))), "two or more different numbers"),
        (dict(sweep=SWEEP | dict(candidates=(0.0, 1e-3))), "above 0"),
        (dict(sweep=SWEEP | dict(field="schedule.base_rate")), "config.sweep.field.*schedule.base_lr"),
        (dict(sweep=SWEEP | dict(field="backbone.name")), "config.sweep.field"),
        (dict(sweep=SWEEP | dict(total_steps=5)), "1 to config.total_steps=4"),
        (dict(select=dict(every=0, split="train")), "which must be judged"),
        (dict(select=dict(every=0, split="test"), judged_weights="last"), "would choose on the test split"),
    ],
)
def test_a_sweep_that_can_not_be_run_is_refused(ct_dataset, changes, message):
    asked = config(ct_dataset, **changes)
    with pytest.raises(UserError, match=message):
        train.check(asked, assemble(asked))


def test_a_run_sweeps_then_trains_and_logs_all_weights(ct_dataset, tmp_path):
    asked = config(ct_dataset, sweep=SWEEP | dict(candidates=(1e-4, 1e-3)))
    train.run(asked, tmp_path)
    run = ledger.read_run(tmp_path)
    told = run.record["sweep"]
    assert told["chosen"] in (1e-4, 1e-3)
    assert run.record["config"]["schedule"]["base_lr"] == told["chosen"]
    assert told["chosen"] == max(told["trials"], key=lambda t: t["score"])["value"]
    assert set(run.record["metrics_of_weights"]) == {"last", "average", "best"}
    assert run.record["weights"] == "best"
    assert not list((tmp_path / "trials").glob("*"))  # nothing that could be taken for a run
    before = (tmp_path / "run.json").stat().st_mtime_ns
    train.run(asked, tmp_path)
    assert (tmp_path / "run.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="a finished run of another config"):
        train.run(config(ct_dataset), tmp_path)
    assert json.loads((tmp_path / "trials.json").read_text())["results"].keys() == {"0.0001", "0.001"}
