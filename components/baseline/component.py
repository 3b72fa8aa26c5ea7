"""A network that nobody searched."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("train"), packages_to_install=[], install_kfp_package=False)
def baseline(
    config: str,
    run: str,
    dataset: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
) -> None:
    """Training of a network that nobody searched.

    Args:
        config: The stage's configuration as JSON.
        run: The pipeline run as JSON.
        dataset: Reference to an artifact.
        model: Reference to the artifact that this stage makes.
    """
    from fpnas.stages.entry import main

    main("baseline", config, run, {"dataset": dataset.path}, model.path)
