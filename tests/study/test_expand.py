"""From a study's config to its jobs: what is refused, what needs what, what it will take. Nothing is compiled here."""

import json

from ml_collections import ConfigDict
import pytest

from radnet_jax import sharding
from radnet_jax.errors import UserError
from radnet_jax.evaluation import ledger
from radnet_jax.main import load_config
from radnet_jax.preprocessing import ModelInput
from radnet_jax.starts import Start
from radnet_jax.study import check, costs, expand, naming, processes, run, spec
from tests.study.test_study import TINY, tiny_config
from tests.tiny import ROOT

STUDIES = ROOT / "configs" / "studies"


def changed(**sections):
    """The tiny study with fields of named parts added or replaced: tasks__again=..., blocks__one=..."""
    config = tiny_config().to_dict()
    for place, value in sections.items():
        *outer, name = place.split("__")
        section = config
        for key in outer:
            section = section[key]
        section[name] = value
    return ConfigDict(config).lock()


def jobs(config, workdir):
    return {job.name: job for job in run.all_runs(spec.read(config), workdir)}


def chain():
    config = tiny_config().to_dict()
    second = {**config["pretraining"]["ct"], "start": "natural", "audit": True}
    second["config"] = {
        **second["config"],
        "input": None,
        "adapter": config["tasks"]["body_region"]["adapters"]["photo"],
    }
    return changed(pretraining__sequential=second, starts__sequential={"pretraining": "sequential"})


def test_a_pretraining_may_go_on_from_a_start(tmp_path):
    study = spec.read(chain())
    found = jobs(chain(), tmp_path)
    second = found["pretrain sequential"]
    assert second.needs == ("build-ct", "pretrain-natural")
    assert second.config.init_from == str(tmp_path / "runs" / "pretraining" / "natural")
    assert study.modality("sequential", "body_region") == "photo"  # the first of the chain says what it sees
    judged = found["body_region fine_tune sequential seed 0"]
    assert judged.config.adapter.channels == "repeat"
    assert "pretrain-sequential" in judged.needs


def test_a_task_looks_for_the_images_of_a_chain_among_its_own(tmp_path):
    audited = chain().to_dict()
    audited["pretraining"]["sequential"]["dataset"] = "leaves"
    found = jobs(ConfigDict(audited).lock(), tmp_path)
    assert found["body_region fine_tune sequential seed 0"].config.audit.sources == [
        str(tmp_path / "datasets" / "leaves")
    ]
    assert found["body_region fine_tune natural seed 0"].config.audit.sources == ()
    own = jobs(chain(), tmp_path)["body_region fine_tune sequential seed 0"]
    assert own.config.audit.sources == ()  # its own images: pretraining saw none of val and test


def test_label_fractions_and_blocks_are_parts_of_the_matrix(tmp_path):
    found = jobs(
        changed(
            blocks__all=dict(protocols=("fine_tune",)),
            blocks__few=dict(protocols=("fine_tune",), starts=("ct",), fractions=(1.0, 0.5), seeds=(0, 7)),
        ),
        tmp_path,
    )
    downstream = [name for name in found if not name.startswith("pretrain")]
    assert len(downstream) == 3 * 2 + 1 + 2  # seed 0 of all labels is in both blocks
    few = found["body_region fine_tune fraction_0.5 ct seed 7"].config
    assert few.data.subset.to_dict() == {"fraction": 0.5, "shots": 0}
    assert few.tags.fraction == 0.5


def test_a_task_may_have_its_own_config_for_a_fraction(tmp_path):
    config = tiny_config().to_dict()
    own = config["protocols"]["fine_tune"]["config"]
    configs = {"fine_tune": own, naming.at("fine_tune", 0.5): own | dict(total_steps=2)}
    found = jobs(
        changed(
            tasks__body_region=config["tasks"]["body_region"] | dict(configs=configs),
            blocks__one=dict(protocols=("fine_tune",), fractions=(1.0, 0.5)),
        ),
        tmp_path,
    )
    assert found["body_region fine_tune fraction_0.5 ct seed 0"].config.total_steps == 2
    assert found["body_region fine_tune ct seed 0"].config.total_steps == 3


def weights(modality="photo", **backbone):
    see = ModelInput(modality, 3, (24, 24), (), (0.0, 255.0), (0.5,) * 3, (0.5,) * 3)
    return Start("imported", TINY | backbone, see, None)


def test_imported_weights_bring_their_network_and_what_they_see(tmp_path, monkeypatch):
    (tmp_path / "starts" / "moco").mkdir(parents=True)
    monkeypatch.setattr(spec, "_found", lambda folder: weights(padding="same"))
    config = changed(starts__moco={"weights": "moco"}, weights_root=str(tmp_path / "starts"))
    job = jobs(config, tmp_path)["body_region fine_tune moco seed 1"]
    assert job.config.init_from == str(tmp_path / "starts" / "moco")
    assert job.config.backbone.padding == "same"
    assert job.config.adapter.channels == "repeat"
    assert job.needs == ("build-ct",)
    probes = [n for n in jobs(config, tmp_path) if "linear_probe moco" in n]
    assert len(probes) == 1  # one checkpoint: the seed of a probe varies nothing


def test_imported_weights_that_are_missing_are_named_with_their_command(tmp_path):
    config = changed(starts__moco={"weights": "moco", "needs": "import it: this way"}, weights_root=str(tmp_path))
    study = spec.read(config)
    with pytest.raises(UserError, match=r"no imported weights 'moco' for start 'moco'.*import it: this way"):
        check.check_study(study, run.all_runs(study, tmp_path), sharding.make_mesh())


def test_a_dataset_that_is_not_built_is_named_with_its_command(tmp_path):
    config = changed(
        datasets__ct=dict(dataset="radnet", built="archive", options=dict(size=24, splits=("train", "val"))),
        data_root=str(tmp_path),
    )
    study = spec.read(config)
    command = rf"python -m data_prep.build --dataset=radnet --source=RAW --out={tmp_path}/archive --size=24"
    with pytest.raises(UserError, match=f"'ct' of the study is not built.*{command} --splits=train,val"):
        check.check_study(study, run.all_runs(study, tmp_path), sharding.make_mesh())


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (dict(blocks__one=dict(protocols=("fine_tun",))), "unknown protocol of block 'one'.*\"fine_tune\""),
        (dict(blocks__one=dict(fractions=(0.0,))), "fraction of block 'one'"),
        (dict(blocks__one=dict(seeds=(1, 1))), "must be different"),
        (dict(blocks__one=dict(task=("body_region",))), "no argument 'task'"),
        (dict(protocols__new={}), "protocol 'new' has no config for task 'body_region'"),
        (dict(starts__two={"pretraining": "ct", "weights": "x"}), "a pretraining and imported weights"),
        (dict(starts__again={"pretraining": "ct"}), "are the same run under two names"),
        (dict(pretraining__ct__start="ct"), "starts from itself"),
        (dict(pretraining__ct__start="cct"), 'did you mean "ct"'),
        (dict(tasks__body_region__external={"x": dict(dataset="ct")}), "needs the argument.* labels"),
        (dict(datasets__mix=dict(dataset="mixture", mix={"xt": 1.0}, options={})), "member of mixture"),
        (dict(claims=dict(heartbeat=0.0, missed=8)), "claims.heartbeat"),
        (dict(job=99), "config.job"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_runs(tmp_path, sections, message):
    with pytest.raises(UserError, match=message):
        run.run(changed(**sections), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_the_folder_of_another_study_is_refused(tmp_path):
    def look(config):
        study = spec.read(config)
        check.check_folder(study, run.all_runs(study, tmp_path), tmp_path)

    look(tiny_config())
    look(tiny_config(seeds=(0, 1, 2)))  # it has grown
    look(tiny_config())
    assert len(json.loads((tmp_path / check.STUDY_FILE).read_text())["configs"]) > len(jobs(tiny_config(), tmp_path))
    with pytest.raises(UserError, match="it holds the study"):
        look(tiny_config(name="another"))
    config = tiny_config().to_dict()
    config["protocols"]["fine_tune"]["config"]["total_steps"] = 4
    with pytest.raises(UserError, match=r"a run 'body_region-fine_tune-ct-seed-0' of another config.*6 of"):
        look(ConfigDict(config).lock())


def finished(job, seconds):
    """Makes a run look finished: its time is all that is read of it."""
    record = {key: None for key in (*ledger._KEYS, *ledger._JUDGED_KEYS)}
    record |= dict(format=1, kind="finetune", task_kind="single_label", timings={"total_s": seconds})
    job.place.mkdir(parents=True)
    (job.place / "run.json").write_text(json.dumps(record))


def test_costs_come_from_finished_runs_where_there_are_some(tmp_path):
    study = spec.read(tiny_config())
    runs = run.all_runs(study, tmp_path)
    found = {job.name: job for job in runs}
    modelled = costs.estimates(study, runs)
    assert {modelled[job.id].how for job in runs if job.config.run == "train"} == {"model"}
    assert {modelled[job.id].how for job in runs if job.config.run == "probe"} == {""}  # of a dataset not built yet
    finished(found["pretrain ct"], 600.0)
    finished(found["body_region fine_tune ct seed 0"], 100.0)
    finished(found["body_region fine_tune natural seed 0"], 300.0)
    estimated = costs.estimates(study, runs)
    assert estimated["body_region-fine_tune-scratch-seed-1"] == (200.0, "same")
    assert estimated["pretrain-natural"] == (pytest.approx(600.0), "like")  # as many examples, the same network
    told = list(costs.lines(study, runs, tmp_path))
    assert sum(line.split()[1] == "finished" for line in told) == 3
    assert any("waiting" in line and "natural seed 1" in line for line in told)
    assert any("of unknown cost" in line for line in told)


def test_the_arithmetic_of_a_backbone_is_counted():
    # ResNet-50 at 224 px: 4.1e9 multiply-adds (He et al. 2015 count 3.8e9 with the stride elsewhere).
    assert costs.forward_flops('{"name": "resnet50"}', 224, 224, 3) == pytest.approx(2 * 4.1e9, rel=0.05)


@pytest.mark.parametrize(
    ("number", "count", "gpus", "expected"),
    [
        (3, 8, [], {}),
        (3, 8, [str(i) for i in range(8)], {"CUDA_VISIBLE_DEVICES": "3"}),
        (3, 4, ["0", "5"], {"CUDA_VISIBLE_DEVICES": "5", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45"}),
    ],
)
def test_each_process_has_a_gpu_of_its_own(number, count, gpus, expected):
    assert processes.environment_of(number, count, gpus) == expected


def test_gpus_are_those_that_the_environment_leaves():
    assert processes.visible_gpus({"CUDA_VISIBLE_DEVICES": "2,3"}) == ["2", "3"]
    assert processes.visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert processes.visible_gpus({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "2"}) == []


@pytest.mark.parametrize(
    ("kind", "gpus", "cores", "gib", "expected"),
    [
        ("gpu", 8, 128, 1024, 8),
        ("gpu", 8, 128, 18, 4),  # the host has no memory for more
        ("gpu", 1, 16, 128, 1),
        ("gpu", 0, 16, 128, 1),  # hidden from this process
        ("tpu", 0, 240, 400, 1),
        ("cpu", 0, 2, 16, 1),
        ("cpu", 0, 16, 64, 4),
        ("cpu", 0, 16, 9, 2),
        ("cpu", 0, 16, 0, 1),  # a system that does not say its memory
        ("gpu", 4, 16, 0, 4),
    ],
)
def test_as_many_jobs_at_once_as_fit(kind, gpus, cores, gib, expected):
    assert processes.fit(kind, gpus=gpus, cores=cores, memory=gib * 2**30) == expected


def test_how_many_fit_is_asked_of_a_command_only(monkeypatch):
    monkeypatch.setattr(processes.machine, "cores", lambda: 64)
    monkeypatch.setattr(processes.machine, "memory", lambda: (0, 2**40, 2**40))
    assert processes.fitting(100) == 1  # in this process there is no command to start again
    monkeypatch.setattr(processes.sys, "orig_argv", ["python", "-m", "radnet_jax.main"])
    assert processes.fitting(100) == 16
    assert processes.fitting(3) == 3  # jobs that are left
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert processes.fitting(100) == 1  # the run has its processes already


def test_what_a_process_may_use_of_its_machine(tmp_path, monkeypatch):
    from radnet_jax import machine

    limits = {"memory": ["max", str(3 * 2**30)], "": ["max 100000", "150000 100000"]}
    monkeypatch.setattr(machine, "_settings", lambda kind, name, version: limits["memory" if "mem" in name else kind])
    free, limit, total = machine.memory()
    assert 0 < free <= limit == min(3 * 2**30, total)
    assert machine.cores() == 1


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.py")), ids=lambda p: p.stem)
def test_every_job_of_a_study_is_one_that_can_be_checked(path, tmp_path):
    if "def get_config" not in path.read_text():
        return
    config = load_config(path).to_dict() | {"list": True}
    study = spec.read(ConfigDict(config).lock())
    runs = run.all_runs(study, tmp_path)
    assert len(runs) > 10
    for job in check._one_of_each([job for job in runs if isinstance(job, expand.Run)]):
        check.check_names(job.config, sharding.make_mesh(1))


@pytest.mark.parametrize("study", ["radnet", "transfer_benchmark"])
@pytest.mark.parametrize("protocol", ["corrected", "published"])
def test_a_dataset_of_a_study_is_built_as_its_task_asks(study, protocol):
    config = load_config(STUDIES / f"{study}.py", f"protocol={protocol}")
    for name, task in config.tasks.items():
        dataset = config.datasets[task.dataset]
        have = {f"--dataset={dataset.dataset}", *(f"--{k}={v}" for k, v in dataset.options.items())}
        for own in task.configs.values():
            words = own.dataset_command.split() if own.get("dataset_command") else []
            wanted = {w for w in words if w.startswith("--") and not w.startswith(("--source=", "--out="))}
            assert wanted <= have, name
