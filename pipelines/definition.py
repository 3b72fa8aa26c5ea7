"""The pipelines, once: every engine runs or compiles these."""

from kfp import dsl

from components.baseline.component import baseline
from components.coarse.component import coarse
from components.decode.component import decode
from components.distill.component import distill
from components.fine.component import fine
from components.prepare.component import prepare
from components.register.component import register
from components.train.component import train


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
    dataset = prepare(config=prepare_config, run=run).outputs["dataset"]
    coarse_state = coarse(config=coarse_config, run=run, dataset=dataset).outputs["search_state"]
    fine_state = fine(
        config=fine_config, run=run, dataset=dataset, search_state=coarse_state
    ).outputs["fine_search_state"]
    architecture = decode(config=decode_config, run=run, search_state=fine_state).outputs[
        "architecture"
    ]
    trained = train(
        config=train_config, run=run, dataset=dataset, architecture=architecture
    ).outputs["model"]
    distilled = distill(
        config=distill_config, run=run, dataset=dataset, architecture=architecture
    ).outputs["model"]
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
    dataset = prepare(config=prepare_config, run=run).outputs["dataset"]
    baseline(config=baseline_config, run=run, dataset=dataset)
