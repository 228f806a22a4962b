"""What a Ray Tune user writes today: the pipeline as a function, Optuna, ASHA and MLflow, each trial from nothing.

    python -m tests.benchmarks.plain_tune REQUEST.json

The request holds the folder, the split, a configuration and the points of it to try; what became of each goes to
``<folder>/plain-<split>.json``.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

METRIC = "val/miou_all"


def train(params: dict[str, Any], base: dict[str, Any]) -> None:
    from bacs.config import RunConfig
    from bacs.events import RunEnded, StepEnded
    from bacs.run import ContinualRun

    config = copy.deepcopy(base)
    for key, value in params.items():
        section, name = key.split(".")
        config[section][name] = value
    run = ContinualRun(RunConfig.from_dict(config))
    last: dict[str, float] = {}
    for event in run.events():
        if isinstance(event, StepEnded):
            if last:
                tune.report(last)
            last = {point.metric: point.value for point in event.points}
        elif isinstance(event, RunEnded):
            tune.report(last | event.final)


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text())
    folder, points = Path(request["folder"]), request["points"]
    ray.init(num_cpus=request["cpus"], include_dashboard=False, log_to_driver=False)
    space = {
        "loss.buffer_size": tune.lograndint(50, 600),
        "loss.prototype_margin": tune.uniform(-2.2, 2.95),
        "loss.lkd": tune.loguniform(0.005, 2.5),
    }
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train, base=request["config"]), {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            num_samples=len(points),
            search_alg=OptunaSearch(points_to_evaluate=points),
            scheduler=ASHAScheduler(max_t=request["n_steps"]),
        ),
        run_config=tune.RunConfig(
            name=request["split"],
            storage_path=str(folder / "tune"),
            callbacks=[MLflowLoggerCallback(f"sqlite:///{folder}/mlflow.db", experiment_name=request["split"])],
            verbose=0,
        ),
    )
    outcome = []
    for result in tuner.fit():
        assert result.error is None, result.error
        final = {name: value for name, value in result.metrics.items() if name.startswith("final/")}
        params = {name: result.config[name] for name in space}
        outcome.append({"params": params, "final": final})
    (folder / f"plain-{request['split']}.json").write_text(json.dumps(outcome))
    ray.shutdown()


if __name__ == "__main__":
    main()
