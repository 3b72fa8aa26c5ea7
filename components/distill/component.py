"""Training from scratch with a teacher."""

from kfp import dsl

from components.images import image


@dsl.component(base_image=image("train"), packages_to_install=[], install_kfp_package=False)
def distill(
    config: str,
    run: str,
    dataset: dsl.Input[dsl.Dataset],
    architecture: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Model],
) -> None:
    """Training from scratch with a teacher.

    Args:
        config: The stage's configuration as JSON.
        run: The pipeline run as JSON.
        dataset: Reference to an artifact.
        architecture: Reference to an artifact.
        model: Reference to the artifact that this stage makes.
    """
    from fpnas.stages.entry import main

    main(
        "distill",
        config,
        run,
        {"dataset": dataset.path, "architecture": architecture.path},
        model.path,
    )
