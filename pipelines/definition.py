"""The pipelines, once: every engine runs or compiles these."""

from collections.abc import Callable

from kfp import dsl

from components.baseline.component import baseline
from components.coarse.component import coarse
from components.decode.component import decode
from components.distill.component import distill
from components.fine.component import fine
from components.prepare.component import prepare
from components.register.component import register
from components.train.component import train

Place = Callable[[str, dsl.PipelineTask], None]
"""Gives the task of a stage what it needs of a cluster."""


def make_pipeline(place: Place) -> dsl.graph_component.GraphComponent:
    """Builds the pipeline.

    Args:
        place: Called with the name of every stage and its task.
    """

    @dsl.pipeline(
        name="fpnas",
        description="Fast probabilistic neural architecture search: from pictures and a budget in "
        "multiply-accumulates to a trained and registered classifier.",
    )
    def fpnas_pipeline(
        run: str,
        prepare_config: str,
        coarse_config: str,
        fine_config: str,
        decode_config: str,
        train_config: str,
        distill_config: str,
        register_config: str,
    ) -> None:
        """The stages and what passes between them.

        Args:
            run: The pipeline run as JSON.
            prepare_config: Configuration of a stage as JSON; the others likewise.
            coarse_config: See above.
            fine_config: See above.
            decode_config: See above.
            train_config: See above.
            distill_config: See above.
            register_config: See above.
        """

        def placed(task: dsl.PipelineTask) -> dsl.PipelineTask:
            place(task.name, task)
            return task

        dataset = placed(prepare(config=prepare_config, run=run)).outputs["dataset"]
        coarse_state = placed(coarse(config=coarse_config, run=run, dataset=dataset)).outputs[
            "search_state"
        ]
        fine_state = placed(
            fine(config=fine_config, run=run, dataset=dataset, search_state=coarse_state)
        ).outputs["fine_search_state"]
        architecture = placed(
            decode(config=decode_config, run=run, search_state=fine_state)
        ).outputs["architecture"]
        trained = placed(
            train(config=train_config, run=run, dataset=dataset, architecture=architecture)
        ).outputs["model"]
        distilled = placed(
            distill(config=distill_config, run=run, dataset=dataset, architecture=architecture)
        ).outputs["model"]
        placed(
            register(
                config=register_config,
                run=run,
                dataset=dataset,
                coarse=coarse_state,
                fine=fine_state,
                architecture=architecture,
                trained=trained,
                distilled=distilled,
            )
        )

    return fpnas_pipeline


def make_baseline_pipeline(place: Place) -> dsl.graph_component.GraphComponent:
    """Builds the pipeline of a baseline.

    Args:
        place: Called with the name of every stage and its task.
    """

    @dsl.pipeline(
        name="fpnas-baseline",
        description="A network that nobody searched, trained and scored as a searched one is.",
    )
    def baseline_pipeline(run: str, prepare_config: str, baseline_config: str) -> None:
        """The stages of a baseline.

        Args:
            run: The pipeline run as JSON.
            prepare_config: Configuration of a stage as JSON.
            baseline_config: See above.
        """
        prepared = prepare(config=prepare_config, run=run)
        trained = baseline(config=baseline_config, run=run, dataset=prepared.outputs["dataset"])
        place("prepare", prepared)
        place("baseline", trained)

    return baseline_pipeline


BUILDERS = {"fpnas_pipeline": make_pipeline, "baseline_pipeline": make_baseline_pipeline}
"""What builds each pipeline, by its name below."""

# Without a place: what the local engine runs.
fpnas_pipeline = make_pipeline(lambda _name, _task: None)
baseline_pipeline = make_baseline_pipeline(lambda _name, _task: None)
